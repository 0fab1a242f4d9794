"""The frame store: every clip decoded once, kept as uint8 in memory-mapped shards."""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fitclip_core.videos import video_numbers
from tqdm import tqdm

from data_prep import video
from data_prep.clip_frames import ClipRequest, Decoder, FrameRule, clip_frames
from data_prep.clips import validate
from data_prep.decode_workers import Failure, available_cores, killable_map
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
NO_FILE = "no such file"
SHARD_BYTES, SHARD_CLIPS = 128 * 2**20, 1000  # a shard's limits: what an interruption may cost
_COMPARED = 8  # of 256 clips, by a hash: those that are decoded by two decoders
_Row = tuple[str, str, float | None, float | None]  # clip_id (the video's first), path, start, end
_CODE = "data_prep.frame_store"


def build(
    clips: pd.DataFrame,
    root: Path,
    folder: Path,
    rule: FrameRule,
    *,
    backend: str | Decoder = "auto",
    workers: int | None = None,
    deadline: float = 60.0,
    progress: bool = True,
) -> FrameStore:
    """Decode a clips table into the frame store `folder`, or open it where that was done before.

    Rows with equal path, start and end are one video, which is decoded and kept once.

    Videos are decoded in processes that can be killed: one that hangs, crashes the decoder or is
    damaged costs its clip, which the store lists with the reason. The store's bytes depend on the
    clips, the videos and the rule, not on the number of workers. A store counts as done only when
    its manifest stands and fits; an interrupted build goes on from its last whole shard.

    Each shard's first clip and about 3% of all, by a hash of their ids, are decoded by a second
    decoder too, where there is one for their kind; a clip of which the two give different frames is
    listed as a failure. With backend "pyav" there is no second decoder.

    Args:
        clips: a clips table (see `data_prep.clips`).
        root: the folder that the table's paths start from.
        folder: where the store is kept; it may hold nothing else.
        rule: which frames, and how large.
        backend: "auto", "decord" or "pyav" (see `data_prep.video`), or a function (path, choose,
            size) -> `video.DecodedClip` that a fresh process can import.
        workers: processes; by default one a core.
        deadline: seconds that one clip may take.
        progress: whether to show a progress bar.

    Raises: ValueError for a bad table, no clips, an unknown backend, a folder that holds another
    kind of result, or a video that vanished meanwhile; RuntimeError when no worker process can
    start.
    """
    root, folder = Path(root), Path(folder)
    decoder, backend_name = _decoder(backend)
    rows, also = _rows(clips)
    parameters = {**asdict(rule), "backend": backend_name}
    hashes = _source_hashes(root, [path for _, path, _, _ in rows])
    inputs = {"clips": _digest(rows, also), "videos": json_digest(hashes)}
    code = code_digest(_CODE)
    if not manifest_problems(folder, kind=KIND, parameters=parameters, inputs=inputs, code=code):
        return open_store(folder)

    _prepare(folder)
    remove_abandoned(folder)
    shards = [
        _Shard(folder, number, part, also, parameters, code, hashes)
        for number, part in enumerate(_parts(rows, rule))
    ]
    open_shards = [shard for shard in shards if not shard.is_done()]
    done = len(rows) - sum(len(shard.rows) for shard in open_shards)
    with tqdm(total=len(rows), initial=done, desc=_bar(folder), disable=not progress) as bar:
        _decode(open_shards, root, rule, decoder, workers, deadline, bar)
    records = [record for shard in shards for record in shard.records()]
    _remove_others(folder, {path for shard in shards for path in shard.paths})
    write_manifest(
        folder,
        kind=KIND,
        parameters=parameters,
        inputs=inputs,
        code=code,
        outputs=[path for shard in shards for path in shard.paths],
        details={
            "clips": len(records),
            "decoded": sum("failure" not in record for record in records),
            "decoders": video.decoder_versions(),
            "compared": sum(shard.compared() for shard in shards),
            "failures": {r["clip_id"]: r["failure"] for r in records if "failure" in r},
        },
    )
    return open_store(folder)


def missing_shards(
    clips: pd.DataFrame,
    folder: Path,
    rule: FrameRule,
    *,
    backend: str | Decoder = "auto",
) -> dict[int, pd.DataFrame]:
    """What `build` would still decode: shard number -> its videos' rows of the clips table.

    No video and no frame is read, so one that was changed is not noticed; `build` notices.

    Raises: ValueError as `build`.
    """
    shards = _unhashed_shards(clips, Path(folder), rule, backend)
    firsts = [0, *accumulate(len(shard.rows) for shard in shards)]
    videos = video_numbers(clips)
    return {
        number: clips[(videos >= first) & (videos < first + len(shard.rows))]
        for number, (first, shard) in enumerate(zip(firsts[:-1], shards, strict=True))
        if not shard.seems_done()
    }


