"""Whether a default run gives the numbers of the run that was frozen before the big step.

    python -m benchmarks.oracle freeze runs/mini    # writes benchmarks/oracle.json
    python -m benchmarks.oracle compare runs/mini   # exit status 1 where they differ

Ranks are compared exactly, cell by cell, whatever a cell's coordinates are called: each cell is a
digest of its items, directions and ranks. Students are compared by the norms of their tensors, and
the claims by their numbers, to 1e-6. It goes when the step is done.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file

FROZEN = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-6


def frozen(run: Path) -> dict[str, Any]:
    """What of a run is compared: cells, students and claims."""
    cells = Counter(
        _digest(pd.read_parquet(path)) for path in sorted((run / "results").rglob("*.parquet"))
    )
    students = {
        path.parent.relative_to(run).as_posix(): _norms(path)
        for path in sorted(run.glob("0[356]*/**/*.safetensors"))
    }
    claims = pd.read_csv(run / "08_supplementary_tables" / "claims.csv", dtype=str).fillna("")
    return {
        "cells": dict(sorted(cells.items())),
        "students": students,
        "claims": claims.values.tolist(),
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs, in words; nothing where the runs agree."""
    cells = [Counter(kept["cells"]) for kept in (found, expected)]
    problems = [
        f"{(one - other).total()} of {one.total()} cells {what}"
        for one, other, what in ((*cells, "are new"), (*reversed(cells), "are gone"))
        if one - other
    ]
    names = found["students"].keys() ^ expected["students"].keys()
    problems += [f"student {name} is in one run only" for name in sorted(names)]
    for name in found["students"].keys() & expected["students"].keys():
        apart = np.abs(np.subtract(found["students"][name], expected["students"][name])).max()
        if not apart <= TOLERANCE:
            problems.append(f"student {name}: norms are {apart:.3g} apart")
    if len(found["claims"]) != len(expected["claims"]):
        problems.append(f"{len(found['claims'])} claims instead of {len(expected['claims'])}")
    for row, other in zip(found["claims"], expected["claims"], strict=False):
        if not all(map(_same, row, other)):
            problems.append(f"claim {other[0]!r}: {row[1:]} instead of {other[1:]}")
    return problems


def _digest(outcomes: pd.DataFrame) -> str:
    rows = outcomes[["item", "direction", "rank"]].sort_values(["direction", "item", "rank"])
    text = rows.to_csv(index=False, float_format="%.1f")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _norms(path: Path) -> list[float]:
    return [tensor.double().norm().item() for _, tensor in sorted(load_file(path).items())]


def _same(first: str, second: str) -> bool:
    try:
        return abs(float(first) - float(second)) <= TOLERANCE
    except ValueError:
        return first == second


def main() -> int:
    """Freeze or compare, as the command line says."""
    what, run = sys.argv[1], Path(sys.argv[2])
    found = frozen(run)
    if what == "freeze":
        FROZEN.write_text(json.dumps(found, indent=0) + "\n")
        return 0
    expected = json.loads(FROZEN.read_text())
    problems = differences(found, expected)
    counted = f"{sum(found['cells'].values())} cells, {len(found['students'])} students"
    print("\n".join(problems) or f"equal: {counted}, {len(found['claims'])} claims")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
