"""Settings files and parameters cells: taken as written, or refused before anything runs."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitclip_kit.engine.settings import (
    ClusterSettings,
    ParameterError,
    declared_parameters,
    merge_profile,
    profile_file,
    read_cluster,
    read_notebooks,
    read_profile,
    read_yaml,
)
from tests.small_project import ROOT, make_project, write_notebook


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


@pytest.mark.parametrize(
    "text",
    ["", "~", "3", "a: 1\nb: [1.5, x, {c: no}]", "a: &x {b: 1}\nc: {<<: *x, d: 2}", "é: '–'"],
)
def test_yaml_is_read_as_the_library_reads_it(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: 1\nb: 2\na: 1", "key 'a' is given twice"),
        (b"x: {b: 1, b: 2}", "key 'b' is given twice"),
        (b"a: [", "line 1, column 5"),
        (b"a: \xff", "can't decode byte 0xff"),
        (b"!!float much", "much"),
        (b"{[1]: 2}", "unhashable"),
        (None, "No such file"),
    ],
)
def test_yaml_that_is_refused_names_the_file(file: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml is not readable YAML: ") as refused:
        read_yaml(file)
    assert why in str(refused.value)


TAKEN: dict[str, tuple[Any, Any]] = {
    "1": (2, 2),
    "0.5": (2, 2.0),
    "'a'": ("b", "b"),
    "True": (False, False),
    "[1, 2]": ([3], [3]),
    "[1, 0.5]": ([1, 2.5], [1.0, 2.5]),
    "['a']": ([], []),
    "[[1], [2, 3]]": ([[4]], [[4]]),
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "1": (True, 1.0, "1"),
    "-0.5": (True, float("nan"), float("inf"), 16**5000),
    "True": (1,),
    "'a'": (1, None, ["a"]),
    "[1]": (1, [1.5]),
    "[0.5]": ([1, "x"],),
    "[[1]]": ([1],),
}


@pytest.mark.parametrize("default", TAKEN)
def test_values_of_the_declared_type_are_taken(default: str) -> None:
    value, expected = TAKEN[default]
    declared = {"01_one": declared_parameters(f"a = {default}  # help\nkept = 1")}
    merged = merge_profile({"01_one": {"a": value}}, declared)["01_one"]
    # 2 == 2.0 and True == 1, but the types matter.
    assert repr(merged) == repr({"a": expected, "kept": 1})


@pytest.mark.parametrize("section", ["01_one", "common"])
@pytest.mark.parametrize("default", OTHERS)
def test_values_of_another_type_are_refused(default: str, section: str) -> None:
    declared = {"01_one": declared_parameters(f"a = {default}")}
    for value in OTHERS[default]:
        with pytest.raises(ParameterError, match=r"01_one: a[.0-9]*: wants a .*, found "):
            merge_profile({section: {"a": value}}, declared)


def test_own_section_wins_over_common_and_run_dir_is_the_runners() -> None:
    declared: dict[str, dict] = {"01_one": {"a": 1, "run_dir": "x"}, "02_two": {"a": 2, "b": 0}}
    merged = merge_profile({"common": {"a": 5}, "02_two": {"a": 6}}, declared)
    assert merged == {"01_one": {"a": 5}, "02_two": {"a": 6, "b": 0}}
    for section in ("common", "01_one"):
        with pytest.raises(ParameterError, match="run_dir is set by the runner"):
            merge_profile({section: {"run_dir": "y"}}, declared)


def test_all_problems_of_a_profile_are_listed() -> None:
    own = {"value": "high", "rate": "3e-6", "x": 1}
    with pytest.raises(ParameterError) as refused:
        merge_profile(
            {"common": {"valu": 1}, "01_one": own, "09_x": {}},
            {"01_one": {"value": 0.5, "rate": 0.1}},
        )
    expected = ("'09_x'", "declares 'valu'", "wants a valid number, found 'high'", "unknown: 'x'")
    assert all(text in str(refused.value) for text in (*expected, "as in 3.0e-6"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os", "line 1: this is not"),
        ("a = 1\nb = a", "line 2, b"),
        ("a = 1\na = 2", "line 2: this is not"),
        ("a = []", "one type"),
        ("a = [1, 'x']", "one type"),
        ("a = None", "None is no bool"),
        ("a = (1, 2)", "is no bool"),
        ("a = 1e999", "no finite number"),
        ("a =", "not Python"),
    ],
)
def test_only_plain_literals_are_declared(source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        declared_parameters(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "section 'a'"),
        ("[1]\n", "must hold sections"),
        (None, "no profile 'a' in .*; there: mini"),
    ],
)
def test_malformed_profiles_are_refused(file: Path, text: str | None, message: str) -> None:
    file.with_name("mini.yaml").write_text("")
    assert read_profile(file.with_name("mini.yaml")) == {}
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_profile(file)


@pytest.mark.parametrize("name", ["../mini", "..", "", ".", "a/b", "/mini"])
def test_a_profile_is_a_name(name: str) -> None:
    with pytest.raises(ParameterError, match="give a name"):
        profile_file(Path("notebooks"), name)


@pytest.mark.parametrize("name", ["../mini", "..", "", "mini smoke", "mini ."])
def test_make_removes_one_run(name: str) -> None:
    make = ["make", "--dry-run", "clean", f"PROFILE={name}"]
    refused = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "no profile" in refused.stderr


def test_notebooks_without_one_parameters_cell_are_refused(tmp_path: Path) -> None:
    notebooks = make_project(tmp_path) / "notebooks"
    with pytest.raises(ParameterError, match="no notebooks named like"):
        read_notebooks(notebooks)
    write_notebook(tmp_path, "01_one", parameters="value = 0.5")
    for stem, old, new in (
        ("02_two", '"parameters"', '"other"'),
        ("03_three", '"tags": []', '"tags": ["parameters"]'),
        ("05_five", '"nbformat": 4', '"nbformat": 3'),
    ):
        write_notebook(tmp_path, stem, "1")
        path = notebooks / f"{stem}.ipynb"
        path.write_text(path.read_text().replace(old, new))
    (notebooks / "04_four.ipynb").write_text("{}")
    with pytest.raises(ParameterError) as refused:
        read_notebooks(notebooks)
    for text in (
        "01_one.ipynb, parameters cell: no text parameter 'run_dir'",
        "02_two.ipynb has 0 cells",
        "03_three.ipynb has 2 cells",
        "04_four.ipynb is not",
        "05_five.ipynb is not a readable notebook: nbformat is 3",
    ):
        assert text in str(refused.value)


def test_a_clusters_settings_come_from_a_file(file: Path) -> None:
    file.write_text("executor: slurm\ngpus: 1\nmemory_gb: 32\nslurm: {account: me}\n")
    assert read_cluster(file, executor="local", retries=3) == ClusterSettings(
        executor="local", gpus=1, memory_gb=32.0, retries=3, slurm={"account": "me"}
    )
    assert read_cluster(None) == ClusterSettings(executor="inline", retries=1, minutes=240, cpus=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: 1", "unknown: 'gpu'\nThe settings are executor, parallel"),
        ("- gpus", "must hold"),
        ("slurm: 3", "slurm: wants a valid dictionary"),
        ("executor: cloud", "executor: wants 'inline', 'local' or 'slurm', found 'cloud'"),
        ("retries: -1", "retries: .* 0, found -1"),
        ("minutes: 0", "minutes: .* 0, found 0"),
        ("cpus: 0", "cpus: .* 0, found 0"),
        ("parallel: true", "parallel: wants a valid integer"),
        ("gpus: -1", "gpus: .* 0, found -1"),
        ("memory_gb: .nan", "memory_gb: wants a finite number"),
    ],
)
def test_other_cluster_files_are_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cluster(file)
