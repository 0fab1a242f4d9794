import importlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.decode_workers import Failure, killable_map

ACTING = '''
import ctypes, os, signal, threading, time

class KilledWhileSent:
    def __reduce__(self):
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return len, (bytes(100_000_000),)

def act(item):
    """Do what the item says."""
    what, value = item
    first = what.endswith("once") and not os.path.exists(value)
    if first:
        open(value, "w").close()
    match what:
        case "sleep":
            time.sleep(value)
        case "sleep once" if first:
            time.sleep(1000)
        case "kill":
            os.kill(os.getpid(), value)
        case "kill once" if first:
            os.kill(os.getpid(), signal.SIGKILL)
        case "sent":
            return KilledWhileSent()
        case "exit":
            os._exit(value)
        case "segfault":
            ctypes.string_at(0)
        case "raise":
            raise value
        case "lock":
            return lambda: None
    return os.getpid()
'''


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function in a module that fresh processes find."""
    (tmp_path / "acting.py").write_text(ACTING)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("acting").act
    del sys.modules["acting"]


def run(function: Any, items: list[Any], workers: int = 2, deadline: float = 60.0) -> list[Any]:
    results = dict(killable_map(function, items, workers=workers, deadline=deadline))
    assert sorted(results) == list(range(len(items)))
    return [results[number] for number in range(len(items))]


def test_results_belong_to_their_items(act: Any) -> None:
    assert run(math.factorial, list(range(30))) == [math.factorial(n) for n in range(30)]
    assert run(math.factorial, [5], workers=4) == [120]
    assert run(math.factorial, []) == []
    pids = set(run(act, [("pid", None)] * 20))
    assert len(pids) <= 2 and os.getpid() not in pids, "workers live long"


def test_what_may_be_the_machines_fault_is_tried_again_after_all_others(
    act: Any, tmp_path: Path
) -> None:
    """An item that took too long, or whose worker was killed as the system does when memory runs
    out."""
    once = [("sleep once", str(tmp_path / "a")), ("kill once", str(tmp_path / "b"))]
    items = [*once, *[("pid", None)] * 3]
    results = list(killable_map(act, items, workers=1, deadline=2.0))
    assert [number for number, _ in results] == [2, 3, 4, 0, 1]
    assert all(isinstance(result, int) for _, result in results)


@pytest.mark.skipif(os.name == "nt", reason="this system is Windows")
def test_a_hang_or_a_crash_costs_one_item(act: Any) -> None:
    crashed = "the decoder crashed (signal SIGKILL)"
    expected = {
        ("sleep", 1000): "not done after 2 s, the decoder was killed",
        ("kill", signal.SIGKILL): crashed,
        ("sent", None): crashed,
        ("exit", 3): "the decoder crashed (exit status 3)",
        ("segfault", None): "the decoder crashed (signal SIGSEGV)",
        ("raise", ValueError("is damaged")): "is damaged",
        ("raise", KeyError("x")): "KeyError: 'x'",
    }
    fine, unsendable = ("pid", None), ("lock", None)
    items = [item for bad in (*expected, unsendable) for item in (fine, bad)]
    started = time.monotonic()
    results = run(act, items, deadline=2.0)
    assert time.monotonic() - started < 60
    assert all(isinstance(result, int) for result in results[::2])
    assert [failure.reason for failure in results[1:-1:2]] == list(expected.values())
    assert isinstance(results[-1], Failure), "a result that cannot be sent is a failure"


def test_no_process_is_left_behind(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    results = killable_map(act, [("pid", None), ("sleep", 1000)], workers=2, deadline=900)
    next(results)
    results.close()
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert all(process.stdin is not None and process.stdin.closed for process in started)


NO_GUARD = """
import math, sys
from data_prep.decode_workers import killable_map
print("imported", flush=True)
print(sorted(killable_map(math.factorial, [3, 4, 5], workers=2, deadline=60)))
"""


@pytest.mark.parametrize("way", ["file", "input", "module", "command"])
def test_workers_do_not_import_what_was_run(tmp_path: Path, way: str) -> None:
    """As many spawned processes do: the program's first line would be printed once a worker."""
    script = tmp_path / "no_guard.py"
    script.write_text(NO_GUARD)
    arguments = {
        "file": [str(script)],
        "input": ["-"],
        "module": ["-m", "no_guard"],
        "command": ["-c", NO_GUARD],
    }
    done = subprocess.run(
        [sys.executable, *arguments[way]],
        input=NO_GUARD if way == "input" else "",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported\n[(0, 6), (1, 24), (2, 120)]\n"


def test_a_workers_next_item_does_not_wait_for_the_caller(act: Any, tmp_path: Path) -> None:
    second = tmp_path / "begun"
    items = [("pid", None), ("sleep once", str(second))]
    results = killable_map(act, items, workers=1, deadline=900)
    assert next(results)[0] == 0
    for _ in range(600):
        if second.exists():
            break
        time.sleep(0.1)
    results.close()
    assert second.exists()


def test_wrong_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(item: int) -> int:
        return item

    monkeypatch.setattr(decode, "__module__", "__main__")
    monkeypatch.setattr(decode, "__qualname__", "decode")
    monkeypatch.setattr(sys.modules["__main__"], "decode", decode, raising=False)
    for function, workers, deadline, message in [
        (decode, 1, 60, r"decode .*is defined in the script or notebook"),
        (math.factorial, 0, 1.0, "workers is 0"),
        (math.factorial, 1, 0.0, "deadline is 0"),
        (math.factorial, 1, math.nan, "deadline is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(killable_map(function, [1], workers=workers, deadline=deadline))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system is not Linux")
def test_a_hanging_worker_ends_with_its_parent(act: Any, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {[str(Path.cwd()), str(tmp_path)]!r}\n"
        "from acting import act\n"
        "from data_prep.decode_workers import killable_map\n"
        "items = [('pid', None), ('sleep', 1000)]\n"
        "for _, pid in killable_map(act, items, workers=1, deadline=900):\n"
        "    print(pid, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    worker = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not worker.exists() or worker.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker still runs")


def test_a_worker_that_cannot_start_is_an_error(
    act: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "acting.py").write_text("raise ImportError('not in the workers')\n")
    with pytest.raises(RuntimeError, match="could not start: ImportError: not in the workers"):
        run(act, [("pid", None)])
