"""The runner, on tiny notebooks made here."""

import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from tqdm import tqdm

from fitclip_kit.engine import run
from fitclip_kit.engine.parameters import (
    ParameterError,
    declared_parameters,
    merge_profile,
    profile_file,
    read_profile,
)
from fitclip_kit.engine.progress import ProgressLine, clock
from fitclip_kit.engine.stamps import Files, reasons_to_run, stamp_digest
from fitclip_kit.store.files import write_manifest
from tests.small_project import (
    COMMAND,
    ENVIRONMENT,
    PARAMETERS,
    RESULT,
    ROOT,
    make_project,
    write_notebook,
)


def plan_of(project: Path) -> run.Plan:
    return run.make_plan(project / "notebooks", "tiny", project / "runs")


def stale(project: Path) -> dict[str, list[str]]:
    plan = plan_of(project)
    return {
        notebook.stem: reasons
        for position, notebook in enumerate(plan.notebooks)
        if (reasons := reasons_to_run(plan.files(notebook), plan.made_from(position)))
    }


def cli(project: Path, *arguments: str) -> int:
    options = ["--profile", "tiny", "--runs-dir", str(project / "runs"), *arguments]
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run.main(options, project / "notebooks")
    finally:
        signal.signal(signal.SIGTERM, before)


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
    """A project of two notebooks, run once."""
    project = make_project(tmp_path_factory.mktemp("completed"))
    write_notebook(project, "01_one", RESULT, "print('seen')")
    write_notebook(project, "02_two", RESULT)
    assert run.run_plan(plan_of(project), say=lambda line: None) == 2
    return project


