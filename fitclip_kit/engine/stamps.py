"""The runner's record of a finished notebook: what it was made from and what it made.

A stamp holds digests only, no times: the same work gives the same stamp, so a later notebook runs
again exactly when something before it changed.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitclip_kit.store.files import (
    file_sha256,
    json_digest,
    manifest_digest,
    manifest_problems,
    write_json,
)

SCHEMA = 1


@dataclass(frozen=True)
class Files:
    """Where one notebook's files lie in a run folder."""

    run_dir: Path
    stem: str

    def _beside(self, suffix: str) -> Path:
        return self.run_dir / "notebooks" / f"{self.stem}{suffix}"

    @property
    def executed(self) -> Path:
        """The executed copy; there only when every cell completed."""
        return self._beside(".ipynb")

    @property
    def html(self) -> Path:
        """The executed copy as a page."""
        return self._beside(".html")

    @property
    def running(self) -> Path:
        """The copy that grows while the notebook runs."""
        return self._beside(".running.ipynb")

    @property
    def failed(self) -> Path:
        """The partial copy of a run that failed or was interrupted."""
        return self._beside(".failed.ipynb")

    @property
    def stamp(self) -> Path:
        """The record that the notebook is done."""
        return self._beside(".stamp.json")

    @property
    def shared(self) -> Path:
        """The folder of results that all notebooks share."""
        return self.run_dir / "results"

    @property
    def results(self) -> Path:
        """The folder whose manifest the notebook writes as its last act."""
        return self.run_dir / self.stem


def write_stamp(files: Files, made_from: Mapping[str, Any]) -> None:
    """Record that the notebook is done, with digests of its results, of its rendered copies and of
    the shared results so far, of which it measured or read some."""
    rendered = {path.name: file_sha256(path) for path in (files.executed, files.html)}
    stamp = {
        "schema": SCHEMA,
        "made_from": dict(made_from),
        "results": manifest_digest(files.results),
        "rendered": rendered,
        "shared": {
            path.relative_to(files.shared).as_posix(): file_sha256(path)
            for path in sorted(files.shared.rglob("*"))
            if path.is_file()
        },
    }
    write_json(files.stamp, stamp)


def stamp_digest(files: Files) -> str:
    """What a later notebook depends on: digest of the stamp without the rendered copies.

    The copies hold cell times, so they differ from run to run where the results do not.
    """
    stamp = _read(files)
    return json_digest([stamp["made_from"], stamp["results"]]) if stamp else "not done"


def reasons_to_run(files: Files, made_from: Mapping[str, Any]) -> list[str]:
    """Why the notebook has to run; empty when it is done and every output is as it left it."""
    stamp = _read(files)
    if stamp is None:
        return ["it has not completed yet"]
    reasons = [
        f"its {name} changed"
        for name in sorted({*made_from, *stamp["made_from"]})
        if made_from.get(name) != stamp["made_from"].get(name)
    ]
    if reasons:  # no need to hash the outputs
        return reasons
    for folder, listed in ((files.stamp.parent, "rendered"), (files.shared, "shared")):
        for name, sha256 in stamp[listed].items():
            path = folder / name
            if not path.is_file() or file_sha256(path) != sha256:
                reasons.append(f"{name} is missing or was changed")
    reasons += results_problems(files)
    if not reasons and manifest_digest(files.results) != stamp["results"]:
        reasons.append("its results manifest was changed")
    return reasons


def results_problems(files: Files) -> list[str]:
    """Why the results that the notebook declares are not valid; empty when they are."""
    return manifest_problems(files.results, kind=files.stem)


def package_data_digest(packages: Sequence[str]) -> str:
    """SHA-256 over the packages' files that are not Python: the shipped teacher, word lists, ...

    Raises: ValueError when a package is not there.
    """
    digests = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ValueError(f"no package named {package!r}; install the kit (make test does)")
        for root in map(Path, spec.submodule_search_locations or []):
            for path in root.rglob("*"):
                relative = path.relative_to(root)
                hidden = any(part.startswith((".", "__")) for part in relative.parts)
                if path.is_file() and path.suffix != ".py" and not hidden:
                    digests[f"{package}/{relative.as_posix()}"] = file_sha256(path)
    return json_digest(digests)


def _read(files: Files) -> dict[str, Any] | None:
    try:
        stamp = json.loads(files.stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"schema", "made_from", "results", "rendered", "shared"}
    if not isinstance(stamp, dict) or set(stamp) != keys or stamp["schema"] != SCHEMA:
        return None
    return stamp