def build_shard(
    number: int,
    clips: pd.DataFrame,
    root: Path,
    folder: Path,
    rule: FrameRule,
    *,
    backend: str | Decoder = "auto",
    workers: int | None = None,
    deadline: float = 60.0,
) -> None:
    """Decode one of `missing_shards`, unless it is there; several may be built at once.

    The store is finished by `build`, which finds the shards; its bytes are the same as without.

    Raises: ValueError as `build`, or for more clips than a shard holds.
    """
    root, folder = Path(root), Path(folder)
    decoder, backend_name = _decoder(backend)
    rows, also = _rows(clips)
    parts = _parts(rows, rule)
    if len(parts) > 1:
        raise ValueError(f"{len(rows)} clips are more than a shard's {len(parts[0])}")
    hashes = _source_hashes(root, [path for _, path, _, _ in parts[0]])
    parameters = {**asdict(rule), "backend": backend_name}
    shard = _Shard(folder, number, rows, also, parameters, code_digest(_CODE), hashes)
    if not shard.is_done():
        _prepare(folder)
        with tqdm(total=len(shard.rows), desc=f"{_bar(folder)}, shard {number}") as bar:
            _decode([shard], root, rule, decoder, workers, deadline, bar)


def seems_built(
    clips: pd.DataFrame, folder: Path, rule: FrameRule, *, backend: str | Decoder = "auto"
) -> bool:
    """Whether `build` would only open the store, if no video or frame was changed.

    Raises: ValueError as `build`.
    """
    shards = _unhashed_shards(clips, Path(folder), rule, backend)
    try:
        outputs = read_manifest(folder)["outputs"]
    except ValueError:
        return False
    expected = {path.name for shard in shards for path in shard.paths}
    return set(outputs) == expected and all(shard.seems_done() for shard in shards)


def open_store(folder: Path) -> FrameStore:
    """Open a finished frame store for reading; sizes are checked here, hashes by `build`.

    Raises: ValueError when the folder holds no finished frame store.
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
    compared: how many clips two decoders decoded, the same or not.
    rule: the FrameRule it was built with.
    digest: stands for the whole store, as another step's input.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        names = ("n_frames", "size", "draws_per_interval", "seed")
        self.rule = FrameRule(**{name: manifest["parameters"][name] for name in names})
        self.digest = manifest_digest(folder)
        self.compared: int = manifest["details"].get("compared", 0)  # older stores have none
        stems = sorted(name[:-5] for name in manifest["outputs"] if name.endswith(".json"))
        shards = [_read_records(folder / f"{stem}.json") for stem in stems]
        self.records: list[dict[str, Any]] = [record for shard in shards for record in shard]
        decoded = [record for record in self.records if "failure" not in record]
        self.clip_ids: list[str] = [record["clip_id"] for record in decoded]
        self.frame_counts = np.array([len(r["indices"]) for r in decoded], dtype=np.int64)
        self.failures = pd.DataFrame(
            [(r["clip_id"], r["path"], r["failure"]) for r in self.records if "failure" in r],
            columns=["clip_id", "path", "reason"],
            dtype="str",
        )
        self._paths = [folder / f"{stem}.npy" for stem in stems]
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
        places = np.asarray(indices)
        if places.size == 0:
            places = places.astype(np.int64)
        if places.ndim != 1 or not np.issubdtype(places.dtype, np.integer):
            raise ValueError(f"clip places must be a list of whole numbers, not {indices!r}")
        if places.size and (places.min() < 0 or places.max() >= len(self)):
            raise ValueError(
                f"clip places {places.min()} to {places.max()}: the store has {len(self)} clips"
            )
        out = np.empty((places.size, *self.rule.shape), dtype=np.uint8)
        for row, place in enumerate(places.tolist()):
            shard = bisect.bisect_right(self._ends, place)
            first = self._ends[shard - 1] if shard else 0
            out[row] = self._arrays[shard][place - first]
        return out

    def check_failures(self, ceiling: float) -> None:
        """Stop where too many clips could not be decoded for the numbers to mean the data set.

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
        if share <= ceiling:
            return
        first = self.failures.iloc[0]
        raise ValueError(
            f"{self.folder.name}: {len(self.failures)} of {len(self.records)} clips ({share:.1%}) "
            f"could not be decoded, more than the {ceiling:.1%} allowed; the first is {first.path} "
            f"({first.reason}). Repair or replace them, or allow more (max_missing)"
        )

    @cached_property
    def places(self) -> dict[str, int]:
        """The place in `clip_ids` of every decoded row, by its clip_id."""
        decoded = (record for record in self.records if "failure" not in record)
        return {
            clip_id: place
            for place, record in enumerate(decoded)
            for clip_id in (record["clip_id"], *record.get("also", ()))
        }

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in self._paths]


