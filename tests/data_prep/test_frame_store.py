import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep import frame_store, video
from data_prep.frame_store import FrameRule, FrameStore, build, open_store
from data_prep.sampling import midpoint_indices
from fitclip_core import zero_shot
from fitclip_kit.store.files import json_digest, read_manifest

SIZE = 24
EVALUATION = FrameRule(n_frames=4, size=SIZE)
TRAINING = FrameRule(n_frames=4, size=SIZE, draws_per_interval=3, seed=1)

MakeVideo = Callable[..., Path]
Numbers = Callable[[np.ndarray], np.ndarray]

DECODER = '''
import os, time
from dataclasses import replace
from pathlib import Path
from data_prep import video

def decoder(path, choose, size):
    """PyAV that leaves a mark for each call, and misbehaves on some names."""
    Path(os.environ["DECODER_MARKS"], path.name).touch()
    if path.stem == "hangs":
        time.sleep(1000)
    if path.stem == "crashes":
        os.kill(os.getpid(), 9)
    if path.stem == "raises":
        raise OSError("disk on fire")
    if path.stem == "wrong":
        return video.decode(path, choose, size + 1, "pyav")
    return video.decode(path, choose, size, "pyav")

def as_decord(path, choose, size):
    """PyAV in decord's name, which gives the frames of one video in the wrong order."""
    clip = video.decode(path, choose, size, "pyav")
    frames = clip.frames[::-1] if path.stem == "wrong" else clip.frames
    return replace(clip, frames=frames, decoder="decord")
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "videos"


@pytest.fixture
def clips(make_video: MakeVideo, make_audio: Callable[[str], Path], root: Path) -> pd.DataFrame:
    """Seven clips of which two cannot be decoded."""
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
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_decoder.py").write_text(DECODER)
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv("DECODER_MARKS", str(marks))
    monkeypatch.syspath_prepend(folder)
    import importlib

    yield importlib.import_module("own_decoder").decoder
    del sys.modules["own_decoder"]


def decoded_since(tmp_path: Path) -> list[str]:
    """The names of the videos that the marking decoder was called for; forgets them."""
    marks = sorted((tmp_path / "marks").iterdir())
    for mark in marks:
        mark.unlink()
    return [mark.name for mark in marks]


def make(clips: pd.DataFrame, root: Path, folder: Path, rule: FrameRule, **options: Any) -> Any:
    return build(clips, root, folder, rule, **{"workers": 1, "progress": False, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_evaluation_frames(
    clips: pd.DataFrame, root: Path, tmp_path: Path, numbers: Numbers
) -> None:
    store = make(clips, root, tmp_path / "store", EVALUATION)
    assert store.clip_ids == ["whole", "part", "short", "one"]
    assert store.frame_counts.tolist() == [4, 4, 2, 1]
    assert store.frame_counts.dtype == np.int64
    frames = store.frames(range(4))
    assert (frames.shape, frames.dtype) == ((4, 4, SIZE, SIZE, 3), np.uint8)
    assert numbers(frames[0]).tolist() == midpoint_indices(0, 31, 4).tolist()
    # From 1 s to 2 s at 10 frames a second: the frames in the middle nearest, 9.5 -> 10 to 20.
    assert numbers(frames[1]).tolist() == midpoint_indices(10, 20, 4).tolist()
    assert numbers(frames[2, :2]).tolist() == midpoint_indices(0, 1, 2).tolist() == [0, 0]
    assert not frames[2, 2:].any()
    assert not frames[3].any(), "frame 0 is black"
    assert store.failures.to_dict("records") == [
        {"clip_id": "sound", "path": "sound.m4a", "reason": "has no video stream"},
        {"clip_id": "absent", "path": "absent.mp4", "reason": "no such file"},
        {
            "clip_id": "late",
            "path": "one.mkv",
            "reason": "the segment starts at 5 s, after the video's last frame at 0.050 s",
        },
    ]
    whole = store.records[1]
    assert whole["indices"] == midpoint_indices(0, 31, 4).tolist()
    assert whole["video_frames"] == 32
    assert whole["decoder"] in ("decord", "pyav")
    assert len(whole["source_sha256"]) == 64
    assert str(tmp_path) not in (tmp_path / "store" / "manifest.json").read_text()


def test_reading(clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(clips, Path("videos"), Path("store"), EVALUATION)
    store = open_store(tmp_path / "store")
    assert len(store) == 4
    both = store.frames(np.array([3, 0, 0]))
    assert (both[1] == both[2]).all()
    assert (both[0] == store.frames([3])[0]).all()
    assert store.frames([]).shape == (0, 4, SIZE, SIZE, 3)
    both[:] = 0
    assert store.frames([0]).any(), "a caller's writing must not reach the store"
    for bad in ([4], [-1], [0.5], [[0]], [True]):
        with pytest.raises(ValueError, match="clip places"):
            store.frames(bad)  # type: ignore[arg-type]


def test_training_frames(clips: pd.DataFrame, root: Path, tmp_path: Path, numbers: Numbers) -> None:
    store = make(clips, root, tmp_path / "store", TRAINING)
    frames = store.frames(range(4))
    assert frames.shape == (4, 4, 3, SIZE, SIZE, 3)
    seen = numbers(frames[0])
    assert seen.tolist() == store.records[1]["indices"]
    for row, (low, high) in zip(seen, [(0, 7), (7, 15), (15, 23), (23, 31)], strict=True):
        assert ((low <= row) & (row <= high)).all()
    assert len(np.unique(seen)) > 6
    assert store.frame_counts.tolist() == [4, 4, 2, 1]
    assert not frames[2, 2:].any()

    alone = make(clips[1:2], root, tmp_path / "alone", TRAINING)
    assert alone.records[0] == store.records[1], "a clip's draws do not depend on the other clips"
    other_seed = FrameRule(4, SIZE, 3, seed=2)
    other = make(clips[1:2], root, tmp_path / "other", other_seed)
    assert other.records[0]["indices"] != alone.records[0]["indices"]


def test_bytes_do_not_depend_on_workers_or_place(
    clips: pd.DataFrame, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 2)
    one = make(clips, root, tmp_path / "one", TRAINING, workers=1)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    more = make(clips, moved, tmp_path / "more", TRAINING, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "more")
    assert one.digest == more.digest
    assert sorted(contents(tmp_path / "one"))[:3] == [
        "frames_00000.json",
        "frames_00000.npy",
        "frames_00001.json",
    ]


@pytest.mark.skipif(os.name == "nt", reason="this system is Windows")
def test_shards_that_are_built_apart_make_the_same_store(
    clips: pd.DataFrame,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoder: Callable[..., Any],
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 2)
    one, apart = tmp_path / "one", tmp_path / "apart"
    own: dict[str, Any] = {"backend": decoder}
    make(clips, root, one, TRAINING, **own)
    decoded_since(tmp_path)
    missing = frame_store.missing_shards(clips, apart, TRAINING, **own)
    assert not apart.exists()
    assert [rows["clip_id"].tolist() for rows in missing.values()] == [
        ["sound", "whole"],
        ["part", "short"],
        ["absent", "one"],
        ["late"],
    ]

    def shard(number: int) -> None:
        arguments = (number, missing[number], root, apart, TRAINING)
        frame_store.build_shard(*arguments, **own, workers=1)

    threads = [threading.Thread(target=shard, args=(number,)) for number in (3, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(frame_store.missing_shards(clips, apart, TRAINING, **own)) == [0, 2]
    assert decoded_since(tmp_path) == ["long.mp4", "one.mkv", "short.mp4"]
    for number in (0, 1, 2):  # 1 is there
        shard(number)
    assert "short.mp4" not in decoded_since(tmp_path)
    assert frame_store.missing_shards(clips, apart, TRAINING, **own) == {}
    assert not frame_store.seems_built(clips, apart, TRAINING, **own)
    make(clips, root, apart, TRAINING, **own)
    assert decoded_since(tmp_path) == []
    assert contents(apart) == contents(one)
    assert frame_store.seems_built(clips, apart, TRAINING, **own)
    for other in ((clips[:6], TRAINING), (clips, EVALUATION)):
        assert not frame_store.seems_built(other[0], apart, other[1], **own)


def test_a_shard_of_a_changed_video_is_built_again_and_ends_the_old_store(
    clips: pd.DataFrame, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 2)
    folder = tmp_path / "store"
    make(clips, root, folder, EVALUATION)
    before = contents(folder)
    rows = clips[2:4]
    frame_store.build_shard(1, rows, root, folder, EVALUATION, workers=1)
    assert contents(folder) == before
    (root / "long.mp4").write_bytes(b"no video any more")
    assert frame_store.missing_shards(clips, folder, EVALUATION) == {}  # no video is read
    frame_store.build_shard(1, rows, root, folder, EVALUATION, workers=1)
    with pytest.raises(ValueError, match="not finished"):
        open_store(folder)
    assert make(clips, root, folder, EVALUATION).clip_ids == ["short", "one"]
    with pytest.raises(ValueError, match="7 clips are more than a shard's 2"):
        frame_store.build_shard(0, clips, root, folder, EVALUATION)


def test_a_hang_a_crash_and_an_exception_cost_their_clips(
    make_video: MakeVideo, root: Path, tmp_path: Path, decoder: Any, numbers: Numbers
) -> None:
    stems = ["a", "hangs", "b", "crashes", "raises", "c", "wrong", "d"]
    for stem in stems:
        make_video(f"videos/{stem}.mp4", 4)
    clips = pd.DataFrame({"clip_id": stems, "path": [f"{stem}.mp4" for stem in stems]})
    store = make(clips, root, tmp_path / "store", EVALUATION, backend=decoder, deadline=5.0)
    assert store.clip_ids == ["a", "b", "c", "d"]
    assert (numbers(store.frames(range(4))) == midpoint_indices(0, 3, 4)).all()
    assert dict(zip(store.failures.clip_id, store.failures.reason, strict=True)) == {
        "hangs": "not done after 5 s, the decoder was killed",
        "crashes": "the decoder crashed (signal SIGKILL)",
        "raises": "OSError: disk on fire",
        "wrong": f"the decoder returned uint8 (4, {SIZE + 1}, {SIZE + 1}, 3), "
        f"not uint8 (4, {SIZE}, {SIZE}, 3)",
    }


def test_a_sample_is_decoded_by_both_backends(
    make_video: MakeVideo,
    root: Path,
    tmp_path: Path,
    decoder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 40)
    as_decord = sys.modules[decoder.__module__].as_decord
    stores = {}
    for stem in ("right", "wrong"):
        make_video(f"videos/{stem}.mp4", 8)
        ids = [f"{stem}_{number}" for number in range(70)]
        clips = pd.DataFrame({"clip_id": ids, "path": f"{stem}.mp4"})
        clips["start"] = [number / 1000 for number in range(70)]  # segments, not one video
        folder = tmp_path / stem
        stores[stem] = make(clips, root, folder, EVALUATION, backend=as_decord, workers=2)
        assert 2 <= stores[stem].compared <= 10, "the first of two shards, and 3% or so"
        assert build(clips, root, folder, EVALUATION, backend=as_decord).compared > 0
    assert stores["right"].failures.empty
    stores["right"].check_failures(0)
    failures = stores["wrong"].failures
    assert len(failures) == stores["wrong"].compared
    assert {"wrong_0", "wrong_40"} <= set(failures["clip_id"])
    assert failures["reason"].str.startswith("decord and PyAV give different frames, by").all()
    with pytest.raises(ValueError, match=r"different frames for (\d+) of \1 clips that both"):
        stores["wrong"].check_failures(0.5)

    by_pyav = make(clips[:1], root, tmp_path / "pyav", EVALUATION, backend="pyav")
    assert by_pyav.compared == 0
    by_both = make(clips[:1], root, tmp_path / "auto", EVALUATION)
    assert by_both.compared == ("decord" in video.decoder_versions())
    assert by_both.failures.empty


def test_what_is_valid_is_not_decoded_again(
    clips: pd.DataFrame,
    root: Path,
    tmp_path: Path,
    decoder: Any,
    monkeypatch: pytest.MonkeyPatch,
    make_video: MakeVideo,
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 3)
    folder = tmp_path / "store"

    def rebuild(table: pd.DataFrame = clips, rule: FrameRule = EVALUATION) -> FrameStore:
        return make(table, root, folder, rule, backend=decoder)

    first = rebuild()
    assert len(decoded_since(tmp_path)) > 0
    before = contents(folder)
    assert rebuild(clips.assign(text="other", split="val")).digest == first.digest
    assert decoded_since(tmp_path) == [], "captions do not change frames"

    # A damaged shard is decoded again, alone: shards are clips 0-2, 3-5 and 6.
    damaged = folder / "frames_00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    rebuild()
    assert decoded_since(tmp_path) == ["one.mkv", "short.mp4"]
    assert contents(folder) == before

    # So is one whose video changed.
    make_video("videos/deep/short.mp4", 3)
    assert rebuild().frame_counts.tolist() == [4, 4, 3, 1]
    assert "short.mp4" in decoded_since(tmp_path)

    # Another rule changes all; shards of a longer table are removed.
    assert rebuild(clips[1:3], FrameRule(2, SIZE)).frame_counts.tolist() == [2, 2]
    assert decoded_since(tmp_path) == ["long.mp4"]
    assert sorted(contents(folder)) == ["frames_00000.json", "frames_00000.npy", "manifest.json"]


def test_an_interrupted_build_goes_on(
    clips: pd.DataFrame,
    root: Path,
    tmp_path: Path,
    decoder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 3)
    folder = tmp_path / "store"
    whole = make(clips, root, tmp_path / "whole", EVALUATION, backend=decoder)
    decoded_since(tmp_path)
    map_all = frame_store.killable_map

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, result in map_all(*args, **kwargs):
            if number == 4:
                raise KeyboardInterrupt
            yield number, result

    with monkeypatch.context() as patch:
        patch.setattr(frame_store, "killable_map", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(clips, root, folder, EVALUATION, backend=decoder)
    with pytest.raises(ValueError, match="not finished"):
        open_store(folder)
    (folder / ".frames_00001.x.tmp.npy").write_bytes(b"left by a power cut")
    decoded_since(tmp_path)
    again = make(clips, root, folder, EVALUATION, backend=decoder)
    assert "sound.m4a" not in decoded_since(tmp_path), "the first shard was whole"
    assert contents(folder) == contents(tmp_path / "whole")
    assert again.digest == whole.digest


# clip_id, place in `clips` of the video that it is another row of
MORE_ROWS = [("more1", 1), ("more2", 4), ("more3", 2), ("more4", 1)]


def with_more_rows(clips: pd.DataFrame) -> pd.DataFrame:
    more = clips.iloc[[place for _, place in MORE_ROWS]]
    more = more.assign(clip_id=[clip_id for clip_id, _ in MORE_ROWS])
    return pd.concat([clips[:3], more[:3], clips[3:], more[3:]], ignore_index=True)


def test_rows_of_one_video_are_decoded_and_kept_once(
    clips: pd.DataFrame, root: Path, tmp_path: Path, decoder: Any
) -> None:
    plain = make(clips, root, tmp_path / "plain", EVALUATION, backend=decoder)
    decoded_since(tmp_path)
    store = make(
        with_more_rows(clips), root, tmp_path / "more", EVALUATION, backend=decoder, workers=2
    )
    assert store.clip_ids == ["whole", "part", "short", "one"]
    assert store.places == {
        **{"whole": 0, "more1": 0, "more4": 0},
        **{"part": 1, "more3": 1, "short": 2, "one": 3},
    }
    assert np.array_equal(store.frames(range(4)), plain.frames(range(4)))
    assert len(store.records) == len(plain.records) == 7
    assert store.failures["path"].equals(plain.failures["path"]), "each video is listed once"
    assert store.failures["clip_id"].tolist() == ["sound", "more2", "late"], "by its first row"
    rows = [(r["clip_id"], r["also"]) for r in store.records if "also" in r]
    assert sorted(rows) == [
        ("more2", ["absent"]),
        ("part", ["more3"]),
        ("whole", ["more1", "more4"]),
    ]


def test_any_row_of_a_video_finds_it_in_the_store(
    clips: pd.DataFrame, root: Path, tmp_path: Path
) -> None:
    table = with_more_rows(clips).assign(text=[f"text {row}" for row in range(11)])
    store = make(table, root, tmp_path / "store", EVALUATION)
    trial = zero_shot.prepare(table, store)
    assert trial.indices.tolist() == [0, 1, 0, 1, 2, 3, 0]
    assert trial.coverage == {
        "clips": 11,
        "measured": 7,
        "missing": ["sound", "more2", "absent", "late"],
        "videos": 7,
        "videos_measured": 4,
    }
    some = table[table["clip_id"].isin(["more4", "one", "more3", "absent"])]
    trial = zero_shot.prepare(some, store)
    assert trial.clips["clip_id"].tolist() == ["more3", "one", "more4"]
    assert trial.indices.tolist() == [1, 3, 0]
    assert trial.coverage == {"clips": 4, "measured": 3, "missing": ["absent"]}


def test_a_table_of_single_rows_makes_what_it_always_made(
    clips: pd.DataFrame, root: Path, tmp_path: Path
) -> None:
    make(clips, root, tmp_path / "store", EVALUATION)
    manifest = read_manifest(tmp_path / "store")
    times = clips[["start", "end"]].astype(object).where(clips[["start", "end"]].notna(), None)
    rows = [
        [*ids, *of_row]
        for ids, of_row in zip(
            clips[["clip_id", "path"]].values.tolist(), times.values.tolist(), strict=True
        )
    ]
    assert manifest["inputs"]["clips"] == json_digest(rows)
    content = json.loads((tmp_path / "store" / "frames_00000.json").read_text())
    sources = [one["source_sha256"] for one in content["clips"]]
    made_by = [manifest["parameters"], manifest["code"]]
    assert content["key"] == json_digest([*made_by, rows, sources])
    names = {"clip_id", "path", "start", "end", "source_sha256"}
    assert set(content["clips"][0]) == names | {"failure"}
    assert set(content["clips"][1]) == names | {"decoder", "indices", "video_frames"}


def test_shards_of_rows_of_one_video_are_those_of_the_whole(
    clips: pd.DataFrame, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_store, "SHARD_CLIPS", 3)
    table, folder = with_more_rows(clips), tmp_path / "in_parts"
    make(table, root, tmp_path / "whole", EVALUATION)
    shards = frame_store.missing_shards(table, folder, EVALUATION)
    assert [len(rows) for rows in shards.values()] == [6, 4, 1]
    assert shards[0]["clip_id"].tolist() == ["sound", "whole", "part", "more1", "more3", "more4"]
    for number, rows in shards.items():
        frame_store.build_shard(number, rows, root, folder, EVALUATION, workers=1)
    assert frame_store.missing_shards(table, folder, EVALUATION) == {}
    make(table, root, folder, EVALUATION)
    assert contents(folder) == contents(tmp_path / "whole")
    assert frame_store.seems_built(table, folder, EVALUATION)
    assert not frame_store.seems_built(table[:-1], folder, EVALUATION), "one id is not known there"


def test_all_clips_may_fail(clips: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    store = make(clips[:1], root, tmp_path / "store", EVALUATION)
    assert (len(store), len(store.failures)) == (0, 1)
    assert store.frames([]).shape == (0, 4, SIZE, SIZE, 3)


def test_a_store_that_lost_a_file_is_not_opened(
    clips: pd.DataFrame, root: Path, tmp_path: Path
) -> None:
    make(clips[5:6], root, tmp_path / "store", EVALUATION)
    (tmp_path / "store" / "frames_00000.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"frames_00000\.npy is missing or cut off"):
        open_store(tmp_path / "store")


def test_bad_arguments(clips: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(ValueError, match="empty"):
        make(clips[:0], root, folder, EVALUATION)
    with pytest.raises(ValueError, match="unknown backend 'opencv'"):
        make(clips, root, folder, EVALUATION, backend="opencv")
    with pytest.raises(ValueError, match="must be a module's function"):
        make(clips, root, folder, EVALUATION, backend=lambda path, choose, size: None)
    with pytest.raises(ValueError, match="used twice"):
        make(pd.concat([clips, clips]), root, folder, EVALUATION)
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.txt\)"):
        make(clips, root, folder, EVALUATION)
    assert (folder / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "values",
    [{"n_frames": 0}, {"size": 0}, {"draws_per_interval": -1}, {"seed": -1}, {"size": 22.5}],
)
def test_bad_rules(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        FrameRule(**values)


def test_workers_import_no_torch_and_no_pandas() -> None:
    """They would take seconds to start, for each worker and each that replaces a killed one."""
    import subprocess

    code = (
        "import sys, data_prep.clip_frames, data_prep.decode_workers; "
        "print(sorted({'torch', 'pandas', 'decord'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_too_many_failures_stop_a_run(clips: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    store = build(clips, root, tmp_path / "store", EVALUATION, workers=1, progress=False)
    failed = len(store.failures)
    assert 0 < failed < len(clips)
    store.check_failures(failed / len(clips))
    first = store.failures.iloc[0]
    with pytest.raises(ValueError, match=f"{failed} of {len(clips)} clips") as error:
        store.check_failures(failed / len(clips) - 1e-9)
    assert first.path in str(error.value)
    assert first.reason in str(error.value)
