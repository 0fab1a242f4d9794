"""What a loader makes of the files on disk, said in seconds, before hours are spent on them."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from data_prep.clip_frames import ClipRequest, FrameRule, clip_frames
from data_prep.datasets import load, options_of
from data_prep.datasets.base import OFFICIAL, DataSet
from data_prep.decode_workers import Failure, available_cores, killable_map
from fitclip_core.clips import first_rows, video_numbers

SHOWN = 3  # examples of what is missing or left out
MOST_TEXTS, MOST_SIZES = 50_000, 2_000  # texts tokenized and files asked for their size, at most
_WIDTH, _LABEL = 100, 11
_DEADLINE = 20.0  # seconds that a clip may take


@dataclass(frozen=True)
class Check:
    """What was found; `report` puts it in words.

    options: all of the loader's, defaults included.
    data_set: what the loader returned, after `seconds`.
    there: the clips whose file is there, a row a clip and text.
    videos, videos_there: distinct clips of the table, and those whose file is there.
    file_bytes: of all files that are there; where there are many, estimated from some.
    captions, captions_read, captions_cut: distinct ones; how many of them were tokenized (all, or
        `MOST_TEXTS`); how many of those are longer than CLIP's 77 tokens.
    trials: what `try_clips` returned.
    problems: why a run on these files would stop or mean nothing; empty when it would not.
    """

    loader: str
    options: Mapping[str, Any]
    data_set: DataSet
    seconds: float
    there: pd.DataFrame
    videos: int
    videos_there: int
    rule: FrameRule
    file_bytes: int
    captions: int
    captions_read: int
    captions_cut: int
    trials: pd.DataFrame
    problems: tuple[str, ...]


def check(
    loader: str,
    root: Path | str,
    options: Mapping[str, Any] | None = None,
    *,
    max_missing: float = 0.05,
    decode: int = 3,
    rule: FrameRule | None = None,
) -> Check:
    """Load a data set's annotation, look for its files, count its texts, decode a few clips.

    Args:
        loader: one of `data_prep.datasets.LOADERS`.
        root: the data set's own folder.
        options: the loader's; what is left out has its default.
        max_missing: the largest share of clips without a file that a run would accept, in [0, 1].
        decode: clips to decode, spread over the table.
        rule: which frames to decode; by default four of 224 pixels, the paper's for ViT-B/16.

    Raises: ValueError for a wrong use, and for all that is wrong with the annotation. Missing files
    and clips that do not decode are no error here: see `Check.problems`.
    """
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing is {max_missing}; give a share in [0, 1]")
    if decode < 0:
        raise ValueError(f"decode is {decode}; give a number of clips from 0")
    rule, given = rule or FrameRule(), dict(options or {})
    start = perf_counter()
    data_set = load(loader, root, **given)
    seconds = perf_counter() - start
    # pandas' own isin takes 20 times as long on millions of texts
    absent = set(data_set.missing["clip_id"].tolist())
    there = data_set.clips[[one not in absent for one in data_set.clips["clip_id"].tolist()]]
    videos = there[first_rows(video_numbers(there))]
    files = there["path"].unique()
    some = [data_set.root / path for path in files[_spread(len(files), MOST_SIZES)]]
    of_some = sum(path.stat().st_size for path in some if path.is_file())
    captions = data_set.clips.get("text", pd.Series(dtype="str")).dropna().drop_duplicates()
    read = captions.iloc[_spread(len(captions), MOST_TEXTS)].tolist()
    trials = try_clips(videos, data_set.root, rule, decode)
    return Check(
        loader=loader,
        options=options_of(loader) | given,
        data_set=data_set,
        seconds=seconds,
        there=there,
        videos=len(np.unique(video_numbers(data_set.clips))),
        videos_there=len(videos),
        rule=rule,
        file_bytes=round(of_some * len(files) / max(len(some), 1)),
        captions=len(captions),
        captions_read=len(read),
        captions_cut=_count_cut(read),
        trials=trials,
        problems=tuple(_problems(data_set, max_missing, trials)),
    )


def classes_of(data_set: DataSet) -> int:
    """How many there are to choose from, those without a clip included."""
    return len(data_set.classes) or data_set.clips["label"].nunique()


def try_clips(clips: pd.DataFrame, root: Path, rule: FrameRule, n: int) -> pd.DataFrame:
    """Decode n clips of a table, evenly spread over it, in processes that can be killed.

    Returns: DataFrame (clip_id, path, seconds, reason), a row a clip in the table's order: the
    seconds it took a worker while all of them were busy (NaN if it failed), and why it failed
    (empty if it did not).
    """
    chosen = clips.iloc[_spread(len(clips), n)][["clip_id", "path", "start", "end"]]
    rows = chosen.to_numpy(dtype=object).tolist()
    requests = [ClipRequest(name, root / path, *times) for name, path, *times in rows]
    decode = partial(_seconds_to_decode, rule)
    done = killable_map(decode, requests, workers=available_cores(), deadline=_DEADLINE)
    found = [result for _, result in sorted(done, key=itemgetter(0))]
    said = [(math.nan, one.reason) if isinstance(one, Failure) else (one, "") for one in found]
    trials = [(name, path, *one) for (name, path, *_), one in zip(rows, said, strict=True)]
    columns = {"clip_id": "str", "path": "str", "seconds": "float64", "reason": "str"}
    return pd.DataFrame(trials, columns=[*columns]).astype(columns)


def report(found: Check) -> str:
    """A check in words, as `fitclip check-data` and notebook 01 show it; no line holds control
    characters, whatever names and captions hold."""
    data_set = found.data_set
    title = data_set.protocol.get("data_set", data_set.name)
    lines = [printable(f"{title} (loader {found.loader}) in {data_set.root}")]
    for label, text in _report(found):
        wrapped = textwrap.wrap(
            printable(text),
            _WIDTH,
            initial_indent=f"  {printable(label):<{_LABEL}} ",
            subsequent_indent=" " * (_LABEL + 3),
            break_long_words=False,  # a long path stays whole
            break_on_hyphens=False,
        )
        lines += wrapped if label else [""]
    return "\n".join(lines)


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


def _report(found: Check) -> Iterator[tuple[str, str]]:
    """Labels and texts; two empty ones for an empty line."""
    data_set, protocol, clips = found.data_set, found.data_set.protocol, found.data_set.clips
    options = ", ".join(f"{name} {value}" for name, value in found.options.items())
    yield "options", options or "the loader has none"
    for name, value in protocol.items():
        if name not in ("data_set", "annotations"):
            yield name.replace("_", " "), _shortly(value)
    yield "", ""

    for name, digest in protocol.get("annotations", {}).items():
        yield "annotation", f"{name}, sha256 {str(digest)[:12]}"
    rows = _many(len(clips), "clip")
    if found.videos < len(clips):
        what = "text" if "text" in clips else "row"
        rows = f"{_many(len(clips), what)} of {_many(found.videos, 'video')}"
    annotated = f"{_many(data_set.annotated, 'item')} annotated in this split"
    yield "read", f"{annotated}, {rows} in the table ({found.seconds:.1f} s)"
    for (reason, source), group in data_set.dropped.groupby(["reason", "source"], sort=False):
        yield "left out", f"{len(group):,} of {source}: {reason} ({_first(group['item'])})"
    if data_set.dropped.empty:
        yield "left out", "nothing"

    wanted, there = clips["path"].nunique(), found.there["path"].nunique()
    size = f"{'about ' if there > MOST_SIZES else ''}{in_bytes(found.file_bytes)}"
    covered = f"{len(found.there):,} of {rows} ({_percent(data_set.coverage)})"
    yield "files", f"{there:,} of {wanted:,} there, {size}; they cover {covered}"
    absent = data_set.missing["path"].drop_duplicates()
    if len(absent):
        yield "missing", f"{_many(len(absent), 'file')}, {_first(absent)}"
    seconds = found.trials["seconds"].dropna()
    took = f", {seconds.median():.2g} s each" if len(seconds) else ""
    tried = f"{len(seconds)} of {len(found.trials)} clips tried{took}"
    yield "decoded", tried if len(found.trials) else "no clip was tried"
    for row in found.trials[found.trials["reason"] != ""].itertuples():
        yield "failed", f"{row.path}: {row.reason}"

    if found.captions:
        of = "" if found.captions_read == found.captions else f" of {found.captions_read:,} read"
        cut = f"{found.captions_cut:,}{of} are longer than CLIP's 77 tokens and are cut there"
        yield "captions", f"{found.captions:,} distinct; {cut}"
    if "label" in clips:
        held, named = clips["label"].nunique(), classes_of(data_set)
        empty = f", {named - held} of them without a clip" if named > held else ""
        yield "classes", f"{named:,}{empty}; {_many(len(data_set.templates), 'prompt')} each"
    yield "", ""

    yield "a run", _outlook(found)
    yield from (("note", note) for note in data_set.notes)
    yield from (("PROBLEM", problem) for problem in found.problems)
    if found.problems:
        return
    verdict = "fine"
    if not data_set.missing.empty:
        verdict = "usable in part, see above"
    elif protocol.get("annotation_size", OFFICIAL) != OFFICIAL:
        differs = "the annotation has not the official size, which every number then says"
        verdict = f"usable, but {differs}"
    yield "verdict", verdict


def _outlook(found: Check) -> str:
    """What a run would do with the clips that are there."""
    n, texts, rule = found.videos_there, len(found.there), found.rule
    if not n:
        return "has nothing to decode"
    kept = f"keeps {rule.n_frames} frames of {rule.size} px of {_many(n, 'clip')}"
    said = f"{kept} ({in_bytes(n * math.prod(rule.shape))} on disk) and "
    if "label" in found.data_set.clips:
        said += f"classifies each clip among {classes_of(found.data_set):,} classes"
    else:
        said += f"looks for each caption's clip among {n:,}, and the other way round"
        if texts > n:
            said += f", where the best of a clip's captions counts ({texts:,} in all)"
    if left := found.videos - n:
        are = "is" if left == 1 else "are"
        without = f"{_many(left, 'clip')} without a file {are} left out"
        said += f"; {without}, which every number then says"
    return said


def _problems(data_set: DataSet, max_missing: float, trials: pd.DataFrame) -> Iterator[str]:
    try:
        data_set.check_missing(max_missing)
    except ValueError as error:
        yield str(error)
    else:
        if len(data_set.missing) == len(data_set.clips):
            yield f"none of the {len(data_set.clips)} clips has a file"
    if len(trials) and (trials["reason"] != "").all():
        yield (
            f"none of the {len(trials)} clips that were tried can be decoded; the first: "
            f"{trials['path'].iloc[0]} {trials['reason'].iloc[0]}"
        )


def _first(items: pd.Series) -> str:
    shown = ", ".join(_shortly(item) for item in items.head(SHOWN))
    return f"the first: {shown}" if len(items) > SHOWN else shown


def _shortly(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _percent(share: float) -> str:
    """Never "100%" for less than all, nor "0%" for more than nothing."""
    percent = round(100 * share, 1)
    return f"{min(max(percent, 0.1), 99.9) if 0 < share < 1 else percent:.1f}%"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _count_cut(captions: list[str]) -> int:
    """How many captions have more than CLIP's 77 tokens."""
    if not captions:
        return 0
    from open_clip.tokenizer import SimpleTokenizer  # slow to import, and not always needed

    tokenizer = SimpleTokenizer()
    most = tokenizer.context_length - 2  # without the marks of start and end
    return sum(len(tokenizer.encode(text)) > most for text in captions)


def _spread(n: int, most: int) -> np.ndarray:
    """Up to `most` places of n, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def _seconds_to_decode(rule: FrameRule, request: ClipRequest) -> float:
    start = perf_counter()
    clip_frames(rule, "auto", request)
    return perf_counter() - start
