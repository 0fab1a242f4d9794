"""The runner, on tiny notebooks made here."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.kills import survivors
from fitclip_kit.engine import run
from fitclip_kit.store.files import write_manifest
from tests.small_project import (
    COMMAND,
    ENVIRONMENT,
    PARAMETERS,
    RESULT,
    ROOT,
    fitclip,
    interruptible,
    make_project,
    until,
    write_notebook,
)


def command(project: Path, *arguments: str) -> int:
    options = ["--profile", "tiny", "--runs-dir", str(project / "runs"), *arguments]
    return fitclip(project / "notebooks", "run", *options)


def stale(project: Path) -> dict[str, str]:
    """The first reason of each notebook that has to run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "NOTEBOOKS", project / "notebooks")
        plan = run.make_plan("tiny", project / "runs")
    reasons = {book.stem: plan.reasons_to_run(at) for at, book in enumerate(plan.notebooks)}
    return {stem: why[0] for stem, why in reasons.items() if why}


@pytest.fixture(scope="module", autouse=True)
def sources(tmp_path_factory):
    """Stands in for the kit's packages, so that a test can change a source."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "kit_stand_in").mkdir()
    (folder / "kit_stand_in" / "__init__.py").write_text("x = 1\n")
    (folder / "kit_stand_in" / "data.txt").write_text("1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(run, "PACKAGES", ("kit_stand_in",))
        importlib.invalidate_caches()
        yield folder / "kit_stand_in"


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A project of two notebooks, the first of which reads a file, run once."""
    profile = "common: {value: 1}\n01_one: {data_file: data.yaml}\n"
    project = make_project(tmp_path_factory.mktemp("completed"), profile)
    parameters = PARAMETERS + "\ndata_file = ''  # a file"
    write_notebook(project, "01_one", RESULT, "print('seen')", parameters=parameters)
    write_notebook(project, "02_two", RESULT)
    (project / "notebooks" / "data.yaml").write_text("a: 1")
    assert command(project) == 0
    return project


@pytest.fixture
def project(completed, tmp_path):
    """A copy of the completed project to change."""
    return Path(shutil.copytree(completed, tmp_path / "project"))


# What a completed run leaves


def test_profile_values_reach_the_kernel_with_the_declared_type(completed):
    seen = json.loads((completed / "runs/tiny/01_one/out.json").read_text())
    # The profile says 1; the default 0.5 makes it a float.
    assert seen == ["1.0", "notebooks", sys.executable]


def test_executed_copies_and_nothing_partial_are_left(completed):
    names = {path.name for path in (completed / "runs/tiny/notebooks").iterdir()}
    each = {f"{s}{x}" for s in ("01_one", "02_two") for x in (".ipynb", ".html", ".manifest.json")}
    assert names == {*each, "timings.json"}
    assert "seen" in (completed / "runs/tiny/notebooks/01_one.html").read_text()
    executed = (completed / "runs/tiny/notebooks/01_one.ipynb").read_text()
    assert "seen" in executed and str(completed) not in executed


def test_rerun_with_nothing_changed_does_nothing_and_says_so(project, capsys, monkeypatch):
    monkeypatch.setattr(run, "_run_one", lambda *a: pytest.fail("ran a notebook"))
    assert command(project) == 0
    assert "nothing had to be run" in capsys.readouterr().out


def test_rerun_imports_nothing_slow():
    code = "import sys, fitclip_kit.engine.cli; print([m for m in sys.modules if '.' not in m])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = eval(out.stdout)
    assert "yaml" in loaded
    slow = {"torch", "papermill", "nbclient", "nbconvert", "nbformat", "numpy", "pandas"}
    assert not slow.intersection(loaded)


# What makes a notebook run again

