"""A run of the kit's own notebooks, with a profile and changes, of which nothing is done yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitclip_kit.engine.settings import merge_profile, profile_file, read_notebooks, read_profile
from fitclip_kit.engine.work import Run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
BOOKS = {book.stem: book.defaults for book in read_notebooks(NOTEBOOKS)}


def run_of(
    profile: str,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    common: Mapping[str, Any] | None = None,
    working_dir: Path = NOTEBOOKS,
) -> Run:
    """changes: a notebook's number -> values that win over the profile's; common: the same of all
    notebooks that declare them."""
    sections = read_profile(profile_file(NOTEBOOKS, profile))
    sections["common"] = {**sections.get("common", {}), **(common or {})}
    stems = {stem[:2]: stem for stem in BOOKS}
    for number, section in (changes or {}).items():
        sections.setdefault(stems[number], {}).update(section)
    return Run(Path("/nowhere/run"), working_dir, merge_profile(sections, BOOKS))
