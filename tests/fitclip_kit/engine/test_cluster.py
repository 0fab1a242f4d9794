"""Tasks inline, as local processes, and as jobs of a SLURM that is played by small scripts."""

import importlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Task
from typing import Any

import psutil
import pytest

from benchmarks.kills import survivors
from fitclip_kit.engine import cluster
from fitclip_kit.engine.cluster import Failure, FanOutFailed, fan_out, fan_out_steps
from fitclip_kit.engine.run import locked
from fitclip_kit.engine.settings import ClusterSettings
from tests.small_project import ROOT, fitclip, interruptible, until

EXECUTORS = ("inline", "local", "slurm")
TASKS = '''
"""What the tests' processes do; each call leaves a mark with its times."""
import os, signal, time
from pathlib import Path

def write(path, seconds=0.0, bad=(), how="raise"):
    """Write the file's own name into it; the attempts named in `bad` fail."""
    path = Path(path)
    marks = path.parent / "marks"
    marks.mkdir(exist_ok=True)
    attempt = len(list(marks.glob(f"{path.name}.*"))) + 1
    mark = marks / f"{path.name}.{attempt}"
    start = time.monotonic()
    mark.write_text(f"{start} {start} {os.getpid()}")
    time.sleep(seconds)
    share = [os.environ.get(name, "unset") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
    mark.write_text(" ".join(map(str, [start, time.monotonic(), os.getpid(), *share])))
    if attempt in bad and how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt in bad:
        raise OSError(f"no room for {path.name}")
    path.write_text(path.name)
'''

# Each job of the played SLURM is a process group whose id and end are kept in $PLAYED.
SBATCH = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[-1]).read()
home = os.environ["PLAYED"]
if "--partition=closed" in text:
    sys.exit("sbatch: error: invalid partition specified: closed")
