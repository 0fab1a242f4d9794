"""What share of seeded one-line breaks the tests catch: python -m benchmarks.mutants --each 10

Of each module below some places are drawn: a comparison, an operator, a number or a condition. Each
is broken by itself in a copy of the checkout, and the module's own tests are run on it, up to the
first failure. A break is caught when they fail or take too long. `--root` measures another
checkout, such as one of an earlier commit; of modules and tests that it lacks nothing is drawn.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# A module, by its place in any version of the kit, and the folders or files of its tests.
MODULES = {
    "fitclip_core/losses.py": ["tests/fitclip_core/test_losses.py"],
    "fitclip_core/distillation.py": ["tests/fitclip_core/test_distillation.py"],
    "fitclip_core/ensembling.py": ["tests/fitclip_core/test_ensembling.py"],
    "fitclip_core/merges.py": ["tests/fitclip_core/test_merges.py"],
    "fitclip_core/metrics.py": ["tests/fitclip_core/test_metrics.py"],
    "fitclip_core/statistics.py": ["tests/fitclip_core/test_statistics.py"],
    "fitclip_core/zero_shot.py": ["tests/fitclip_core/test_zero_shot.py"],
    "fitclip_core/augmentation.py": ["tests/fitclip_core/test_distillation.py"],
    "fitclip_core/clips.py": ["tests/fitclip_core/test_clips.py"],
    "figures/inference.py": ["tests/figures/test_inference.py"],
    "data_prep/sampling.py": ["tests/data_prep/test_sampling.py"],
    "data_prep/annotations.py": ["tests/data_prep/test_annotations.py"],
    "data_prep/clips.py": ["tests/data_prep/test_clips.py", "tests/data_prep/test_clips_tables.py"],
    "fitclip_core/artefacts.py": ["tests/fitclip_core/test_artefacts.py"],
    "fitclip_kit/store/files.py": ["tests/fitclip_kit/store/test_files.py"],
    "fitclip_core/results.py": ["tests/fitclip_core/test_results.py"],
    "fitclip_kit/store/results.py": ["tests/fitclip_kit/store/test_results.py"],
    "fitclip_core/checkpoints.py": ["tests/fitclip_core/test_checkpoints.py"],
    "fitclip_kit/weights/checkpoints.py": ["tests/fitclip_kit/weights/test_checkpoints.py"],
}
SECONDS = 300  # a broken loop need not end
SWAPPED = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.And: "or", ast.Or: "and",
}  # fmt: skip


def breaks(source: str) -> Iterator[tuple[int, str]]:
    """Each place that can be broken: its line and the whole broken source."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    encoded = source.encode()

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            left, right = node.left, node.comparators[0]
            new = SWAPPED[type(node.ops[0])]
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
            left, right, new = node.left, node.right, SWAPPED[type(node.op)]
        elif isinstance(node, ast.BoolOp):
            left, right, new = node.values[0], node.values[1], SWAPPED[type(node.op)]
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            broken = encoded[:start] + repr(node.value + 1).encode() + encoded[end:]
            yield node.lineno, broken.decode()
            continue
        else:
            continue
        start, end = at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)
        between = encoded[start:end]
        if between.strip(b" ()\n").isascii() and b"#" not in between:
            kept = [bytes([byte]) for byte in between if bytes([byte]) in b"()"]
            closing, opening = kept.count(b")"), kept.count(b"(")
            middle = b")" * closing + f" {new} ".encode() + b"(" * opening
            yield left.end_lineno, (encoded[:start] + middle + encoded[end:]).decode()


def caught(checkout: Path, module: str, broken: str, tests: list[str]) -> bool:
    """Whether the tests fail on a broken module; it is whole again afterwards."""
    path = checkout / module
    whole = path.read_text(encoding="utf-8")
    path.write_text(broken, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    environment = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            [*command, *tests], cwd=checkout, env=environment, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(whole, encoding="utf-8")
    return done.returncode != 0


def main() -> None:
    """Draw the breaks, run the tests, print what survived and the share that was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=10, help="breaks of a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args()
    total = hits = 0
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "kit"
        ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")
        shutil.copytree(options.root, checkout, ignore=ignored)
        for module, tests in MODULES.items():
            there = [test for test in tests if (checkout / test).exists()]
            if not (checkout / module).exists() or not there:
                continue
            places = list(breaks((checkout / module).read_text(encoding="utf-8")))
            rng = random.Random(f"{options.seed} {module}")
            for line, broken in rng.sample(places, min(options.each, len(places))):
                total += 1
                if caught(checkout, module, broken, there):
                    hits += 1
                else:
                    print(f"survived: {module}:{line}", flush=True)
            print(f"{module}: {hits} of {total} so far", flush=True)
    print(f"{hits} of {total} caught ({100 * hits / max(total, 1):.0f}%)")


if __name__ == "__main__":
    main()