class _Shard:
    """A run of the clips table on its way to two files: frames_<number>.npy, uint8
    [decoded clips, *rule.shape], and frames_<number>.json, what happened to each clip."""

    def __init__(
        self,
        folder: Path,
        number: int,
        rows: list[_Row],
        also: Mapping[str, list[str]],
        parameters: Mapping[str, Any],
        code: str,
        hashes: Mapping[str, str | None],
    ) -> None:
        self.rows, self.made_by, self.hashes = rows, (dict(parameters), code), hashes
        self.also = {row[0]: also[row[0]] for row in rows if row[0] in also}
        self.arrays_path = folder / f"frames_{number:05d}.npy"
        self.records_path = folder / f"frames_{number:05d}.json"
        self.paths = [self.arrays_path, self.records_path]
        self.results: dict[int, video.DecodedClip | Failure] = {}

    def key(self, hashes: Mapping[str, str | None]) -> str:
        """What the shard is made from, with these hashes of the videos."""
        sources = [hashes[path] for _, path, _, _ in self.rows]
        return json_digest([*self.made_by, self.rows, sources, *([self.also] if self.also else [])])

    def is_done(self) -> bool:
        """Whether an earlier, interrupted build left this very shard whole."""
        try:
            content = json.loads(self.records_path.read_text(encoding="utf-8"))
            same_key = content["key"] == self.key(self.hashes)
            return same_key and content["frames_sha256"] == file_sha256(self.arrays_path)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def seems_done(self) -> bool:
        """As `is_done` if neither the videos nor the frames were changed, of which none is read."""
        try:
            content = json.loads(self.records_path.read_text(encoding="utf-8"))
            hashes = {clip["path"]: clip["source_sha256"] for clip in content["clips"]}
            return content["key"] == self.key(hashes) and self.arrays_path.is_file()
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def request(self, root: Path, place: int) -> ClipRequest:
        clip_id, path, start, end = self.rows[place]
        nan = math.nan
        chosen = place == 0 or hashlib.sha256(clip_id.encode()).digest()[0] < _COMPARED
        return ClipRequest(
            clip_id,
            root / path,
            nan if start is None else start,
            nan if end is None else end,
            compare=chosen and self.made_by[0]["backend"] != "pyav",
        )

    def check_video(self, root: Path, place: int) -> None:
        """Stop where a clip failed because its video is no longer what it was at the start: else it
        would count as damaged, also when it is there again."""
        path = self.rows[place][1]
        if _source_hashes(root, [path]) != {path: self.hashes[path]}:
            raise ValueError(
                f"{root / path} vanished or was changed while it was decoded; build the store "
                "again when it is there"
            )

    def add(self, place: int, result: video.DecodedClip | Failure, rule: FrameRule) -> None:
        """Take a clip's result; with the last one the shard is written."""
        self.results[place] = result
        if len(self.results) == len(self.rows):
            self._write(rule)
            self.results.clear()

    def records(self) -> list[dict[str, Any]]:
        return _read_records(self.records_path)

    def compared(self) -> int:
        compared: int = json.loads(self.records_path.read_text(encoding="utf-8"))["compared"]
        return compared

    def _write(self, rule: FrameRule) -> None:
        ordered = [self.results[place] for place in range(len(self.rows))]
        decoded = [result for result in ordered if not isinstance(result, Failure)]
        array = np.zeros((len(decoded), *rule.shape), dtype=np.uint8)
        for row, clip in enumerate(decoded):
            array[row, : len(clip.frames)] = clip.frames
        with atomic_path(self.arrays_path) as temporary:
            _save(temporary, array)
        records = [
            self._record(row, result) for row, result in zip(self.rows, ordered, strict=True)
        ]
        content = {
            "key": self.key(self.hashes),
            "frames_sha256": file_sha256(self.arrays_path),
            "compared": sum(_was_compared(result) for result in ordered),
            "clips": records,
        }
        write_json(self.records_path, content)

    def _record(
        self,
        row: _Row,
        result: video.DecodedClip | Failure,
    ) -> dict[str, Any]:
        clip_id, path, start, end = row
        record: dict[str, Any] = {"clip_id": clip_id, "path": path, "start": start, "end": end}
        if clip_id in self.also:
            record["also"] = self.also[clip_id]
        record["source_sha256"] = self.hashes[path]
        if isinstance(result, Failure):
            missing = self.hashes[path] is None
            return {**record, "failure": NO_FILE if missing else result.reason}
        return {
            **record,
            "decoder": result.decoder,
            "video_frames": result.frame_count,
            "indices": result.indices.tolist(),
        }


