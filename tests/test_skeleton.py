"""The project's own rules: layering, notebooks, and one list of dependencies."""

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import nbformat
import yaml

from fitclip_kit.engine.settings import (
    TAG,
    cell_source,
    cell_tags,
    merge_profile,
    read_notebook,
    read_profile,
)
from fitclip_kit.store import code

ROOT = Path(__file__).parents[1]
IMPORTS = (ast.Import, ast.ImportFrom)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
MAX_CELL_LINES = 12  # but for the parameters and the imports, one a line
# What a part of the kit may import from the kit, itself included: imports go down only.
ALLOWED = {
    "fitclip_core": {"fitclip_core"},
    "fitclip_kit/store": {"fitclip_kit.store", "fitclip_core"},
    "fitclip_kit/weights": {"fitclip_kit.weights", "fitclip_kit.store", "fitclip_core"},
    "data_prep": {"data_prep", "fitclip_kit.store", "fitclip_kit.weights", "fitclip_core"},
    "figures": {"figures", "fitclip_kit.store", "fitclip_core"},
    "fitclip_kit": {"fitclip_kit", "data_prep", "figures", "fitclip_core"},
}


def test_packages_import_only_what_the_design_allows():
    violations = []
    for path in (path for package in code.KIT for path in (ROOT / package).rglob("*.py")):
        folders = [
            str(folder.relative_to(ROOT)) for folder in path.parents if ROOT in folder.parents
        ]
        allowed = ALLOWED[next(name for name in folders if name in ALLOWED)]  # the innermost
        violations += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in code._read(path, 0)[1]
            if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
        ]
        assert "\nfrom ." not in path.read_text(), f"{path} imports relatively, which is not seen"
    assert violations == []


def test_every_dependency_is_pinned_exactly():
    pinned = lock_pins()
    for name, version in pinned.items():  # of what every platform may use
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), name
        assert not name.startswith(("nvidia", "cuda", "triton")), name
    names = [normal(re.split(r"[ ;<>=\[]", entry)[0]) for entry in dependencies()]
    assert [name for name in names if name not in pinned] == []
    assert sorted(set(names)) == sorted(names)


def test_conda_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip_section = environment["dependencies"]
    requires = pyproject()["project"]["requires-python"]
    assert [entry for entry in conda if entry.startswith(f"python {requires}")]
    assert pip_section == {"pip": ["-c requirements.lock", "-e .[dev]"]}
    assert "-c requirements.lock -e '.[dev]'" in (ROOT / "Makefile").read_text()


def test_ci_runs_the_test_command():
    script = ROOT / ".ci" / "run"
    assert "\nmake test-all\n" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_notebooks_are_valid_hold_no_outputs_and_explain_their_parameters():
    for path in NOTEBOOKS:
        nbformat.validate(nbformat.read(path, as_version=4))
        notebook = read_notebook(path)  # refuses any other number of parameters cells
        for cell in code_cells(path):
            assert not cell["outputs"] and cell["execution_count"] is None, path.name
        [declared] = [cell for cell in code_cells(path) if TAG in cell_tags(cell)]
        lines = re.findall(r"^\w+ = .*", cell_source(declared), re.MULTILINE)
        assert len(lines) == len(notebook.defaults), path.name
        assert [line for line in lines if not re.search(r"  # \w", line)] == [], path.name


def test_notebooks_only_order_and_explain():
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            source = cell_source(cell)
            where = f"{path.name}: {source[:60]!r}"
            assert source.strip(), f"{where} is empty"
            tree = ast.parse(source)  # a shell escape or a magic is no Python
            if TAG not in cell_tags(cell):
                lines = sum(bool(line.strip()) for line in source.splitlines())
                imports = all(isinstance(node, IMPORTS) for node in tree.body)
                assert imports or lines <= MAX_CELL_LINES, where
            assert not [node for node in ast.walk(tree) if isinstance(node, definitions)], where


def test_profiles_fit_the_notebooks():
    assert {"smoke", "mini", "paper"} <= {path.stem for path in PROFILES}
    numbered = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
    declared = {path.stem: read_notebook(path).defaults for path in numbered}
    for path in PROFILES:
        merge_profile(read_profile(path), declared)


def code_cells(path: Path) -> list[dict]:
    cells = nbformat.read(path, as_version=4)["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def dependencies() -> list[str]:
    project = pyproject()["project"]
    return [*project["dependencies"], *chain(*project["optional-dependencies"].values())]


def lock_pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
