"""What a loader makes of the files on disk, said in seconds, before hours are spent on them."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from fitclip_core.videos import first_rows, video_numbers

from data_prep import video
from data_prep.clip_frames import ClipRequest, FrameRule, clip_frames
from data_prep.datasets import load, options_of
from data_prep.datasets.base import DataSet
from data_prep.datasets.official import OFFICIAL
from data_prep.decode_workers import Failure, available_cores, killable_map

SHOWN = 3  # examples of what is missing or left out
MOST_TEXTS, MOST_SIZES = 50_000, 2_000  # texts tokenized and files asked for their size, at most
_WIDTH, _LABEL = 100, 11


@dataclass(frozen=True)
class Check:
    """What was found. `report` puts it in words.

    Attributes:
        loader: its name.
        options: all of the loader's, defaults included.
        data_set: what the loader returned.
        there: the clips whose file is there, a row a clip and text.
        videos: distinct clips of the table (rows with equal path, start and end are one).
        videos_there: those whose file is there.
        seconds: that the loader took.
        max_missing: the largest share of clips without a file that a run would accept.
        rule: the frames that a run would keep of each clip.
        file_bytes: of all files that are there; where there are many, estimated from some.
        captions: distinct captions.
        captions_read: how many of them were tokenized (all, or `MOST_TEXTS`).
        captions_cut: how many of those are longer than CLIP's 77 tokens.
        trials: what `try_clips` returned.
    """

    loader: str
    options: Mapping[str, Any]
    data_set: DataSet
    there: pd.DataFrame
    videos: int
    videos_there: int
    seconds: float
    max_missing: float
    rule: FrameRule
    file_bytes: int
    captions: int
    captions_read: int
    captions_cut: int
    trials: pd.DataFrame

    @property
    def store_bytes(self) -> int:
        """What the frame store of those clips takes: uint8, `rule.shape` a clip."""
        return self.videos_there * math.prod(self.rule.shape)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a run on these files would stop or mean nothing; empty when it would not."""
        found = []
        try:
            self.data_set.check_missing(self.max_missing)
        except ValueError as error:
            found.append(str(error))
        if self.there.empty and not found:
            found.append(f"none of the {len(self.data_set.clips)} clips has a file")
        if len(self.trials) and (self.trials["reason"] != "").all():
            found.append(
                f"none of the {len(self.trials)} clips that were tried can be decoded; the first: "
                f"{self.trials['path'].iloc[0]} {self.trials['reason'].iloc[0]}"
            )
        return tuple(found)


def check(
    loader: str,
    root: Path | str,
    options: Mapping[str, Any] | None = None,
    *,
    max_missing: float = 0.05,
    decode: int = 3,
    deadline: float = 20.0,
    rule: FrameRule | None = None,
) -> Check:
    """Load a data set's annotation, look for its files, count its texts, decode a few clips.

    Args:
        loader: one of `data_prep.datasets.LOADERS`.
        root: the data set's own folder.
        options: the loader's; what is left out has its default.
        max_missing: the largest share of clips without a file to accept, in [0, 1].
        decode: clips to decode, spread over the table.
        deadline: seconds that one of them may take.
        rule: which frames to decode; by default four of 224 pixels, the paper's for ViT-B/16.

    Raises: ValueError for a wrong use, and for all that is wrong with the annotation. Missing files
    and clips that do not decode are no error here: see `Check.problems`.
    """
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing is {max_missing}; give a share in [0, 1]")
    if decode < 0:
        raise ValueError(f"decode is {decode}; give a number of clips from 0")
    rule = FrameRule() if rule is None else rule
    given = dict(options or {})
    start = perf_counter()
    data_set = load(loader, root, **given)
    seconds = perf_counter() - start
    there = clips_there(data_set)
    distinct = one_a_video(there)
    captions = data_set.clips.get("text", pd.Series(dtype="str")).dropna().drop_duplicates()
    read, cut = _count_cut(captions)
    return Check(
        loader,
        options_of(loader) | given,
        data_set,
        there,
        len(one_a_video(data_set.clips)),
        len(distinct),
        seconds,
        max_missing,
        rule,
        file_bytes=bytes_of(data_set.root, there["path"].unique()),
        captions=len(captions),
        captions_read=read,
        captions_cut=cut,
        trials=try_clips(distinct, data_set.root, rule, decode, deadline=deadline),
    )


def clips_there(data_set: DataSet) -> pd.DataFrame:
    """The clips whose file is there, in the table's order."""
    # pandas' own isin takes 20 times as long on millions of texts
    absent = set(data_set.missing["clip_id"].tolist())
    there = [clip_id not in absent for clip_id in data_set.clips["clip_id"].tolist()]
    return data_set.clips[there]


