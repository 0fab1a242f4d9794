"""The project's own rules: layering, notebooks, and one list of dependencies."""

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml

from fitclip_kit.engine.settings import cell_source, merge_profile, read_notebook, read_profile

ROOT = Path(__file__).parents[1]
IMPORTS = (ast.Import, ast.ImportFrom)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
MAX_CELL_LINES = 12  # but for the parameters and the imports, one a line
PACKAGES = {"fitclip_core", "fitclip_kit", "data_prep", "figures"}
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
    violations = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, allowed in ALLOWED.items()
        for path in sorted((ROOT / package).rglob("*.py"))
        if package == innermost(path)
        for name in kit_imports(path.read_text(), path.relative_to(ROOT))
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
    ]
    assert violations == []


def innermost(path: Path) -> str:
    """The smallest part of the kit that has rules of its own and holds the file."""
    names = [str(folder.relative_to(ROOT)) for folder in path.parents if ROOT in folder.parents]
    return next(name for name in names if name in ALLOWED)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from fitclip_kit.store import results", {"fitclip_kit.store.results"}),
        ("from fitclip_kit.store.results import ResultsStore", {"fitclip_kit.store.results"}),
        ("import fitclip_core.encoders as e", {"fitclip_core.encoders"}),
        ("def f():\n    import data_prep.video", {"data_prep.video"}),
        ("from . import style", {"figures.style"}),
        ("from fitclip_core import file_sha256", {"fitclip_core"}),
        ("import numpy, os.path", set()),
    ],
)
def test_kit_imports_finds_every_form(source, expected):
    assert kit_imports(source, Path("figures/x.py")) == expected


def test_every_dependency_is_pinned_exactly():
    pinned = lock_pins()
    names = [normal(re.split(r"[ ;<>=\[]", entry)[0]) for entry in dependencies()]
    assert [name for name in names if name not in pinned] == []
    assert sorted(set(names)) == sorted(names)


def test_the_lock_holds_versions_only_of_what_every_platform_may_use():
    for name, version in lock_pins().items():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), name
        assert not name.startswith(("nvidia", "cuda", "triton")), name


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


def test_notebooks_are_valid_and_hold_no_outputs():
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in code_cells(path):
            assert not cell["outputs"] and cell["execution_count"] is None, path.name


def test_notebooks_declare_parameters_once_and_explain_each():
    for path in NOTEBOOKS:
        notebook = read_notebook(path)  # refuses any other number of parameters cells
        source = next(
            cell_source(cell)
            for cell in code_cells(path)
            if "parameters" in cell["metadata"].get("tags", [])
        )
        lines = [line for line in source.splitlines() if re.match(r"\w+ = ", line)]
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
            if "parameters" not in cell["metadata"].get("tags", []):
                lines = sum(bool(line.strip()) for line in source.splitlines())
                imports = all(isinstance(node, IMPORTS) for node in tree.body)
                assert imports or lines <= MAX_CELL_LINES, where
            assert not [node for node in ast.walk(tree) if isinstance(node, definitions)], where


def test_profiles_fit_the_notebooks():
    assert {"smoke", "mini", "paper"} <= {path.stem for path in PROFILES}
    declared = {path.stem: read_notebook(path).defaults for path in NOTEBOOKS if numbered(path)}
    for path in PROFILES:
        sections = read_profile(path)
        if declared:
            merge_profile(sections, declared)


def numbered(path: Path) -> bool:
    return re.match(r"\d\d_", path.name) is not None


def code_cells(path: Path) -> list[dict]:
    cells = nbformat.read(path, as_version=4)["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def dependencies() -> list[str]:
    project = pyproject()["project"]
    return [
        *project["dependencies"],
        *chain.from_iterable(project["optional-dependencies"].values()),
    ]


def lock_pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def kit_imports(source: str, path: Path) -> set[str]:
    """Names of the kit's modules that a source imports; `path` resolves relative imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else base for name in names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()
