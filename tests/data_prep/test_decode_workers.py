import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.decode_workers import Failure, available_cores, killable_map

DECODERS = '''
import ctypes, os, signal, time

def act(item):
    """Do what the item says."""
    what, value = item
    if what == "sleep":
        time.sleep(value)
    if what == "sleep once" and not os.path.exists(value):
        open(value, "w").close()
        time.sleep(1000)
    if what == "kill":
        os.kill(os.getpid(), value)
    if what == "kill once" and not os.path.exists(value):
        open(value, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(value)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "raise":
        raise value
    if what == "lock":
        return lambda: None
    return os.getpid()
'''


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function in a module that fresh processes find, as a user's own decoder would be."""
    (tmp_path / "acting_decoder.py").write_text(DECODERS)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    module = importlib.import_module("acting_decoder")
    yield module.act
    del sys.modules["acting_decoder"]


def run(function: Any, items: list[Any], workers: int = 2, deadline: float = 60.0) -> list[Any]:
    results = dict(killable_map(function, items, workers=workers, deadline=deadline))
    assert sorted(results) == list(range(len(items)))
    return [results[number] for number in range(len(items))]


def test_results_belong_to_their_items() -> None:
    assert run(math.factorial, list(range(30))) == [math.factorial(n) for n in range(30)]
    assert run(math.factorial, [5], workers=4) == [120]
    assert run(math.factorial, []) == []


def test_an_item_whose_worker_was_killed_is_tried_once_more(act: Any, tmp_path: Path) -> None:
    """The system does so when memory runs out: the clip is not to blame."""
    survived, again = run(act, [("kill once", str(tmp_path / "mark")), ("kill", signal.SIGKILL)])
    assert isinstance(survived, int)
    assert again == Failure("the decoder crashed (signal SIGKILL)")


def test_an_item_that_took_too_long_is_tried_again_after_all_others(
    act: Any, tmp_path: Path
) -> None:
    """Another program may have taken the machine, or a network disk its time."""
    items = [("sleep once", str(tmp_path / "mark")), *[("pid", None)] * 3]
    found = list(killable_map(act, items, workers=1, deadline=3.0))
    assert [number for number, _ in found] == [1, 2, 3, 0]
    assert all(isinstance(result, int) for _, result in found)


def test_workers_live_long(act: Any) -> None:
    assert len(set(run(act, [("pid", None)] * 20))) <= 2
    assert os.getpid() not in run(act, [("pid", None)])


@pytest.mark.skipif(os.name == "nt", reason="this system is Windows")
def test_a_hang_or_a_crash_costs_one_item(act: Any) -> None:
    fine = ("pid", None)
    items = [
        fine,
        ("sleep", 1000),
        fine,
        ("kill", signal.SIGKILL),
        ("exit", 3),
        fine,
        ("segfault", None),
        ("raise", ValueError("is damaged")),
        ("raise", KeyError("x")),
        ("lock", None),
        fine,
    ]
    started = time.monotonic()
    results = run(act, items, deadline=3.0)
    assert time.monotonic() - started < 60
    assert [r.reason if isinstance(r, Failure) else "fine" for r in results[:9]] == [
        "fine",
        "not done after 3 s, the decoder was killed",
        "fine",
        "the decoder crashed (signal SIGKILL)",
        "the decoder crashed (exit status 3)",
        "fine",
        "the decoder crashed (signal SIGSEGV)",
        "is damaged",
        "KeyError: 'x'",
    ]
    assert isinstance(results[9], Failure), "a result that cannot be sent is a failure"
    assert not isinstance(results[10], Failure)


def test_no_process_is_left_behind(act: Any) -> None:
    results = killable_map(act, [("pid", None), ("sleep", 1000)], workers=2, deadline=900)
    next(results)
    results.close()
    import multiprocessing

    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system is not Linux")
def test_a_hanging_worker_ends_with_its_parent(act: Any, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {[str(Path.cwd()), str(tmp_path)]!r}\n"
        "from acting_decoder import act\n"
        "from data_prep.decode_workers import killable_map\n"
        "if __name__ == '__main__':\n"
        "    items = [('pid', None), ('sleep', 1000)]\n"
        "    for _, pid in killable_map(act, items, workers=1, deadline=900):\n"
        "        print(pid, flush=True)\n"
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
    (tmp_path / "acting_decoder.py").write_text("raise ImportError('not in the workers')\n")
    with pytest.raises(RuntimeError, match="could not start"):
        run(act, [("pid", None)])


@pytest.mark.parametrize(("workers", "deadline"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_bad_arguments(workers: int, deadline: float) -> None:
    with pytest.raises(ValueError):
        list(killable_map(math.factorial, [1], workers=workers, deadline=deadline))


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
