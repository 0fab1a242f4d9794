"""Background work: only the newest job counts, slow work shows itself, errors are told."""

import threading

import pytest

from fitclip_kit.slider import background
from fitclip_kit.slider.background import Newest

LONG = 20.0  # seconds; only a failing test waits so long


class Told:
    """What a worker told, in order, and a worker."""

    def __init__(self):
        self.events: list[float | str] = []
        self.work = Newest(self.events.append, lambda: self.events.append("idle"), self.failed)

    def failed(self, error):
        self.events.append(repr(error))


@pytest.fixture
def told():
    told = Told()
    yield told
    told.work.close()


class Held:
    """A job that goes on, superseded or not, until it is let go; keeps whether it was stopped."""

    def __init__(self, error=None):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error, self.stopped = error, None

    def __call__(self, task):
        self.begun.set()
        assert self.go_on.wait(LONG)
        self.stopped = task.stop()
        if self.error:
            raise self.error
        task.progress(0.9)


def test_a_job_runs_in_another_thread_and_idle_follows(told):
    threads = []
    told.work.submit(lambda task: threads.append(threading.current_thread()))
    told.work.wait(LONG)
    assert threads[0] is not threading.current_thread() and told.events == ["idle"]


def test_a_new_job_supersedes_the_running_and_the_waiting_ones(told):
    running, ran = Held(), []
    told.work.submit(running)
    assert running.begun.wait(LONG)
    for place in range(100):
        told.work.submit(lambda task, place=place: ran.append((place, task.stop())))
    with pytest.raises(TimeoutError):
        told.work.wait(0.01)
    running.go_on.set()
    told.work.wait(LONG)
    assert running.stopped and ran == [(99, False)]
    assert told.events == ["idle"]  # once: there was no pause between the jobs


def begin_a_job_that_looks(told):
    """A job that runs until its task is given up; it has begun."""
    begun = threading.Event()

    def looks(task):
        begun.set()
        while True:
            task.check()

    told.work.submit(looks)
    assert begun.wait(LONG)
    return looks


def test_a_job_that_looks_at_its_task_leaves_without_an_error(told):
    begin_a_job_that_looks(told)
    told.work.submit(lambda task: None)
    told.work.wait(LONG)
    assert told.events == ["idle"]


@pytest.mark.parametrize("superseded", [False, True])
def test_an_error_is_told_and_the_next_job_runs(told, superseded):
    fails = Held(KeyError("gone"))
    told.work.submit(fails)
    assert fails.begun.wait(LONG)
    if superseded:
        told.work.submit(lambda task: None)
    fails.go_on.set()
    told.work.wait(LONG)
    assert told.events == ["KeyError('gone')", "idle"]


def test_only_slow_work_shows_its_progress_until_it_ends(told, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0] + 100)

    def job(task):
        task.part(0, 0.5).progress(0.5)
        now[0] += 0.2
        task.progress(0.5)
        now[0] += 0.2
        task.part(0.5, 1).progress(0.5)

    for _ in range(2):  # patience begins anew after a pause
        told.work.submit(job)
        told.work.wait(LONG)
    assert told.events == [0.75, "idle", 0.75, "idle"]


def test_a_superseded_job_tells_no_progress(told, monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0)
    old = Held()
    told.work.submit(old)
    assert old.begun.wait(LONG)
    told.work.submit(lambda task: task.progress(0.1))
    old.go_on.set()
    told.work.wait(LONG)
    assert told.events == [0.1, "idle"]


def test_closing_stops_the_running_job_and_takes_no_more(told):
    looks = begin_a_job_that_looks(told)
    told.work.close()
    with pytest.raises(ValueError, match="closed"):
        told.work.submit(looks)
    assert told.events == []