job = str(1000 + len(os.listdir(home)))
script = os.path.join(home, job + ".sh")  # a copy, as SLURM's: submitit moves its own
open(script, "w").write(text)
array = re.search(r"--array=0-(\\d+)%(\\d+)", text)
for place in range(int(array[1]) + 1) if array else [None]:
    ids = {{"SLURM_JOB_ID": job}}
    if place is not None:
        ids |= {{"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(place)}}
    name = os.path.join(home, job if place is None else f"{{job}}_{{place}}")
    run = f"bash {{script}}; echo $? > {{name}}.end"
    out = open(name + ".out", "w")
    process = subprocess.Popen(
        ["bash", "-c", run], env={{**os.environ, **ids}}, start_new_session=True,
        stdout=out, stderr=out, stdin=subprocess.DEVNULL,
    )
    open(name, "w").write(str(process.pid))
print("Submitted batch job", job)
"""
SRUN = """#!{python}
import os, sys
words = sys.argv[1:]
command = words[next(place for place, word in enumerate(words) if "python" in word):]
job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
job += "_" + os.environ["SLURM_ARRAY_TASK_ID"] if "SLURM_ARRAY_TASK_ID" in os.environ else ""
out = words[words.index("--output") + 1]
for mark, value in {{"%j": job, "%A_%a": job, "%t": "0"}}.items():
    out = out.replace(mark, value)
file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(file, 1), os.dup2(file, 2)
os.execvp(command[0], command)
"""
SQUEUE = """#!{python}
import os
home = os.environ["PLAYED"]
if os.path.exists(home + ".busy"):
    raise SystemExit("slurm_load_jobs error: Unable to contact slurm controller")
for name in os.listdir(home):
    if "." not in name:
        end = os.path.join(home, name + ".end")
        state = "RUNNING" if not os.path.exists(end) else "FAILED" if open(end).read() else "?"
        print(name, "OUT_OF_MEMORY" if state == "FAILED" else state)
"""
SCANCEL = """#!{python}
import os, signal, sys
for job in sys.argv[1:]:
    os.killpg(int(open(os.path.join(os.environ["PLAYED"], job)).read()), signal.SIGKILL)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of tasks that fresh processes can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("own_tasks")
    del sys.modules["own_tasks"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts called as SLURM's commands; returns the folder of the jobs."""
    folder, home = tmp_path / "bin", tmp_path / "played"
    folder.mkdir()
    home.mkdir()
    scripts = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL}
    for name, text in scripts.items():
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(home))
    for name, seconds in {"_LOOK": 0.1, "_ASK": 0.2, "_GRACE": 0.4}.items():
        monkeypatch.setattr(cluster, name, seconds)
    return home


def tasks_of(own: ModuleType, folder: Path, names: str, **options: Any) -> list[Any]:
    folder.mkdir(exist_ok=True)
    writes = {one: partial(own.write, folder / one, **options) for one in names}
    return [Task(name=f"file {one}", do=write) for one, write in writes.items()]


def fan(tasks: list[Any], tmp_path: Path, title: str = "files", **settings: Any) -> list[Failure]:
    return fan_out(tasks, ClusterSettings(**settings), tmp_path / "fan_out", title=title)


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def marks(folder: Path) -> list[tuple[float, float, int]]:
    """Start, end and process of every attempt whose mark is there."""
    texts = [path.read_text().split() for path in sorted(folder.glob("marks/*"))]
    return [(float(text[0]), float(text[1]), int(text[2])) for text in texts if len(text) >= 3]


def most_at_once(folder: Path) -> int:
    times = marks(folder)
    return max(sum(start <= at < end for start, end, _ in times) for at, *_ in times)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_leaves_the_same_and_tries_again(
    executor: str, own: ModuleType, slurm: Path, tmp_path: Path
) -> None:
    tasks = tasks_of(own, tmp_path / "out", "ab")
    tasks += tasks_of(own, tmp_path / "out", "c", bad=(1,))
    if executor != "inline":  # of which no task can be killed alone
        tasks += tasks_of(own, tmp_path / "out", "d", bad=(1,), how="kill")

    raised, *killed = fan(tasks, tmp_path, executor=executor, parallel=2)

    assert written(tmp_path / "out") == {task.name[-1]: task.name[-1] for task in tasks}
    assert len(marks(tmp_path / "out")) == len(tasks) + 1 + len(killed)
    assert (raised.task, raised.attempt) == ("file c", 1)
    assert raised.reason == "OSError: no room for c"
    log = raised.log.read_text()
    assert "Traceback" in log and "file c" in log
    state = {"inline": [], "local": ["FINISHED"], "slurm": ["OUT_OF_MEMORY"]}[executor]
    expected = [("file d", f"the process left no result and is {how}") for how in state]
    assert [(failure.task, failure.reason) for failure in killed] == expected


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_always_fails_is_listed_after_all_else_is_done(
    executor: str, own: ModuleType, slurm: Path, tmp_path: Path
) -> None:
    tasks = tasks_of(own, tmp_path / "out", "ab", bad=(1, 2, 3, 4))
    tasks += tasks_of(own, tmp_path / "out", "cd")

    with pytest.raises(FanOutFailed, match="files: 2 of 4 tasks failed, the other 2 are") as caught:
        fan(tasks, tmp_path, executor=executor, retries=2, parallel=4)

    assert written(tmp_path / "out") == {"c": "c", "d": "d"}
    assert len(marks(tmp_path / "out")) == 2 * 3 + 2
    failures = sorted(caught.value.failures, key=lambda one: one.task)
    assert [(one.task, one.attempt) for one in failures] == [("file a", 3), ("file b", 3)]
    for one in failures:
        assert str(one.log) in str(caught.value) and one.reason in str(caught.value)
        assert one.reason in one.log.read_text()


def test_no_retries_and_no_tasks(own: ModuleType, tmp_path: Path) -> None:
    tasks = tasks_of(own, tmp_path / "out", "a", bad=(1,))
    with pytest.raises(FanOutFailed, match="no room for a"):
        fan(tasks, tmp_path, retries=0)
    assert len(marks(tmp_path / "out")) == 1
    assert fan([], tmp_path / "other", executor="slurm") == []
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="two tasks are called 'file a'"):
        fan(tasks * 2, tmp_path)


