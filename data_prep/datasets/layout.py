"""Where things lie under a data set's root; a folder is scanned once, not clip by clip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".ogv", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_file(root: Path, candidates: Sequence[str], what: str) -> Path:
    """The first of some relative paths that is a file.

    candidates: the layouts in use, best first, with '/'.

    Raises: ValueError when the root is no folder or none is there; it lists them.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give the data set's own folder as root")
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise ValueError(f"no {what} under {root}; looked for {', '.join(candidates)}")


@dataclass(frozen=True)
class Files:
    """The files below a folder, scanned once; links are followed, loops are not.

    root: the data set's root, which `paths` and the answers are relative to.
    folder: the folder to scan, the root or below it; one that is not there holds no files.
    """

    root: Path
    folder: Path

    @cached_property
    def paths(self) -> frozenset[str]:
        """All files, relative to the root, with '/'; hidden ones and broken links left out.

        Raises: ValueError when a folder cannot be read.
        """
        if not self.folder.is_dir():
            return frozenset()
        relative = self.folder.relative_to(self.root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        try:
            return frozenset(_files_below(self.folder, prefix, ()))
        except OSError as error:
            raise ValueError(f"a folder cannot be read: {error}") from error

    def find(self, path: str) -> str | None:
        """The path itself if there is such a file, else one that differs in its extension only.

        A video is not found as an image (such as its thumbnail), nor an image as a video; a path
        without a known extension is looked for as a video.
        """
        if path in self.paths:
            return path
        stem, suffix = os.path.splitext(path)
        # Another extension belongs to the stem, but for the bare dot of some of DiDeMo's names.
        if suffix != "." and suffix.lower() not in VIDEO_SUFFIXES + IMAGE_SUFFIXES:
            stem = path
        for candidate in IMAGE_SUFFIXES if suffix.lower() in IMAGE_SUFFIXES else VIDEO_SUFFIXES:
            for found in (stem + candidate, stem + candidate.upper(), path + candidate):
                if found in self.paths:
                    return found
        return None


def locate(
    files: Files, candidates: Sequence[Sequence[str]], *, any_extension: bool = True
) -> tuple[list[str], np.ndarray]:
    """Each item's file, in the first of the layouts in use that has it.

    candidates: for each item, the path expected in each layout; the layouts in one order.
    any_extension: whether a file that differs in its extension only will do, as `Files.find` says.

    Returns: the paths, and for each the number of its layout, or -1 where no file is there; then
    the path is the one expected in the layout that most items were found in, or in the first.
    """
    folders = {path.rpartition("/")[0] for path in files.paths}

    @cache
    def look(path: str) -> str | None:
        if path in files.paths:
            return path
        worth = any_extension and path.rpartition("/")[0] in folders
        return files.find(path) if worth else None

    paths, layouts = [], []
    for expected in candidates:
        found = ((look(path), layout) for layout, path in enumerate(expected))
        path, layout = next(((path, layout) for path, layout in found if path), ("", -1))
        paths.append(path)
        layouts.append(layout)
    usual = Counter(layout for layout in layouts if layout >= 0).most_common(1)
    default = usual[0][0] if usual else 0
    located = [path or expected[default] for path, expected in zip(paths, candidates, strict=True)]
    return located, np.array(layouts, dtype=int)


def _files_below(
    folder: str | Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            link = entry.is_symlink()  # one that leads nowhere is neither a folder nor a file
            if os.path.isdir(entry.path) if link else entry.is_dir():
                yield from _files_below(entry.path, f"{prefix}{entry.name}/", (*above, here))
            elif os.path.isfile(entry.path) if link else entry.is_file():
                yield prefix + entry.name