@pytest.fixture
def project(completed, tmp_path):
    """A copy of the completed project to change."""
    return Path(shutil.copytree(completed, tmp_path / "project"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_file_that_a_parameter_names_is_part_of_what_a_notebook_is_made_from(tmp_path):
    project = make_project(tmp_path, "01_one: {data_file: data.yaml}\n")
    parameters = PARAMETERS + "\ndata_file = ''  # a file"
    write_notebook(project, "01_one", RESULT, parameters=parameters)
    write_notebook(project, "02_two", RESULT, parameters=parameters)
    data = project / "notebooks" / "data.yaml"
    data.write_text("1")
    assert run.run_plan(plan_of(project), say=lambda line: None) == 2
    assert stale(project) == {}
    data.write_text("2")
    assert stale(project) == {"01_one": ["its named files changed"]}
    data.unlink()
    assert "01_one" in stale(project)


# What a completed run leaves


def test_profile_values_reach_the_kernel_with_the_declared_type(completed):
    value, working_dir, interpreter = json.loads(
        (completed / "runs/tiny/01_one/out.json").read_text()
    )
    assert value == "1.0"  # the profile says 1, the default 0.5 makes it a float
    assert working_dir == "notebooks"
    assert interpreter == sys.executable


def test_executed_copies_and_nothing_partial_are_left(completed):
    names = {path.name for path in (completed / "runs/tiny/notebooks").iterdir()}
    each = {f"{s}{x}" for s in ("01_one", "02_two") for x in (".ipynb", ".html", ".stamp.json")}
    assert names == {*each, "timings.json"}
    assert "seen" in (completed / "runs/tiny/notebooks/01_one.html").read_text()
    executed = (completed / "runs/tiny/notebooks/01_one.ipynb").read_text()
    assert "seen" in executed and str(completed) not in executed


def test_rerun_with_nothing_changed_does_nothing_and_says_so(project, capsys, monkeypatch):
    monkeypatch.setattr(run, "_run_one", lambda *a: pytest.fail("ran a notebook"))
    start = time.monotonic()
    assert cli(project) == 0
    assert time.monotonic() - start < 15
    assert "nothing had to be run" in capsys.readouterr().out


def test_rerun_imports_nothing_slow():
    code = "import sys, fitclip_kit.engine.run; print([m for m in sys.modules if '.' not in m])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = eval(out.stdout)
    assert "yaml" in loaded
    slow = {"torch", "papermill", "nbclient", "nbconvert", "nbformat", "numpy", "pandas"}
    assert not slow.intersection(loaded)


# What makes a notebook run again


def test_a_changed_cell_makes_it_and_the_later_ones_run(project):
    edit(project / "notebooks/01_one.ipynb", "# Title", "# Other")
    assert stale(project) == {"01_one": ["its notebook changed"]}
    # 02 follows once 01 has run: its stamp is another one then
    edit(project / "runs/tiny/notebooks/01_one.stamp.json", '"results": "', '"results": "0')
    assert stale(project)["02_two"] == ["its earlier notebooks changed"]


@pytest.mark.parametrize(
    ("old", "new"), [('"outputs": []', '"outputs": [1]'), ('"name": "python3"', '"name": "x"')]
)
def test_outputs_and_metadata_are_noise(project, old, new):
    edit(project / "notebooks/01_one.ipynb", old, new)
    assert stale(project) == {}


def test_a_changed_parameter_makes_only_its_notebook_run(project):
    (project / "notebooks/profiles/tiny.yaml").write_text(
        "common: {value: 1}\n02_two: {value: 2}\n"
    )
    assert stale(project) == {"02_two": ["its parameters changed"]}


def test_a_changed_lock_makes_all_run(project):
    (project / "requirements.lock").write_text("a==2\n")
    assert set(stale(project)) == {"01_one", "02_two"}


@pytest.mark.parametrize("name", ["__init__.py", "data.txt"])
def test_a_changed_package_makes_all_run(project, sources, name):
    before = (sources / name).read_text()
    (sources / name).write_text("x = 2\n")
    try:
        assert set(stale(project)) == {"01_one", "02_two"}
    finally:
        (sources / name).write_text(before)


@pytest.mark.parametrize("how", ["change", "remove"])
@pytest.mark.parametrize(
    "output",
    ["01_one/out.json", "01_one/manifest.json", "notebooks/01_one.html", "notebooks/01_one.ipynb"],
)
def test_a_changed_or_missing_output_makes_it_run(project, output, how):
    path = project / "runs/tiny" / output
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    assert list(stale(project)) == ["01_one"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}'])
def test_an_unreadable_stamp_is_none(project, content):
    (project / "runs/tiny/notebooks/01_one.stamp.json").write_text(content)
    assert stale(project)["01_one"] == ["it has not completed yet"]


def test_only_and_force(project, capsys):
    files = Files(project / "runs/tiny", "02_two")
    before, digest = files.stamp.stat().st_mtime_ns, stamp_digest(files)
    assert cli(project, "--only", "02_two", "--force") == 0
    out = capsys.readouterr().out
    assert "[1/2] 01_one  left out\n" in out and "1 notebooks run" in out
    assert files.stamp.stat().st_mtime_ns > before
    assert stamp_digest(files) == digest  # the same work, the same stamp: nothing later reruns
    assert cli(project, "--only", "03_three") == 2
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
    files = Files(project / "runs/tiny", "01_one")
    files.results.mkdir(parents=True)  # valid results of an earlier run must not save this one
    write_manifest(files.results, kind="01_one", parameters={}, inputs={}, code="", outputs=[])
    assert cli(project) == 1
    captured = capsys.readouterr()
    for text in ["01_one failed", *expected, str(files.failed)]:
        assert text in captured.err
    assert "02_two" not in captured.out
    assert [path.name for path in files.failed.parent.iterdir()] == ["01_one.failed.ipynb"]
    assert json.loads(files.failed.read_text())["cells"]
    assert list(stale(project)) == ["01_one", "02_two"]


def test_second_run_stops_and_ctrl_c_ends_the_first_cleanly(tmp_path, capsys):
    project = make_project(tmp_path)
    wait = "import os, time\nopen('kernel.pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(project, "01_one", wait)
    first = subprocess.Popen(
        COMMAND,
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background is started with SIGINT ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        pid_file = project / "notebooks/kernel.pid"
        until(lambda: pid_file.exists() and pid_file.read_text())
        assert cli(project) == 1
        message = capsys.readouterr().err
        assert f"process {first.pid}" in message and "Traceback" not in message
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130
    assert "Interrupted" in errors and "Traceback" not in errors
    assert (project / "runs/tiny/notebooks/01_one.failed.ipynb").exists()
    until(lambda: not alive(int(pid_file.read_text())))


def until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# What is refused before anything runs


def test_all_problems_are_listed_before_anything_runs(tmp_path, capsys):
    project = make_project(tmp_path, "common: {valu: 1}\n01_one: {value: high}\n09_x: {}\n")
    write_notebook(project, "01_one", "1")
    assert cli(project) == 2
    err = capsys.readouterr().err
    for text in ["no notebook declares 'valu'", "wants float, found 'high'", "'09_x'"]:
        assert text in err
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("default", "value", "expected"),
    [
        ("1", 2, 2),
        ("0.5", 2, 2.0),
        ("-0.5", -2.5, -2.5),
        ("'a'", "b", "b"),
        ("True", False, False),
        ("[1, 2]", [3], [3]),
        ("[1, 0.5]", [1, 2.5], [1.0, 2.5]),
        ("['a']", [], []),
        ("[[1], [2, 3]]", [[4]], [[4]]),
    ],
)
def test_values_of_the_declared_type_are_taken(default, value, expected):
    declared = {"01_one": declared_parameters(f"a = {default}  # help")}
    merged = merge_profile({"01_one": {"a": value}}, declared)["01_one"]["a"]
    assert merged == expected
    assert repr(merged) == repr(expected)  # 2 == 2.0 and True == 1, but the types matter


@pytest.mark.parametrize(
    ("default", "value"),
    [
        ("1", True),
        ("1", 1.0),
        ("1", "1"),
        ("0.5", True),
        ("0.5", float("nan")),
        ("0.5", float("inf")),
        ("True", 1),
        ("'a'", 1),
        ("'a'", None),
        ("'a'", ["a"]),
        ("[1]", 1),
        ("[1]", [1.5]),
        ("[0.5]", [1, "x"]),
        ("[[1]]", [1]),
    ],
)
def test_values_of_another_type_are_refused(default, value):
    declared = {"01_one": declared_parameters(f"a = {default}")}
    for section in ("01_one", "common"):
        with pytest.raises(ParameterError, match="01_one: a: wants"):
            merge_profile({section: {"a": value}}, declared)


def test_exponent_without_a_point_is_explained(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("01_one: {rate: 3e-6}\n")
    with pytest.raises(ParameterError, match=r"3\.0e-6"):
        merge_profile(read_profile(path), {"01_one": {"rate": 0.1}})


def test_own_section_wins_over_common_and_run_dir_is_the_runners():
    declared: dict[str, dict] = {"01_one": {"a": 1, "run_dir": "x"}, "02_two": {"a": 2, "b": 0}}
    merged = merge_profile({"common": {"a": 5}, "02_two": {"a": 6}}, declared)
    assert merged == {"01_one": {"a": 5}, "02_two": {"a": 6, "b": 0}}
    with pytest.raises(ParameterError, match="run_dir is set by the runner"):
        merge_profile({"common": {"run_dir": "y"}}, declared)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os", "line 1 is not"),
        ("a = 1\nb = a", "line 2, b"),
        ("a = b = 1", "line 1 is not"),
        ("a, b = 1, 2", "plain name"),
        ("a = 1\na = 2", "again"),
        ("a = []", "one type"),
        ("a = [1, 'x']", "one type"),
        ("a = None", "None is no bool"),
        ("a = {'x': 1}", "is no bool"),
        ("a = (1, 2)", "is no bool"),
        ("a =", "not Python"),
        ("a: int = 1", "line 1 is not"),
    ],
)
def test_only_plain_literals_are_declared(source, message):
    with pytest.raises(ParameterError, match=message):
        declared_parameters(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "section 'a'"),
        ("[1]\n", "must hold sections"),
        ("a: {b: 1, b: 2}\n", "given twice"),
        ("a: {b: 1}\na: {c: 2}\n", "given twice"),
        ("a: {", "not readable YAML"),
    ],
)
def test_malformed_profiles_are_refused(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_profile(path)


def test_missing_profile_names_those_there(tmp_path):
    (tmp_path / "mini.yaml").write_text("")
    with pytest.raises(ParameterError, match="there: mini"):
        read_profile(tmp_path / "maxi.yaml")
    assert read_profile(tmp_path / "mini.yaml") == {}


@pytest.mark.parametrize("name", ["../mini", "..", "", ".", "a/b", "/mini"])
def test_a_profile_is_a_name(name: str) -> None:
    """It names the run's folder too, which `make clean` removes."""
    with pytest.raises(ParameterError, match="give a name"):
        profile_file(Path("notebooks"), name)
    make = ["make", "--dry-run", "clean", f"PROFILE={name}"]
    refused = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "no profile" in refused.stderr


def test_make_removes_one_run() -> None:
    for name in ("mini smoke", "mini ."):
        make = ["make", "--dry-run", "clean", f"PROFILE={name}"]
        assert subprocess.run(make, cwd=ROOT, capture_output=True).returncode == 2


def test_notebooks_without_one_parameters_cell_are_refused(tmp_path):
    project = make_project(tmp_path)
    with pytest.raises(ParameterError, match="no notebooks named like"):
        plan_of(project)
    write_notebook(project, "01_one", parameters="value = 0.5")
    write_notebook(project, "02_two", "1")
    edit(project / "notebooks/02_two.ipynb", '"parameters"', '"other"')
    write_notebook(project, "03_three", "1")
    edit(project / "notebooks/03_three.ipynb", '"tags": []', '"tags": ["parameters"]')
    (project / "notebooks/04_four.ipynb").write_text("{}")
    with pytest.raises(ParameterError) as refused:
        plan_of(project)
    for text in [
        "01_one.ipynb, parameters cell: no text parameter 'run_dir'",
        "02_two.ipynb has 0 cells",
        "03_three.ipynb has 2 cells",
        "04_four.ipynb is not",
    ]:
        assert text in str(refused.value)


# The progress line


def test_clock() -> None:
    assert [clock(x) for x in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]


def shown(expected: float | None, written: str) -> str:
    """What the line says of the time left, when a cell has written this."""
    stream = io.StringIO()
    line = ProgressLine("x", 2, expected, stream)
    line.cell_started()
    line.write(written)
    line._show()
    return stream.getvalue().rstrip().partition("elapsed, ")[2]


def test_time_left_is_the_last_runs_or_the_bars() -> None:
    unknown = "remaining time not known yet"
    bar = io.StringIO()
    with tqdm(total=9000, desc="decode mit", file=bar, mininterval=0, miniters=1) as counted:
        time.sleep(0.01)
        counted.update(4000)
        written = bar.getvalue()
    assert re.fullmatch(r"decode mit 4000/9000, about 00:0\d of that left", shown(None, written))
    assert shown(90.0, written) == "about 1:30 left"
    assert shown(0.0, "") == shown(None, "") == shown(None, "a warning: 3% | 4\n") == unknown
    assert shown(None, "\rcells:   0%|          | 0/180 [00:00<?, ?cell/s]") == unknown
    two = "\ra: 10%|#  | 1/10 [00:01<00:09, 1it/s]\rb: 50%|###  | 1.5k/3k [1:00:00<1:00:00, 2s/it]"
    assert shown(None, two) == "b 1.5k/3k, about 1:00:00 of that left"


def test_a_new_cell_forgets_the_bar() -> None:
    stream = io.StringIO()
    line = ProgressLine("x", 2, None, stream)
    line.write("a: 10%|#  | 1/10 [00:01<00:09, 1it/s]")
    line.cell_started()
    line._show()
    assert "not known yet" in stream.getvalue()


def test_the_line_gets_what_a_notebook_writes_to_standard_error(tmp_path, monkeypatch):
    project, written = make_project(tmp_path), []
    write_notebook(project, "01_one", RESULT, "import sys; print('a bar', file=sys.stderr)")
    monkeypatch.setattr(ProgressLine, "write", lambda self, text: written.append(text))
    assert cli(project) == 0
    assert "".join(written) == "a bar\n"


def test_terminal_line_is_rewritten_and_a_log_gets_whole_lines():
    class Stream(io.StringIO):
        def __init__(self, terminal):
            super().__init__()
            self.terminal = terminal

        def isatty(self):
            return self.terminal

    log, terminal = Stream(False), Stream(True)
    for stream in (log, terminal):
        with ProgressLine("[1/2] x", 3, 60.0, stream) as line:
            line.cell_started()
    assert log.getvalue() == (
        "[1/2] x  cell 0/3  0:00 elapsed, about 1:00 left\n[1/2] x  done after 0:00\n"
    )
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") == 2