def _was_compared(result: video.DecodedClip | Failure) -> bool:
    if isinstance(result, Failure):
        return result.reason.startswith(video.DISAGREEMENT)
    return result.compared


def _save(path: Path, array: np.ndarray) -> None:
    """As np.save, which does not notice when the last bytes find no room on the disk."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def _rows(clips: pd.DataFrame) -> tuple[list[_Row], dict[str, list[str]]]:
    """Each video's first row, and of those with several rows the other ones' clip ids."""
    table = validate(clips)
    if table.empty:
        raise ValueError("the clips table is empty; there is nothing to decode")
    rows: list[_Row] = []
    also: dict[str, list[str]] = {}
    for number, row in zip(video_numbers(table).tolist(), table.itertuples(), strict=True):
        if number == len(rows):
            times = _or_none(row.start), _or_none(row.end)
            rows.append((str(row.clip_id), str(row.path), *times))
        else:
            also.setdefault(rows[number][0], []).append(str(row.clip_id))
    return rows, also


def _digest(rows: list[_Row], also: Mapping[str, list[str]]) -> str:
    return json_digest([rows, dict(also)] if also else rows)


def _parts(rows: list[_Row], rule: FrameRule) -> list[list[_Row]]:
    """The rows of each shard."""
    per_shard = min(SHARD_CLIPS, max(1, SHARD_BYTES // math.prod(rule.shape)))
    return [rows[first : first + per_shard] for first in range(0, len(rows), per_shard)]


def _unhashed_shards(
    clips: pd.DataFrame, folder: Path, rule: FrameRule, backend: str | Decoder
) -> list[_Shard]:
    parameters, code = {**asdict(rule), "backend": _decoder(backend)[1]}, code_digest(_CODE)
    rows, also = _rows(clips)
    parts = enumerate(_parts(rows, rule))
    return [_Shard(folder, number, part, also, parameters, code, {}) for number, part in parts]


def _decode(
    shards: list[_Shard],
    root: Path,
    rule: FrameRule,
    decoder: Decoder,
    workers: int | None,
    deadline: float,
    bar: tqdm[Any],
) -> None:
    """Decode and write shards, whatever is there of them."""
    work = []
    for shard in shards:
        for place, (_, path, _, _) in enumerate(shard.rows):
            if shard.hashes[path] is not None:
                work.append((shard, place))
                continue
            # Not opened: a pipe would be waited for, and a device may act.
            shard.add(place, Failure(NO_FILE), rule)
            bar.update()
    results = killable_map(
        partial(clip_frames, rule, decoder),
        [shard.request(root, place) for shard, place in work],
        workers=available_cores() if workers is None else workers,
        deadline=deadline,
    )
    with closing(results):
        for number, result in results:
            shard, place = work[number]
            if isinstance(result, Failure):
                shard.check_video(root, place)
            shard.add(place, result, rule)
            bar.update()


def _bar(folder: Path) -> str:
    return f"decode {folder.name}"


def _decoder(backend: str | Decoder) -> tuple[Decoder, str]:
    if callable(backend):
        try:
            pickle.dumps(backend)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(f"the decoder must be a module's function: {error}") from error
        return backend, f"{backend.__module__}.{backend.__qualname__}"
    if backend not in video.BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(video.BACKENDS)}")
    if backend == "decord" and "decord" not in video.decoder_versions():
        raise ValueError("decord is not installed; use backend 'auto' or 'pyav'")
    return partial(video.decode, backend=backend), backend


def _or_none(seconds: Any) -> float | None:
    return None if pd.isna(seconds) else float(seconds)


def _source_hashes(root: Path, paths: list[str]) -> dict[str, str | None]:
    """SHA-256 of each distinct video; None for one that is not there."""
    distinct = sorted(set(paths))

    def digest(path: str) -> str | None:
        return file_sha256(root / path) if os.path.isfile(root / path) else None

    with ThreadPoolExecutor(available_cores()) as pool:
        return dict(zip(distinct, pool.map(digest, distinct), strict=True))


def _prepare(folder: Path) -> None:
    """From here on the folder is no valid store until its new manifest stands."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name != MANIFEST_NAME and not path.name.startswith(("frames_", "."))
    )
    if others:
        raise ValueError(f"{folder} holds other files ({others[0]}); give the store its own folder")
    (folder / MANIFEST_NAME).unlink(missing_ok=True)


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove shards that an earlier table or rule left behind."""
    for path in set(folder.glob("frames_*")) - kept:
        path.unlink()


def _read_records(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["clips"]
    return records
