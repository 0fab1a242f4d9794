"""The frame store: every clip decoded once, kept as uint8 in memory-mapped shards."""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep import video
from data_prep.clip_frames import ClipRequest, FrameRule, clip_frames
from data_prep.clips import validate
from data_prep.decode_workers import Failure, available_cores, killable_map
from fitclip_core.clips import video_numbers
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    MANIFEST_NAME,
    atomic_path,
    file_sha256,
    json_digest,
    manifest_digest,
    manifest_problems,
    read_manifest,
    remove_abandoned,
    write_json,
    write_manifest,
)

KIND = "frame store"
SHARD_BYTES, SHARD_CLIPS = 128 * 2**20, 1000  # a shard's limits: what an interruption may cost
_NO_FILE = "no such file"
_COMPARED = 8  # of 256 clips, by a hash: those that are decoded by two decoders


def build(
    clips: pd.DataFrame,
    root: Path,
    folder: Path,
    rule: FrameRule,
    *,
    backend: str = "auto",
    workers: int | None = None,
    deadline: float = 60.0,
    progress: bool = True,
) -> FrameStore:
    """Decode a clips table into the frame store `folder`, or open it where that was done before.

    Rows with equal path, start and end are one video, decoded and kept once. A clip that hangs or
    crashes its (killable) process, or is damaged, is listed with the reason. The store's bytes
    depend on the clips, the videos and the rule, not on the number of workers. A store is done only
    when its manifest stands and fits; an interrupted build goes on from its last whole shard.

    Each shard's first clip and about 3% of all, by a hash of their ids, are decoded by a second
    decoder too, where there is one for their kind; where the two differ, the clip is a failure.

    Args:
        clips: a clips table (see `data_prep.clips`).
        root: the folder that the table's paths start from.
        folder: where the store is kept; it may hold nothing else.
        rule: which frames, and how large.
        backend: "auto", "decord" or "pyav", which compares nothing (see `data_prep.video`).
        workers: processes; by default one a core.
        deadline: seconds that one clip may take.
        progress: whether to show a progress bar.

    Raises: ValueError for a bad table, no clips, an unknown backend, a folder that holds another
    kind of result, or a video that vanished meanwhile; RuntimeError when no worker can start.
    """
    root, folder = Path(root), Path(folder)
    video.check_backend(backend)
    shards = _shards(clips, folder, rule, backend)
    hashes = _hash_sources(shards, root)
    videos = [clip for shard in shards for clip in shard.clips]
    inputs = {"clips": json_digest(videos), "videos": json_digest(hashes)}
    made: dict[str, Any] = {"kind": KIND, "inputs": inputs, **shards[0].made_by}
    if not manifest_problems(folder, **made):
        return open_store(folder)

    _prepare(folder)
    remove_abandoned(folder)
    undone = [shard for shard in shards if not shard.is_done()]
    done = len(videos) - sum(len(shard.clips) for shard in undone)
    bar = tqdm(desc=f"decode {folder.name}", total=len(videos), initial=done, disable=not progress)
    _decode(undone, root, rule, backend, workers, deadline, bar)
    outputs = [path for shard in shards for path in shard.paths]
    for left_behind in set(folder.glob("frames_*")) - set(outputs):  # by an earlier table or rule
        left_behind.unlink()
    contents = [_read(shard.records) for shard in shards]
    records = [record for content in contents for record in content["clips"]]
    failures = {r["clip_id"]: r["failure"] for r in records if "failure" in r}
    details = {
        "clips": len(videos),
        "decoded": len(videos) - len(failures),
        "decoders": video.decoder_versions(),
        "compared": sum(content["compared"] for content in contents),
        "failures": failures,
    }
    write_manifest(folder, **made, outputs=outputs, details=details)
    return open_store(folder)


def missing_shards(clips: pd.DataFrame, folder: Path, rule: FrameRule) -> dict[int, pd.DataFrame]:
    """What `build` would still decode: shard number -> its videos' rows of the clips table.

    No video and no frame is read, so one that was changed is not noticed; `build` notices.

    Raises: ValueError as `build`.
    """
    shards = _shards(clips, Path(folder), rule)
    shard_of = np.repeat(np.arange(len(shards)), [len(shard.clips) for shard in shards])
    of_row = shard_of[video_numbers(clips)]
    return {n: clips[of_row == n] for n, shard in enumerate(shards) if not shard.is_done()}