def test_local_processes_are_limited_and_know_their_share(own: ModuleType, tmp_path: Path) -> None:
    tasks = tasks_of(own, tmp_path / "out", "abcd", seconds=0.5)
    before = dict(os.environ)
    fan(tasks, tmp_path, executor="local", parallel=2, cpus=3, gpus=2)
    assert sorted(written(tmp_path / "out")) == ["a", "b", "c", "d"]
    assert most_at_once(tmp_path / "out") == 2
    shares = {path.read_text().split(" ", 3)[3] for path in tmp_path.glob("out/marks/*")}
    assert shares == {"3 0,1", "3 2,3"}
    assert dict(os.environ) == before


def test_a_task_is_never_done_twice_at_once(own: ModuleType, tmp_path: Path) -> None:
    tasks = tasks_of(own, tmp_path / "out", "a", seconds=0.3)
    threads = [threading.Thread(target=fan, args=(tasks, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(marks(tmp_path / "out")) == 3
    assert most_at_once(tmp_path / "out") == 1


def test_old_results_are_not_taken_for_new_ones(
    own: ModuleType, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(pool: Any, job: Any) -> None:
        raise KeyboardInterrupt

    tasks = tasks_of(own, tmp_path / "out", "a")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cluster._Submitted, "ended", interrupted)
        fan(tasks, tmp_path, executor="slurm")
    assert list((tmp_path / "fan_out").rglob("*_result.pkl"))
    for path in slurm.iterdir():  # a cluster that counts its jobs anew
        path.unlink()
    fan(tasks, tmp_path, executor="slurm")
    assert len(marks(tmp_path / "out")) == 2


def test_a_busy_controller_is_asked_again(
    own: ModuleType, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = slurm.with_name("played.busy")
    busy.touch()
    asked = itertools.count(1)
    ask = cluster._Queue._ask

    def counting(queue: Any) -> None:
        if next(asked) == 8:  # far past the grace
            busy.unlink()
        ask(queue)

    monkeypatch.setattr(cluster._Queue, "_ask", counting)
    tasks = tasks_of(own, tmp_path / "out", "a", bad=(1,), how="kill")
    [failure] = fan(tasks, tmp_path, executor="slurm")
    assert failure.attempt == 1 and next(asked) > 8
    assert written(tmp_path / "out") == {"a": "a"}


def test_slurm_gets_the_settings(own: ModuleType, slurm: Path, tmp_path: Path) -> None:
    limits = {"parallel": 7, "minutes": 33, "cpus": 4, "gpus": 2, "memory_gb": 1.5}
    more: dict[str, Any] = {"account": "me", "setup": ["export OMP_PLACES=cores"]}
    tasks = tasks_of(own, tmp_path / "out", "ab")
    assert not fan(
        tasks, tmp_path, "two files", executor="slurm", partition="gpu", slurm=more, **limits
    )
    [script] = (tmp_path / "fan_out").glob("*/*_submission.sh")
    text = script.read_text()
    wanted = ["--array=0-1%2", "--time=33", "--cpus-per-task=4", "--gpus-per-node=2"]
    wanted += ["--mem=1536MB", "--partition=gpu", "--account=me", "--job-name=fitclip-two-files"]
    assert not [line for line in [*wanted, *more["setup"]] if line not in text]
    assert "srun --unbuffered" in text and "--cpus-per-task=4 " in text.split("srun")[1]


def test_slurm_that_refuses_or_is_not_there(
    own: ModuleType, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(own, tmp_path / "out", "ab")
    with pytest.raises(RuntimeError, match=r"SLURM refused the jobs: .*invalid partition"):
        fan(tasks, tmp_path, executor="slurm", partition="closed")
    with pytest.raises(ValueError, match="parttion"):
        fan(tasks, tmp_path, executor="slurm", slurm={"parttion": "x"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no sbatch here"):
        fan(tasks, tmp_path, executor="slurm")


DRIVER = """
import sys
from functools import partial
from pathlib import Path
import own_tasks
from types import SimpleNamespace as Task
from fitclip_kit.engine.cluster import fan_out
from fitclip_kit.engine.settings import ClusterSettings
out, executor = Path(sys.argv[1]), sys.argv[2]
tasks = [Task(name=one, do=partial(own_tasks.write, out / one, seconds=60)) for one in "ab"]
fan_out(tasks, ClusterSettings(executor=executor, parallel=2), out.parent / "fan_out", title="x")
"""


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_an_interrupted_call_takes_its_processes_along(
    executor: str, own: ModuleType, slurm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-c", DRIVER, str(out), executor]
    driver = interruptible(command, env={**os.environ, "PYTHONPATH": path})
    until(lambda: len(marks(out)) == 2)
    processes = [psutil.Process(pid) for *_, pid in marks(out)]
    driver.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in driver.communicate(timeout=60)[1]
    assert not survivors(processes, 60)
    assert written(out) == {}


def test_a_failure_is_told_when_all_that_can_be_done_is_done(tmp_path: Path) -> None:
    log: list[str] = []

    def needy() -> Iterator[Any]:
        raise ValueError("no student")

    def broken() -> None:
        raise OSError("no room")

    def fine() -> list[Any]:
        return [Task(name="fine", do=partial(log.append, "fine"))]

    steps = {"a": fine, "b": lambda: [Task(name="draw 1", do=broken)], "c": needy, "d": fine}
    with pytest.raises(FanOutFailed) as caught:
        list(fan_out_steps(steps, ClusterSettings(), tmp_path))
    assert len(log) == 2
    said = str(caught.value).splitlines()
    assert said[0].startswith("a, b, c, d: 1 of 3 tasks failed, the other 2 are done")
    assert said[1].startswith("  - draw 1: OSError: no room (attempt 2; log: ")
    assert said[2:] == ["  - not begun: c"]
    with pytest.raises(ValueError, match="no student"):
        list(fan_out_steps({"c": needy}, ClusterSettings(), tmp_path))


# The command


def command(tmp_path: Path, *options: str, profile: str = "smoke") -> int:
    given = ["--profile", profile, "--runs-dir", str(tmp_path), *options]
    return fitclip(ROOT / "notebooks", "cluster", *given)


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def record(steps: Any, settings: ClusterSettings, folder: Path) -> Iterator[Any]:
        asked.append((list(steps), settings, folder))
        yield "sweep", 3, [Failure("draw 1", 1, "no room", Path("log"))]
        yield "students", 0, []
        if settings.retries == 2:
            raise FanOutFailed("sweep", 3, [])

    monkeypatch.setattr(cluster, "fan_out_steps", record)
    (tmp_path / "cluster.yaml").write_text("executor: slurm\ngpus: 1\n")
    assert command(tmp_path) == 0
    given = ["--settings", str(tmp_path / "cluster.yaml"), "-w", "sweep", "-w", "shares"]
    assert command(tmp_path, *given, "--executor", "local") == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "sweep: 3 tasks done",
        "  done at another attempt: draw 1 (no room; log: log)",
        "students: nothing to do",
    ]
    folder = tmp_path / "smoke" / "fan_out"
    steps = ["frames: shards", "frames: frame stores", "teacher: cells", "students: students"]
    steps += ["sweep: cells"]
    steps += [f"{study}: {kind}" for study in ("sizes", "shares") for kind in ("students", "cells")]
    assert asked[0] == (steps, ClusterSettings(), folder)
    chosen = ["sweep: cells", "shares: students", "shares: cells"]
    assert asked[1] == (chosen, ClusterSettings(executor="local", gpus=1), folder)
    assert os.environ["OMP_WAIT_POLICY"] == "passive"

    (tmp_path / "cluster.yaml").write_text("retries: 2")
    assert command(tmp_path, *given) == 1
    with locked(tmp_path / "smoke"):
        assert command(tmp_path) == 1
    assert "Another run" in capsys.readouterr().err
    assert command(tmp_path, profile="unknown") == 2
    assert command(tmp_path, "-w", "everything") == 2
    assert "no part everything; choose from frames, teacher" in capsys.readouterr().err
    assert command(tmp_path, "--settings", str(tmp_path / "absent.yaml")) == 2
    assert "absent.yaml is not readable" in capsys.readouterr().err
