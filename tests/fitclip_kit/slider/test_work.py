"""Background work: only the newest job counts, slow work shows itself, errors are told."""

import threading

import pytest

from fitclip_kit.slider.live import Superseded
from fitclip_kit.slider.work import Newest

LONG = 20.0  # seconds; only a failing test waits so long


class Told:
    """What a worker told, in order, and a worker."""

    def __init__(self, patience=60.0):
        self.events: list[float | str] = []
        self.errors: list[Exception] = []
        self.slow = threading.Event()
        self.work = Newest(self.shown, self.idle, self.errors.append, patience)

    def shown(self, share):
        self.events.append(share)
        self.slow.set()

    def idle(self):
        self.events.append("idle")


@pytest.fixture
def told():
    told = Told()
    yield told
    assert told.work.close(LONG)


@pytest.fixture
def impatient():
    told = Told(patience=0.0)
    yield told
    assert told.work.close(LONG)


class Held:
    """A job that goes on until it is superseded or let go."""

    def __init__(self):
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), False

    def __call__(self, stop, progress):
        self.begun.set()
        while not self.go_on.wait(0.001):
            if stop():
                raise Superseded
        self.ended = True


def test_a_job_runs_in_another_thread_and_idle_follows(told):
    threads = []
    told.work.submit(lambda stop, progress: threads.append(threading.current_thread()))
    assert told.work.wait(LONG)
    assert threads and threads[0] is not threading.current_thread()
    assert told.events == ["idle"] and told.errors == []


def test_a_new_job_supersedes_the_running_and_the_waiting_one(told):
    running, waiting, newest, done = Held(), [], [], []

    def deaf(stop, progress):  # looks at stop() only when it is let go, so that jobs wait behind it
        running.begun.set()
        running.go_on.wait(LONG)
        done.append(stop())

    told.work.submit(deaf)
    assert running.begun.wait(LONG)
    told.work.submit(lambda stop, progress: waiting.append(stop()))
    told.work.submit(lambda stop, progress: newest.append(stop()))
    running.go_on.set()
    assert told.work.wait(LONG)
    assert (done, waiting, newest) == ([True], [], [False])
    assert told.events == ["idle"]  # once: there was no pause between the jobs


def test_a_job_that_looks_at_stop_leaves_without_an_error(told):
    first = Held()
    told.work.submit(first)
    assert first.begun.wait(LONG)
    ran = threading.Event()
    told.work.submit(lambda stop, progress: ran.set())
    assert ran.wait(LONG) and told.work.wait(LONG)
    assert not first.ended and told.errors == []


def test_of_many_moves_the_last_is_always_computed(told):
    seen = []
    for move in range(200):
        told.work.submit(lambda stop, progress, move=move: seen.append(move))
    assert told.work.wait(LONG)
    assert seen[-1] == 199 and seen == sorted(set(seen))


def test_an_error_is_told_and_the_next_job_runs(told):
    ran = []

    def fails(stop, progress):
        raise KeyError("gone")

    told.work.submit(fails)
    assert told.work.wait(LONG)
    told.work.submit(lambda stop, progress: ran.append(1))
    assert told.work.wait(LONG)
    assert [repr(error) for error in told.errors] == ["KeyError('gone')"] and ran == [1]


def test_an_error_of_a_superseded_job_is_told_too(told):
    begun, go_on = threading.Event(), threading.Event()

    def fails(stop, progress):
        begun.set()
        go_on.wait(LONG)
        raise ValueError("broken")

    told.work.submit(fails)
    assert begun.wait(LONG)
    told.work.submit(lambda stop, progress: None)
    go_on.set()
    assert told.work.wait(LONG)
    assert [str(error) for error in told.errors] == ["broken"]


def test_quick_work_shows_no_progress(told):
    told.work.submit(lambda stop, progress: progress(0.5))
    assert told.work.wait(LONG)
    assert told.events == ["idle"]


def test_slow_work_shows_where_it_is_and_then_every_share(impatient):
    def job(stop, progress):
        assert impatient.slow.wait(LONG)
        progress(0.5)
        progress(1.0)

    impatient.work.submit(job)
    assert impatient.work.wait(LONG)
    assert impatient.events == [0.0, 0.5, 1.0, "idle"]


def test_patience_begins_anew_after_a_pause(impatient):
    for _ in range(2):
        impatient.slow.clear()
        impatient.work.submit(lambda stop, progress: impatient.slow.wait(LONG))
        assert impatient.work.wait(LONG)
    assert impatient.events == [0.0, "idle", 0.0, "idle"]


def test_a_superseded_job_tells_no_progress(impatient):
    begun, go_on = threading.Event(), threading.Event()

    def old(stop, progress):
        begun.set()
        go_on.wait(LONG)
        progress(0.9)

    impatient.work.submit(old)
    assert begun.wait(LONG) and impatient.slow.wait(LONG)
    impatient.work.submit(lambda stop, progress: progress(0.1))
    go_on.set()
    assert impatient.work.wait(LONG)
    assert impatient.events == [0.0, 0.1, "idle"]


def test_wait_says_when_it_took_too_long(told):
    held = Held()
    told.work.submit(held)
    assert not told.work.wait(0.0)
    held.go_on.set()
    assert told.work.wait(LONG)


def test_closing_stops_the_running_job_and_takes_no_more(told):
    held = Held()
    told.work.submit(held)
    assert held.begun.wait(LONG)
    assert told.work.close(LONG) and told.work.close(LONG)
    assert not held.ended and told.errors == []
    with pytest.raises(ValueError, match="closed"):
        told.work.submit(held)


def test_closing_says_when_the_job_does_not_end():
    told, begun, go_on = Told(), threading.Event(), threading.Event()

    def deaf(stop, progress):
        begun.set()
        go_on.wait(LONG)

    told.work.submit(deaf)
    assert begun.wait(LONG)
    assert not told.work.close(0.0)
    go_on.set()
    assert told.work.close(LONG)