def one_a_video(clips: pd.DataFrame) -> pd.DataFrame:
    """The first row of each distinct video of a clips table."""
    return clips[first_rows(video_numbers(clips))]


def try_clips(
    clips: pd.DataFrame, root: Path, rule: FrameRule, n: int, *, deadline: float = 20.0
) -> pd.DataFrame:
    """Decode n clips of a table, evenly spread over it, in processes that can be killed.

    Returns: DataFrame (clip_id, path, seconds, reason), a row a clip in the table's order: the
    seconds it took a worker while all of them were busy (NaN if it failed), and why it failed
    (empty if it did not).

    Raises: ValueError for a deadline that is not positive.
    """
    n = min(n, len(clips))
    chosen = clips.iloc[np.linspace(0, len(clips) - 1, n).round().astype(int)]
    requests = [
        ClipRequest(clip_id, root / path, start, end)
        for clip_id, path, start, end in chosen[["clip_id", "path", "start", "end"]].itertuples(
            index=False, name=None
        )
    ]
    workers = max(1, min(n, available_cores()))
    rows: list[tuple[str, str, float, str]] = [("", "", math.nan, "")] * n
    for number, result in killable_map(
        partial(_seconds_to_decode, rule), requests, workers=workers, deadline=deadline
    ):
        failed = isinstance(result, Failure)
        seconds, reason = (math.nan, result.reason) if failed else (result, "")
        clip_id, path = chosen[["clip_id", "path"]].iloc[number]
        rows[number] = (clip_id, path, seconds, reason)
    return _trials(rows)


def bytes_of(root: Path, paths: Iterable[str]) -> int:
    """Bytes of some files under a folder, in all; of many, the mean of some of them times their
    number. A file that is not there counts as empty."""
    every = list(paths)
    some = [every[i] for i in _spread(len(every), MOST_SIZES)]
    sizes = [(root / path).stat().st_size if (root / path).is_file() else 0 for path in some]
    return round(sum(sizes) * len(every) / len(some)) if some else 0


def report(found: Check) -> str:
    """A check in words, as `fitclip check-data` and notebook 01 show it; no line holds control
    characters, whatever names and captions hold."""
    return "\n".join(_report_lines(found))


def printable(text: str) -> str:
    """A text on one line, safe for a terminal: what does not print is shown as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def in_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units: 601.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB" if count < 999.5 else f"{count:,.0f} TB"


def _report_lines(found: Check) -> Iterator[str]:
    data_set = found.data_set
    protocol = data_set.protocol
    title = protocol.get("data_set", data_set.name)
    yield printable(f"{title} (loader {found.loader}) in {data_set.root}")
    chosen = ", ".join(f"{name} {value}" for name, value in found.options.items())
    yield from _line("options", chosen or "the loader has none")
    for name, value in protocol.items():
        if name not in ("data_set", "annotations"):
            yield from _line(name.replace("_", " "), _shortly(value))

    yield ""
    for name, digest in protocol.get("annotations", {}).items():
        yield from _line("annotation", f"{name}, sha256 {str(digest)[:12]}")
    yield from _line(
        "read",
        f"{_many(data_set.annotated, 'item')} annotated in this split, "
        f"{_rows_in_words(found)} in the table ({found.seconds:.1f} s)",
    )
    for (reason, source), group in data_set.dropped.groupby(["reason", "source"], sort=False):
        yield from _line(
            "left out", f"{len(group):,} of {source}: {reason} ({_first(group['item'])})"
        )
    if data_set.dropped.empty:
        yield from _line("left out", "nothing")
    yield from _file_lines(found)
    yield from _content_lines(found)

    yield ""
    yield from _line("a run", _outlook(found))
    for note in data_set.notes:
        yield from _line("note", note)
    for problem in found.problems:
        yield from _line("PROBLEM", problem)
    if not found.problems:
        yield from _line("verdict", _verdict(data_set))


def _verdict(data_set: DataSet) -> str:
    if not data_set.missing.empty:
        return "usable in part, see above"
    if data_set.protocol.get("annotation_size", OFFICIAL) != OFFICIAL:
        return "usable, but the annotation has not the official size, which every number then says"
    return "fine"


def _rows_in_words(found: Check) -> str:
    """The table's rows: clips, or where a video has several rows, texts of videos."""
    clips = found.data_set.clips
    if found.videos == len(clips):
        return _many(len(clips), "clip")
    rows = "text" if "text" in clips else "row"
    return f"{_many(len(clips), rows)} of {_many(found.videos, 'video')}"