def build_shard(
    number: int, clips: pd.DataFrame, root: Path, folder: Path, rule: FrameRule
) -> None:
    """Decode one of `missing_shards`, unless it is there, for `build` to find; several may be built
    at once.

    Raises: ValueError as `build`, or for more clips than a shard holds.
    """
    root, folder = Path(root), Path(folder)
    shard, *others = _shards(clips, folder, rule, first=number)
    if others:
        raise ValueError(f"{len(clips)} clips are more than a shard's {len(shard.clips)}")
    _hash_sources([shard], root)
    if not shard.is_done():
        _prepare(folder)
        bar = tqdm(desc=f"decode {folder.name}, shard {number}", total=len(shard.clips))
        _decode([shard], root, rule, "auto", None, 60.0, bar)


def seems_built(clips: pd.DataFrame, folder: Path, rule: FrameRule) -> bool:
    """Whether `build` would only open the store, if no video or frame was changed.

    Raises: ValueError as `build`.
    """
    shards = _shards(clips, Path(folder), rule)
    try:
        outputs = read_manifest(folder)["outputs"]
    except ValueError:
        return False
    expected = {path.name for shard in shards for path in shard.paths}
    return set(outputs) == expected and all(shard.is_done() for shard in shards)


def open_store(folder: Path) -> FrameStore:
    """Open a finished frame store for reading; sizes are checked here, hashes by `build`.

    Raises: ValueError when there is none.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["kind"] != KIND:
        raise ValueError(f"{folder} holds a {manifest['kind']}, not a {KIND}")
    for relative, expected in manifest["outputs"].items():
        path = folder / relative
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise ValueError(f"{path} is missing or cut off; build the frame store again")
    return FrameStore(folder, manifest)


class FrameStore:
    """Decoded clips in the clips table's order, those that failed left out and listed.

    Rows of one video are one clip, which has the first one's id.

    clip_ids: the decoded clips' ids.
    frame_counts: int64 [clips], how many of a clip's n_frames are real; the rest are zeros.
    failures: DataFrame (clip_id, path, reason) of the clips that could not be decoded.
    records: one dict a clip, failed ones too: source hash, decoder, frame indices, frames in all.
    places: the place in `clip_ids` of every decoded row of the table, by its clip_id.
    compared: how many clips two decoders decoded, the same or not.
    rule: the FrameRule it was built with.
    digest: stands for the whole store, as another step's input.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        parameters = manifest["parameters"]
        self.rule = FrameRule(**{name: parameters[name] for name in asdict(FrameRule())})
        self.digest = manifest_digest(folder)
        self.compared: int = manifest["details"].get("compared", 0)  # older stores have none
        self._paths = sorted(folder / name for name in manifest["outputs"] if name.endswith(".npy"))
        shards = [_read(path.with_suffix(".json"))["clips"] for path in self._paths]
        self.records: list[dict[str, Any]] = [record for shard in shards for record in shard]
        decoded = [record for record in self.records if "failure" not in record]
        self.clip_ids: list[str] = [record["clip_id"] for record in decoded]
        self.frame_counts = np.array([len(r["indices"]) for r in decoded], dtype=np.int64)
        failed = [(r["clip_id"], r["path"], r["failure"]) for r in self.records if "failure" in r]
        self.failures = pd.DataFrame(failed, columns=["clip_id", "path", "reason"], dtype="str")
        self.places: dict[str, int] = {
            clip_id: place
            for place, record in enumerate(decoded)
            for clip_id in (record["clip_id"], *record.get("also", ()))
        }
        sizes = [sum("failure" not in record for record in shard) for shard in shards]
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        """How many clips were decoded."""
        return len(self.clip_ids)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Copy out the frames of some clips, by place in `clip_ids`.

        Returns: uint8 [m, n_frames, size, size, 3], in training [m, n_frames, K, size, size, 3];
        RGB, zeros after a clip's `frame_counts`.

        Raises: ValueError for places that are no whole numbers or do not exist.
        """
        places = np.asarray(indices) if len(indices) else np.empty(0, np.int64)
        if places.ndim != 1 or not np.issubdtype(places.dtype, np.integer):
            raise ValueError(f"clip places must be a list of whole numbers, not {indices!r}")
        if wrong := places[(places < 0) | (places >= len(self))].tolist():
            raise ValueError(f"clip places {wrong[:3]}: the store has {len(self)} clips, from 0")
        out = np.empty((places.size, *self.rule.shape), dtype=np.uint8)
        for row, place in enumerate(places.tolist()):
            shard = bisect.bisect_right(self._ends, place)
            out[row] = self._arrays[shard][place - self._ends[shard]]  # from the shard's end
        return out

    def check_failures(self, ceiling: float) -> None:
        """Stop where too many clips failed for the numbers to mean the data set.

        ceiling: the largest share of the clips that may be missing or unreadable, in [0, 1]; and
            of those compared, the largest share of which two decoders may give different frames.

        Raises: ValueError that counts them and names the first with its reason.
        """
        different = int(self.failures["reason"].str.startswith(video.DISAGREEMENT).sum())
        if different > ceiling * self.compared:
            raise ValueError(
                f"{self.folder.name}: {video.DISAGREEMENT} for {different} of {self.compared} "
                "clips that both decoded, and most clips were decoded by one alone; see which is "
                "right, and take it for all (backend 'pyav' compares nothing)"
            )
        share = len(self.failures) / len(self.records)
        if share > ceiling:
            first = self.failures.iloc[0]
            raise ValueError(
                f"{self.folder.name}: {len(self.failures)} of {len(self.records)} clips "
                f"({share:.1%}) could not be decoded, more than the {ceiling:.1%} allowed; the "
                f"first is {first.path} ({first.reason}). Repair or replace them, or allow more "
                "(max_missing)"
            )

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in self._paths]


class _Clip(NamedTuple):
    """A video of the clips table, with the id of its first row and those of its other ones."""

    clip_id: str
    path: str
    start: float | None
    end: float | None
    also: list[str]


class _Shard:
    """A run of the table's videos on its way to two files: frames_<number>.npy, uint8
    [decoded clips, *rule.shape], and frames_<number>.json, what happened to each clip."""

    def __init__(
        self, stem: Path, clips: list[_Clip], rule: FrameRule, made_by: dict[str, Any]
    ) -> None:
        self.clips, self.rule, self.made_by = clips, rule, made_by
        self.paths = self.arrays, self.records = stem.with_suffix(".npy"), stem.with_suffix(".json")
        self.hashes: Mapping[str, str | None] = {}  # of the videos, once they are read
        self.results: dict[int, video.DecodedClip | Failure] = {}

    def is_done(self) -> bool:
        """Whether an earlier build left this very shard whole. Before the videos are hashed: if
        neither they nor the frames were changed, of which none is read."""
        try:
            content = _read(self.records)
            recorded = {clip["path"]: clip["source_sha256"] for clip in content["clips"]}
            if content["key"] != self._key(self.hashes or recorded):
                return False
            if not self.hashes:
                return self.arrays.is_file()
            return bool(content["frames_sha256"] == file_sha256(self.arrays))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def request(self, root: Path, place: int) -> ClipRequest:
        clip = self.clips[place]
        start, end = (math.nan if time is None else time for time in (clip.start, clip.end))
        chosen = place == 0 or hashlib.sha256(clip.clip_id.encode()).digest()[0] < _COMPARED
        compare = chosen and self.made_by["parameters"]["backend"] != "pyav"
        return ClipRequest(clip.clip_id, root / clip.path, start, end, compare)

    def add(self, place: int, result: video.DecodedClip | Failure) -> None:
        """Take a clip's result; with the last one the shard is written."""
        self.results[place] = result
        if len(self.results) < len(self.clips):
            return
        results = [self.results.pop(place) for place in range(len(self.clips))]
        decoded = [result for result in results if not isinstance(result, Failure)]
        array = np.zeros((len(decoded), *self.rule.shape), dtype=np.uint8)
        for row, clip in zip(array, decoded, strict=True):
            row[: len(clip.frames)] = clip.frames
        with atomic_path(self.arrays) as temporary:
            _save(temporary, array)
        failures = [result.reason for result in results if isinstance(result, Failure)]
        different = sum(reason.startswith(video.DISAGREEMENT) for reason in failures)
        content = {
            "key": self._key(self.hashes),
            "frames_sha256": file_sha256(self.arrays),
            "compared": different + sum(clip.compared for clip in decoded),
            "clips": [self._record(*pair) for pair in zip(self.clips, results, strict=True)],
        }
        write_json(self.records, content)

    def _key(self, hashes: Mapping[str, str | None]) -> str:
        """What the shard is made from, with these hashes of the videos."""
        return json_digest([self.made_by, self.clips, [hashes[clip.path] for clip in self.clips]])

    def _record(self, clip: _Clip, result: video.DecodedClip | Failure) -> dict[str, Any]:
        source = {**clip._asdict(), "source_sha256": self.hashes[clip.path]}
        if isinstance(result, Failure):
            return {**source, "failure": result.reason}
        decoded = {"decoder": result.decoder, "video_frames": result.frame_count}
        return source | decoded | {"indices": result.indices.tolist()}


