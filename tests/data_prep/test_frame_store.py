import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep import frame_store, video
from data_prep.decode_workers import Failure
from data_prep.frame_store import FrameRule, FrameStore, build, build_shard, open_store
from data_prep.sampling import midpoint_indices

SIZE = 24
EVALUATION = FrameRule(n_frames=4, size=SIZE)
TRAINING = FrameRule(n_frames=4, size=SIZE, draws_per_interval=3, seed=1)
# The tables of these tests in shards of three videos
SHARDS = {0: ["sound", "whole", "part"], 1: ["short", "absent", "one"], 2: ["late"]}
FRAMES_0 = ["frames_00000.json", "frames_00000.npy", "manifest.json"]

ROOT = Path("videos")  # in the folder of the test

MakeVideo = Callable[..., Path]
Numbers = Callable[[np.ndarray], np.ndarray]

MISBEHAVING = """
import os, time
from data_prep import clip_frames as plain

def clip_frames(rule, backend, request):
    match request.path.stem:
        case "hangs":
            time.sleep(1000)
        case "crashes":
            os.kill(os.getpid(), 9)
        case "raises":
            raise OSError("disk on fire")
    return plain.clip_frames(rule, backend, request)
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clips(make_video: MakeVideo, make_audio: Callable[[str], Path]) -> pd.DataFrame:
    """Seven clips of which three cannot be decoded."""
    make_video("videos/long.mp4", 32)
    make_video("videos/deep/short.mp4", 2)
    make_video("videos/one.mkv", 1)
    make_audio("videos/sound.m4a")
    rows = [
        ("sound", "sound.m4a", None, None),
        ("whole", "long.mp4", None, None),
        ("part", "long.mp4", 1.0, 2.0),
        ("short", "deep/short.mp4", None, None),
        ("absent", "absent.mp4", None, None),
        ("one", "one.mkv", None, None),
        ("late", "one.mkv", 5.0, 6.0),
    ]
    return pd.DataFrame(rows, columns=["clip_id", "path", "start", "end"])


@pytest.fixture
def more_rows(clips: pd.DataFrame) -> pd.DataFrame:
    """The clips, and further rows for the videos of four of them."""
    more = clips.iloc[[1, 4, 2, 1]].assign(clip_id=["more1", "more2", "more3", "more4"])
    return pd.concat([clips[:3], more[:3], clips[3:], more[3:]], ignore_index=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Decodes in this process, in shards of three videos; holds the ids of the clips asked for."""
    ids: list[str] = []

    def decode(function: Any, requests: Any, **_: Any) -> Iterator[tuple[int, Any]]:
        for number, request in enumerate(requests):
            ids.append(request.clip_id)
            try:
                yield number, function(request)
            except ValueError as error:
                yield number, Failure(str(error))

    monkeypatch.setattr(frame_store, "killable_map", decode)
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 3)
    return ids


def make(
    clips: pd.DataFrame, folder: Path | str, rule: FrameRule = EVALUATION, **options: Any
) -> FrameStore:
    where = {"root": ROOT.absolute(), "folder": Path(folder), "rule": rule}
    return build(clips, **{**where, "workers": 1, "progress": False, **options})