def _file_lines(found: Check) -> Iterator[str]:
    data_set = found.data_set
    wanted, there = data_set.clips["path"].nunique(), found.there["path"].nunique()
    about = "about " if there > MOST_SIZES else ""
    yield from _line(
        "files",
        f"{there:,} of {wanted:,} there, {about}{in_bytes(found.file_bytes)}; they cover "
        f"{len(found.there):,} of {_rows_in_words(found)} "
        f"({_percent(data_set.coverage)})",
    )
    absent = data_set.missing["path"].drop_duplicates()
    if len(absent):
        yield from _line("missing", f"{_many(len(absent), 'file')}, {_first(absent)}")
    failed = found.trials[found.trials["reason"] != ""]
    if len(found.trials):
        decoded = found.trials["seconds"].dropna()
        took = f", {decoded.median():.2g} s each" if len(decoded) else ""
        yield from _line("decoded", f"{len(decoded)} of {len(found.trials)} clips tried{took}")
    else:
        yield from _line("decoded", "no clip was tried")
    for row in failed.itertuples():
        yield from _line("failed", f"{row.path}: {row.reason}")


def _content_lines(found: Check) -> Iterator[str]:
    data_set = found.data_set
    if found.captions:
        of = "" if found.captions_read == found.captions else f" of {found.captions_read:,} read"
        yield from _line(
            "captions",
            f"{found.captions:,} distinct; {found.captions_cut:,}{of} are longer than CLIP's 77 "
            "tokens and are cut there",
        )
    if "label" in data_set.clips:
        held, named = data_set.clips["label"].nunique(), classes_of(data_set)
        empty = f", {named - held} of them without a clip" if named > held else ""
        yield from _line(
            "classes", f"{named:,}{empty}; {_many(len(data_set.templates), 'prompt')} each"
        )


def classes_of(data_set: DataSet) -> int:
    """How many there are to choose from, those without a clip included."""
    return len(data_set.classes) or data_set.clips["label"].nunique()


def _outlook(found: Check) -> str:
    data_set, rule = found.data_set, found.rule
    n, texts = found.videos_there, len(found.there)
    if not n:
        return "has nothing to decode"
    if "label" in data_set.clips:
        measured = f"classifies each clip among {classes_of(data_set):,} classes"
    else:
        measured = f"looks for each caption's clip among {n:,}, and the other way round"
        if texts > n:
            measured += f", where the best of a clip's captions counts ({texts:,} in all)"
    left = found.videos - n
    without = (
        f"; {_many(left, 'clip')} without a file {'is' if left == 1 else 'are'} left out, which "
        "every number then says"
        if left
        else ""
    )
    return (
        f"keeps {rule.n_frames} frames of {rule.size} px of {_many(n, 'clip')} "
        f"({in_bytes(found.store_bytes)} on disk) and {measured}{without}"
    )


def _line(label: str, text: str) -> Iterator[str]:
    """A labelled line, wrapped; a long path stays whole."""
    yield from textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent=f"  {printable(label):<{_LABEL}} ",
        subsequent_indent=" " * (_LABEL + 3),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _first(items: pd.Series) -> str:
    shown = ", ".join(_shortly(item) for item in items.head(SHOWN))
    return f"the first: {shown}" if len(items) > SHOWN else shown


def _shortly(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _percent(share: float) -> str:
    """Never "100%" for less than all, nor "0%" for more than nothing."""
    text = f"{100 * share:.1f}%"
    if share < 1 and text == "100.0%":
        return "99.9%"
    return "0.1%" if share > 0 and text == "0.0%" else text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _count_cut(captions: pd.Series) -> tuple[int, int]:
    """Captions that were tokenized, and how many of them have more than CLIP's 77 tokens."""
    some = captions.iloc[_spread(len(captions), MOST_TEXTS)].tolist()
    if not some:
        return 0, 0
    from open_clip.tokenizer import SimpleTokenizer  # slow to import, and not always needed

    tokenizer = SimpleTokenizer()
    ends = 2  # the marks of start and end
    limit = tokenizer.context_length
    return len(some), sum(len(tokenizer.encode(text)) + ends > limit for text in some)


def _spread(n: int, most: int) -> np.ndarray:
    """Up to `most` places of n, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def _seconds_to_decode(rule: FrameRule, request: ClipRequest) -> float:
    start = perf_counter()
    clip_frames(rule, video.decode, request)
    return perf_counter() - start


def _trials(rows: list[tuple[str, str, float, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["clip_id", "path", "seconds", "reason"])
    return table.astype({"clip_id": "str", "path": "str", "seconds": "float64", "reason": "str"})