def _save(path: Path, array: np.ndarray) -> None:
    """As np.save, which does not notice when the last bytes find no room on the disk."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _shards(
    clips: pd.DataFrame, folder: Path, rule: FrameRule, backend: str = "auto", first: int = 0
) -> list[_Shard]:
    """The table's videos in shards, numbered from `first`."""
    table = validate(clips)
    if table.empty:
        raise ValueError("the clips table is empty; there is nothing to decode")
    videos: list[_Clip] = []
    columns = [table[name].tolist() for name in ("clip_id", "path", "start", "end")]
    rows = zip(video_numbers(table).tolist(), *columns, strict=True)
    for number, clip_id, path, start, end in rows:
        if number < len(videos):
            videos[number].also.append(clip_id)
        else:
            start, end = (None if math.isnan(time) else time for time in (start, end))
            videos.append(_Clip(clip_id, path, start, end, []))
    parameters = {**asdict(rule), "backend": backend}
    made_by = {"parameters": parameters, "code": code_digest(__name__)}
    size = min(SHARD_CLIPS, max(1, SHARD_BYTES // math.prod(rule.shape)))
    return [
        _Shard(folder / f"frames_{number:05d}", videos[start : start + size], rule, made_by)
        for number, start in enumerate(range(0, len(videos), size), first)
    ]


def _hash_sources(shards: Sequence[_Shard], root: Path) -> dict[str, str | None]:
    """Tell the shards the SHA-256 of each distinct video; None for one that is not there."""
    paths = sorted({clip.path for shard in shards for clip in shard.clips})
    with ThreadPoolExecutor(available_cores()) as pool:
        hashes = dict(zip(paths, pool.map(partial(_source_hash, root), paths), strict=True))
    for shard in shards:
        shard.hashes = hashes
    return hashes


def _source_hash(root: Path, path: str) -> str | None:
    return file_sha256(root / path) if os.path.isfile(root / path) else None


def _decode(
    shards: list[_Shard],
    root: Path,
    rule: FrameRule,
    backend: str,
    workers: int | None,
    deadline: float,
    bar: tqdm[Any],
) -> None:
    """Decode and write shards, whatever is there of them."""
    work = []
    for shard in shards:
        for place, clip in enumerate(shard.clips):
            if (source := shard.hashes[clip.path]) is not None:
                work.append((shard, place, source))
                continue
            # Not opened: a pipe would be waited for, and a device may act.
            shard.add(place, Failure(_NO_FILE))
            bar.update()
    decode = partial(clip_frames, rule, backend)
    requests = [shard.request(root, place) for shard, place, _ in work]
    workers = available_cores() if workers is None else workers
    results = killable_map(decode, requests, workers=workers, deadline=deadline)
    with bar, closing(results):
        for number, result in results:
            shard, place, source = work[number]
            path = shard.clips[place].path
            if isinstance(result, Failure) and _source_hash(root, path) != source:
                # Else it would count as damaged, also when it is there again.
                raise ValueError(
                    f"{root / path} vanished or was changed while it was decoded; build the store "
                    "again when it is there"
                )
            shard.add(place, result)
            bar.update()


def _prepare(folder: Path) -> None:
    """From here on the folder is no valid store until its new manifest stands."""
    folder.mkdir(parents=True, exist_ok=True)
    own = ("frames_", ".", MANIFEST_NAME)
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(own))
    if others:
        raise ValueError(f"{folder} holds other files ({others[0]}); give the store its own folder")
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
