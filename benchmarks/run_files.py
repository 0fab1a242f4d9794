"""What a run left, to compare it with another run."""

import hashlib
from collections.abc import Collection
from pathlib import Path


def digests(run: Path, without: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 of every file of a run folder but its lock, by path.

    without: folders of the run to leave out, such as "notebooks", whose executed copies hold times.
    """
    left: dict[str, str] = {}
    for path in sorted(run.rglob("*")):
        relative = path.relative_to(run)
        if path.is_file() and relative.parts[0] not in {".lock", *without}:
            left[relative.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return left
