"""Where things lie under a data set's root; a folder is scanned once, not clip by clip."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".ogv", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def scan(root: Path, folder: str = "") -> frozenset[str]:
    """The files below a folder of the root, relative to the root, with '/'.

    Links are followed, loops are not; hidden files and broken links are left out. A folder that is
    not there holds no files.

    Raises: ValueError when a folder cannot be read.
    """
    if not (root / folder).is_dir():
        return frozenset()
    try:
        return frozenset(_files_below(root / folder, f"{folder}/" if folder else "", ()))
    except OSError as error:
        raise ValueError(f"a folder cannot be read: {error}") from error


def find(files: AbstractSet[str], path: str) -> str | None:
    """The path itself if there is such a file, else one that differs in its extension only.

    A video is not found as an image (such as its thumbnail), nor an image as a video; a path
    without a known extension is looked for as a video.
    """
    if path in files:
        return path
    stem, suffix = os.path.splitext(path)
    # Another extension belongs to the stem, but for the bare dot of some of DiDeMo's names.
    if suffix != "." and suffix.lower() not in VIDEO_SUFFIXES + IMAGE_SUFFIXES:
        stem = path
    suffixes = IMAGE_SUFFIXES if suffix.lower() in IMAGE_SUFFIXES else VIDEO_SUFFIXES
    others = (name for end in suffixes for name in (stem + end, stem + end.upper(), path + end))
    return next((name for name in others if name in files), None)


def locate(
    rows: pd.DataFrame,
    files: AbstractSet[str],
    layouts: Sequence[pd.Series],
    *,
    any_extension: bool = True,
) -> pd.DataFrame:
    """Each row's file, in the first of the layouts in use that has it.

    layouts: the rows' paths in each. any_extension: whether `find`'s other extensions will do.

    Returns: the rows with `path`, `layout` (its number, or -1 where no file is there; then the path
    is the one in the layout that most rows were found in, or in the first) and `found`.
    """
    folders = {path.rpartition("/")[0] for path in files}

    @cache
    def look(path: str) -> str | None:
        if any_extension and path.rpartition("/")[0] in folders:
            return find(files, path)
        return path if path in files else None

    numbers, paths = [], []
    for expected in zip(*layouts, strict=True):
        found = ((number, look(path)) for number, path in enumerate(expected))
        number, path = next((each for each in found if each[1]), (-1, None))
        numbers.append(number)
        paths.append(path)
    usual = Counter(number for number in numbers if number >= 0).most_common(1)
    default = layouts[usual[0][0] if usual else 0]
    located = [path or other for path, other in zip(paths, default, strict=True)]
    layout = np.array(numbers, dtype=int)
    return rows.assign(path=located, layout=layout, found=layout >= 0)


def _files_below(folder: Path | str, prefix: str, above: tuple[object, ...]) -> Iterator[str]:
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
