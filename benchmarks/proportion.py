"""How large the kit is, by the measures that its design sets: python -m benchmarks.proportion

Lines are physical ones, docstrings and blank lines included. A public parameter counts as unused
where no call outside the tests, by the function's name, passes it: by keyword, by position or by
way of `**`. Calls through another name are not seen, so each name in the list is to be looked at.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ("fitclip_core", "fitclip_kit", "data_prep", "figures", "notebooks", "benchmarks")
READ_IN_ONE_GO = ("losses", "distillation", "ensembling", "encoders", "zero_shot", "metrics")


def lines(folder: Path) -> int:
    """Physical lines of the Python files in a folder."""
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def unused_parameters() -> list[str]:
    """Parameters with a default of public functions that no call outside the tests passes."""
    trees = {
        path: ast.parse(path.read_text()) for name in SOURCE for path in (ROOT / name).rglob("*.py")
    }
    programs = [*trees.values(), *_notebooks()]
    passed: dict[str, list[ast.Call]] = {}
    for tree in programs:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for called in (node.func, *node.args[:1]):  # partial(f, ...), submit(f, ...)
                    name = getattr(called, "attr", getattr(called, "id", None))
                    if name:
                        passed.setdefault(name, []).append(node)
    unused = []
    for path, tree in trees.items():
        if path.is_relative_to(ROOT / "benchmarks") or path.name == "cli.py":  # users pass those
            continue
        for function, owner in _public(tree):
            name = owner if function.name == "__init__" else function.name
            calls = passed.get(name or "", [])
            arguments = function.args.args
            optional = arguments[len(arguments) - len(function.args.defaults) :]
            given = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            for argument in [*optional, *(arg for arg, default in given if default)]:
                place = arguments.index(argument) - bool(owner) if argument in arguments else 99
                if not any(_passes(call, argument.arg, place) for call in calls):
                    where = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                    unused.append(f"{where}.{name}({argument.arg}=)")
    return unused


def _public(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str | None]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                named = isinstance(inner, ast.FunctionDef) and (
                    inner.name == "__init__" or not inner.name.startswith("_")
                )
                if named:
                    yield inner, node.name


def _passes(call: ast.Call, name: str, place: int) -> bool:
    by_name = any(keyword.arg in (name, None) for keyword in call.keywords)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    return by_name or starred or len(call.args) > place


def _notebooks() -> Iterator[ast.Module]:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield ast.parse("\n".join(sources))


def main() -> None:
    """Print the measures and the unused parameters."""
    unused = unused_parameters()
    files = sorted((ROOT / "fitclip_core").glob("*.py"))
    core = {path.stem: len(path.read_text().splitlines()) for path in files}
    measures = {
        "fitclip_core, lines": sum(core.values()),
        "fitclip_core, modules": len(core),
        f"{' + '.join(READ_IN_ONE_GO)}, lines": sum(core[name] for name in READ_IN_ONE_GO),
        "source, lines": sum(lines(ROOT / name) for name in SOURCE),
        **{f"  {name}": lines(ROOT / name) for name in SOURCE},
        "tests, lines": lines(ROOT / "tests"),
        "public parameters that nobody passes": len(unused),
    }
    for measure, value in measures.items():
        print(f"{measure:75} {value:6}")
    print("\n".join(unused))


if __name__ == "__main__":
    main()