FIRST, RECORD = "notebooks/01_one.ipynb", "runs/tiny/notebooks/01_one.manifest.json"
PROFILE, LOCK = "notebooks/profiles/tiny.yaml", "inputs: requirements.lock has changed"
LATER = {"02_two": "inputs: earlier notebooks has changed"}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (FIRST, "# Title", "# Other", {"01_one": "inputs: notebook has changed"}),
        (FIRST, '"outputs": []', '"outputs": [1]', {}),
        (FIRST, '"name": "python3"', '"name": "x"', {}),
        (PROFILE, "value: 1", "value: 2", {one: "value is 1.0" for one in ("01_one", "02_two")}),
        (PROFILE, "01_one: {", "01_one: {value: 2, ", {"01_one": "parameters: value is 1.0"}),
        ("notebooks/data.yaml", "1", "2", {"01_one": "inputs: data_file has changed"}),
        ("notebooks/data.yaml", None, "", {"01_one": "inputs: data_file"}),
        ("requirements.lock", "a==1", "a==2", {"01_one": LOCK, "02_two": LOCK}),
        ("runs/tiny/01_one/out.json", "1.0", "2.0", {"01_one": "output out.json has other bytes"}),
        ("runs/tiny/01_one/manifest.json", "code", "Code", {"01_one": "output 01_one/manifest"}),
        ("runs/tiny/notebooks/01_one.html", None, "", {"01_one": "01_one.html is missing"}),
        ("runs/tiny/notebooks/01_one.ipynb", "seen", "SEEN", {"01_one": "has other bytes"}),
        # The later ones follow once the first has run: its record is another one then.
        (RECORD, '"code": "', '"code": "0', {"01_one": "the code has changed", **LATER}),
        (RECORD, '"schema": 1', '"schema": 2', {"01_one": "not a manifest", **LATER}),
    ],
)
def test_what_has_changed_runs_again(project, file, old, new, expected):
    path = project / file
    if old is None:
        path.unlink()
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    found = stale(project)
    assert found.keys() == expected.keys()
    assert all(words in found[stem] for stem, words in expected.items())


@pytest.mark.parametrize("name", ["__init__.py", "data.txt"])
def test_a_changed_package_makes_all_run(project, sources, name):
    before = (sources / name).read_text()
    (sources / name).write_text("x = 2\n")
    try:
        assert set(stale(project)) == {"01_one", "02_two"}
    finally:
        (sources / name).write_text(before)


def test_only_and_force(project, capsys):
    files = run.Files(project / "runs/tiny", "02_two")
    record = project / "runs/tiny" / files.manifest
    before, digest = record.stat().st_mtime_ns, files.digest()
    assert command(project, "--only", "02_two", "--force") == 0
    out = capsys.readouterr().out
    assert "[1/2] 01_one  left out\n" in out and "1 notebooks run" in out
    assert record.stat().st_mtime_ns > before
    assert files.digest() == digest  # the same work, the same record: nothing later reruns
    assert command(project, "--only", "03_three") == 2
    assert "03_three" in capsys.readouterr().err


# Runs that must not count as done


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["sys = 1", "raise ValueError('bad frame')", RESULT], ["[4]", "ValueError: bad frame"]),
        ([RESULT, "import sys; sys.exit(0)", "1"], ["did not complete", "SystemExit: 0"]),
        ([RESULT, "import os; os._exit(0)"], ["DeadKernelError", "os._exit(0)"]),
        (["folder = run_dir"], ["every cell completed", "no manifest.json"]),
    ],
    ids=["error", "exit", "killed", "no results"],
)
def test_an_incomplete_notebook_fails(tmp_path, capsys, cells, expected):
    project = make_project(tmp_path)
    write_notebook(project, "01_one", *cells)
    write_notebook(project, "02_two", "1")
    files = run.Files(project / "runs/tiny", "01_one")
    files.results.mkdir(parents=True)  # valid results of an earlier run must not save this one
    write_manifest(files.results, kind="01_one", parameters={}, inputs={}, code="", outputs=[])
    assert command(project) == 1
    captured = capsys.readouterr()
    failed = files.beside(".failed.ipynb")
    for text in ["01_one failed", *expected, str(failed)]:
        assert text in captured.err
    assert "02_two" not in captured.out
    assert [path.name for path in failed.parent.iterdir()] == ["01_one.failed.ipynb"]
    assert json.loads(failed.read_text())["cells"]
    assert list(stale(project)) == ["01_one", "02_two"]


def test_second_run_stops_and_ctrl_c_ends_the_first_cleanly(tmp_path, capsys):
    project = make_project(tmp_path)
    wait = "import os, time\nopen('kernel.pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(project, "01_one", wait)
    first = interruptible(COMMAND, cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        pid_file = project / "notebooks/kernel.pid"
        until(lambda: pid_file.exists() and pid_file.read_text())
        kernel = psutil.Process(int(pid_file.read_text()))
        assert command(project) == 1
        message = capsys.readouterr().err
        assert f"process {first.pid}" in message and "Traceback" not in message
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130
    assert "Interrupted" in errors and "Traceback" not in errors
    assert (project / "runs/tiny/notebooks/01_one.failed.ipynb").exists()
    assert not survivors([kernel], 120)