def contents(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_evaluation_frames(clips: pd.DataFrame, tmp_path: Path, numbers: Numbers) -> None:
    store = make(clips, "store")
    assert store.clip_ids == ["whole", "part", "short", "one"]
    assert store.frame_counts.tolist() == [4, 4, 2, 1]
    assert store.frame_counts.dtype == np.int64
    frames = store.frames(range(4))
    assert (frames.shape, frames.dtype) == ((4, 4, SIZE, SIZE, 3), np.uint8)
    # The part goes from 1 s to 2 s at 10 frames a second: the frames nearest, 9.5 -> 10 to 20.
    for place, (first, last) in enumerate([(0, 31), (10, 20)]):
        assert numbers(frames[place]).tolist() == midpoint_indices(first, last, 4).tolist()
    assert numbers(frames[2, :2]).tolist() == [0, 0]
    assert not frames[2, 2:].any() and not frames[3].any(), "frame 0 is black"
    assert store.failures.to_numpy().tolist() == [
        ["sound", "sound.m4a", "has no video stream"],
        ["absent", "absent.mp4", "no such file"],
        ["late", "one.mkv", "the segment starts at 5 s, after the video's last frame at 0.050 s"],
    ]
    whole = store.records[1]
    assert whole["indices"] == midpoint_indices(0, 31, 4).tolist()
    assert (whole["video_frames"], whole["decoder"]) == (32, "pyav")
    assert len(whole["source_sha256"]) == 64
    assert str(tmp_path) not in Path("store/manifest.json").read_text()


def test_training_frames(clips: pd.DataFrame, numbers: Numbers, asked: list[str]) -> None:
    store = make(clips, "store", TRAINING)
    frames = store.frames(range(4))
    assert frames.shape == (4, 4, 3, SIZE, SIZE, 3)
    seen = numbers(frames[0])
    assert seen.tolist() == store.records[1]["indices"]
    for row, (low, high) in zip(seen, [(0, 7), (7, 15), (15, 23), (23, 31)], strict=True):
        assert ((low <= row) & (row <= high)).all()
    assert len(np.unique(seen)) > 6
    assert store.frame_counts.tolist() == [4, 4, 2, 1]
    assert not frames[2, 2:].any()

    alone = make(clips[1:2], "alone", TRAINING)
    assert alone.records[0] == store.records[1], "a clip's draws do not depend on the other clips"
    other = make(clips[1:2], "other", FrameRule(4, SIZE, 3, seed=2))
    assert other.records[0]["indices"] != alone.records[0]["indices"]


def test_reading(
    clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(clips, "store")
    store = open_store(Path("store"))
    some = store.frames(np.array([3, 0, 2, 0, 1]))
    assert (some == [store.frames([place])[0] for place in (3, 0, 2, 0, 1)]).all()
    assert store.frames([]).shape == (0, 4, SIZE, SIZE, 3)
    some[:] = 0
    assert store.frames([0]).any(), "a caller's writing must not reach the store"
    for bad in ([4], [-1], [0.5], [[0]], [True]):
        with pytest.raises(ValueError, match="clip places"):
            store.frames(bad)  # type: ignore[arg-type]

    none = make(clips[:1], "none")
    assert (len(none), len(none.failures)) == (0, 1)
    assert none.frames([]).shape == (0, 4, SIZE, SIZE, 3)


def test_bytes_do_not_depend_on_workers_or_place(
    clips: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 3)
    one = make(clips, "one", TRAINING)
    moved = Path("moved")
    shutil.copytree(ROOT, moved)
    more = make(clips, "more", TRAINING, root=moved, workers=3)
    assert contents("one") == contents("more")
    assert one.digest == more.digest
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 1000)
    monkeypatch.setattr(frame_store, "SHARD_BYTES", 4 * 3 * SIZE * SIZE * 3 * 4 - 1)  # three clips
    make(clips, "bytes", TRAINING)
    assert contents("bytes") == contents("one")


def test_shards_that_are_built_apart_make_the_same_store(
    clips: pd.DataFrame, more_rows: pd.DataFrame, asked: list[str]
) -> None:
    folder = Path("apart")
    make(more_rows, "whole", TRAINING)
    shards = frame_store.missing_shards(more_rows, folder, TRAINING)
    assert not folder.exists()
    further = {0: ["more1", "more3", "more4"], 1: ["more2"], 2: []}
    ids = {number: sorted(rows["clip_id"]) for number, rows in shards.items()}
    assert ids == {number: sorted(SHARDS[number] + more) for number, more in further.items()}
    build_shard(1, shards[1], ROOT, folder, TRAINING)
    assert list(frame_store.missing_shards(more_rows, folder, TRAINING)) == [0, 2]
    asked.clear()
    for number in (2, 0, 1):  # 1 is there
        build_shard(number, shards[number], ROOT, folder, TRAINING)
    assert asked == ["late", "sound", "whole", "part"]
    assert frame_store.missing_shards(more_rows, folder, TRAINING) == {}
    assert not frame_store.seems_built(more_rows, folder, TRAINING)
    asked.clear()
    make(more_rows, folder, TRAINING)
    assert asked == []
    assert contents(folder) == contents("whole")
    assert frame_store.seems_built(more_rows, folder, TRAINING)
    for table, rule in ((more_rows[:-1], TRAINING), (clips, TRAINING), (more_rows, EVALUATION)):
        assert not frame_store.seems_built(table, folder, rule)


def test_a_shard_of_a_changed_video_is_built_again_and_ends_the_old_store(
    clips: pd.DataFrame, asked: list[str]
) -> None:
    folder = Path("store")
    make(clips, folder)
    before = contents(folder)
    build_shard(0, clips[:3], ROOT, folder, EVALUATION)
    assert contents(folder) == before
    (ROOT / "long.mp4").write_bytes(b"no video any more")
    assert frame_store.missing_shards(clips, folder, EVALUATION) == {}  # no video is read
    build_shard(0, clips[:3], ROOT, folder, EVALUATION)
    with pytest.raises(ValueError, match="not finished"):
        open_store(folder)
    assert make(clips, folder).clip_ids == ["short", "one"]
    with pytest.raises(ValueError, match="7 clips are more than a shard's 3"):
        build_shard(0, clips, ROOT, folder, EVALUATION)


@pytest.mark.skipif(os.name == "nt", reason="this system is Windows")
def test_a_hang_a_crash_and_an_exception_cost_their_clips(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("misbehaving.py").write_text(MISBEHAVING)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("misbehaving")  # which fresh processes find, too
    monkeypatch.setattr(frame_store, "clip_frames", own.clip_frames)
    stems = ["a", "hangs", "crashes", "raises", "b"]
    clips = pd.DataFrame({"clip_id": stems, "path": [f"{stem}.mp4" for stem in stems]})
    for path in clips["path"]:
        make_video(f"videos/{path}", 4)
    store = make(clips, "store", EVALUATION, deadline=2.0)
    assert store.clip_ids == ["a", "b"]
    assert store.failures[["clip_id", "reason"]].to_numpy().tolist() == [
        ["hangs", "not done after 2 s, the decoder was killed"],
        ["crashes", "the decoder crashed (signal SIGKILL)"],
        ["raises", "OSError: disk on fire"],
    ]


def test_a_sample_is_decoded_by_both_backends(
    make_video: MakeVideo, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = video.decode

    def as_decord(path: Path, choose: Any, size: int, backend: str) -> video.DecodedClip:
        """PyAV in decord's name, which gives the frames of one video in the wrong order."""
        clip = plain(path, choose, size, "pyav")
        if backend == "pyav":
            return clip
        frames = clip.frames[::-1] if path.stem == "wrong" else clip.frames
        return replace(clip, frames=frames, decoder="decord")

    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 40)
    stores = {}
    for stem in ("right", "wrong"):
        make_video(f"videos/{stem}.mp4", 8)
        ids = [f"{stem}_{number}" for number in range(70)]
        clips = pd.DataFrame({"clip_id": ids, "path": f"{stem}.mp4"})
        clips["start"] = [number / 1000 for number in range(70)]  # segments, not one video
        with monkeypatch.context() as patch:
            patch.setattr(video, "decode", as_decord)
            stores[stem] = make(clips, tmp_path / stem)
        assert 2 <= stores[stem].compared <= 10, "the first of two shards, and 3% or so"
    assert stores["right"].failures.empty
    stores["right"].check_failures(0)
    failures = stores["wrong"].failures
    assert len(failures) == stores["wrong"].compared
    assert {"wrong_0", "wrong_40"} <= set(failures["clip_id"])
    assert failures["reason"].str.startswith("decord and PyAV give different frames, by").all()
    with pytest.raises(ValueError, match=r"different frames for (\d+) of \1 clips that both"):
        stores["wrong"].check_failures(0.5)

    by_pyav = make(clips[:1], "pyav", EVALUATION, backend="pyav")
    assert by_pyav.compared == 0
    by_both = make(clips[:1], "auto")
    assert by_both.compared == ("decord" in video.decoder_versions())
    assert by_both.failures.empty


def test_what_is_valid_is_not_decoded_again(
    clips: pd.DataFrame, asked: list[str], make_video: MakeVideo
) -> None:
    folder = Path("store")

    def rebuilt(table: pd.DataFrame = clips, rule: FrameRule = EVALUATION) -> list[str]:
        asked.clear()
        store = make(table, folder, rule)
        assert contents(folder)["manifest.json"] and open_store(folder).digest == store.digest
        return list(asked)

    assert rebuilt() == ["sound", "whole", "part", "short", "one", "late"]
    before = contents(folder)
    assert rebuilt(clips.assign(text="other", split="val")) == [], "captions do not change frames"

    damaged = folder / "frames_00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    assert rebuilt() == ["short", "one"], "a damaged shard is decoded again, alone"
    assert contents(folder) == before

    make_video("videos/deep/short.mp4", 3)
    assert rebuilt() == ["short", "one"], "so is one whose video changed"
    assert open_store(folder).frame_counts.tolist() == [4, 4, 3, 1]

    assert rebuilt(clips[1:3], FrameRule(2, SIZE)) == ["whole", "part"], "another rule changes all"
    assert list(contents(folder)) == FRAMES_0, "shards of a longer table are removed"


def test_an_interrupted_build_goes_on(
    clips: pd.DataFrame, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("store")
    whole = make(clips, "whole")
    map_all = frame_store.killable_map

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from islice(map_all(*args, **kwargs), 4)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frame_store, "killable_map", interrupted)
        make(clips, folder)
    with pytest.raises(ValueError, match="not finished"):
        open_store(folder)
    (folder / ".frames_00001.x.tmp.npy").write_bytes(b"left by a power cut")
    asked.clear()
    again = make(clips, folder)
    assert asked == ["short", "one", "late"], "the first shard was whole"
    assert contents(folder) == contents("whole")
    assert again.digest == whole.digest


def test_rows_of_one_video_are_decoded_and_kept_once(
    clips: pd.DataFrame, more_rows: pd.DataFrame, asked: list[str]
) -> None:
    plain = make(clips, "plain")
    store = make(more_rows, "more")
    assert store.clip_ids == ["whole", "part", "short", "one"]
    assert store.places == {
        **{"whole": 0, "more1": 0, "more4": 0},
        **{"part": 1, "more3": 1, "short": 2, "one": 3},
    }
    assert np.array_equal(store.frames(range(4)), plain.frames(range(4)))
    assert store.failures["path"].equals(plain.failures["path"]), "each video is listed once"
    assert store.failures["clip_id"].tolist() == ["sound", "more2", "late"], "by its first row"
    assert {record["clip_id"]: record["also"] for record in store.records if record["also"]} == {
        **{"whole": ["more1", "more4"], "part": ["more3"]},
        "more2": ["absent"],
    }


def test_refusals(clips: pd.DataFrame, asked: list[str]) -> None:
    folder = Path("store")
    for table, options, message in [
        (clips[:0], {}, "empty"),
        (pd.concat([clips, clips]), {}, "used twice"),
        (clips, {"backend": "opencv"}, "unknown backend 'opencv'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(table, folder, EVALUATION, **options)
        assert not folder.exists()

    least = {"n_frames": 1, "size": 1, "draws_per_interval": 0, "seed": 0}
    wrong: list[tuple[str, Any]] = [(name, value - 1) for name, value in least.items()]
    for name, value in [*wrong, ("size", 22.5)]:
        with pytest.raises(ValueError, match=f"FrameRule.{name} is"):
            FrameRule(**{name: value})

    store = make(clips, folder)
    store.check_failures(3 / 7)
    message = r"store: 3 of 7 clips \(42.9%\) .* sound.m4a \(has no video stream\)"
    with pytest.raises(ValueError, match=message):
        store.check_failures(3 / 7 - 1e-9)

    (folder / "frames_00000.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"frames_00000\.npy is missing or cut off"):
        open_store(folder)
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.txt\)"):
        make(clips, folder)
    assert (folder / "thesis.txt").read_text() == "precious"


def test_workers_import_no_torch_and_no_pandas() -> None:
    """They would take seconds to start, for each worker and each that replaces a killed one."""
    code = "import sys, data_prep.clip_frames, data_prep.decode_workers; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert not {"torch", "pandas", "decord"} & set(output.split())
