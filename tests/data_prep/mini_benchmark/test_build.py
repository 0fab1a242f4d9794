"""The benchmark on disk: real videos, the same bytes again, built only when something changed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from data_prep.clips import read_clips
from data_prep.decode_workers import Failure, killable_map
from data_prep.mini_benchmark import build as module
from data_prep.mini_benchmark.build import FRAME_RATE, build, encode
from data_prep.mini_benchmark.data_sets import DATA_SETS, look_of, plan_clip
from data_prep.mini_benchmark.scenes import FRAME_SIZE, render

SIZES = dict.fromkeys(DATA_SETS, 3)
TWO = {"msrvtt": 3, "ucf101": 2}
SEED = 5


def run(folder: Path, sizes: dict[str, int] = TWO, seed: int = SEED, **options: Any) -> Any:
    return build(folder, sizes, seed, progress=False, **options)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decode(path: Path) -> tuple[np.ndarray, list[str]]:
    """All frames uint8 [n, height, width, 3] and their kinds (I, P, B)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    return pixels, [PictureType(frame.pict_type).name for frame in frames]


def in_this_process(
    function: Any, items: Any, *, workers: int, deadline: float
) -> Iterator[tuple[int, Any]]:
    """As `killable_map`, but no time is lost in starting processes."""
    yield from enumerate(map(function, items))


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "killable_map", in_this_process)
        yield


@pytest.fixture(scope="module")
def built(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets, three clips each, made by one worker."""
    folder = tmp_path_factory.mktemp("data")
    run(folder, SIZES, workers=1)
    return folder


@pytest.fixture
def made(in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two data sets in tmp_path; the list receives the names of those that are made after that."""
    run(tmp_path)
    names: list[str] = []
    make = module._build_data_set

    def counting(batches: Any, target: Path, data_set: str, *rest: Any) -> None:
        names.append(data_set)
        make(batches, target, data_set, *rest)

    monkeypatch.setattr(module, "_build_data_set", counting)
    return names


def test_two_processes_make_the_same_bytes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "killable_map", killable_map)
    monkeypatch.setattr(module, "_BATCH", 1)
    run(tmp_path, SIZES, workers=2)
    assert digests(tmp_path) == digests(built)


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_clips_are_h264_that_shows_the_plan(built: Path, data_set: str) -> None:
    folder = built / data_set
    index = 1
    path = folder / "videos" / f"{data_set}_00001.mp4"
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name == "h264"
        assert not stream.codec_context.has_b_frames
        assert stream.average_rate == FRAME_RATE
        assert "mp4" in container.format.name
    frames, kinds = decode(path)
    assert kinds[0] == "I"
    assert set(kinds) <= {"I", "P"}

    rng = np.random.default_rng([SEED, DATA_SETS.index(data_set), index])
    plan = plan_clip(data_set, index, rng)
    drawn = render(plan.shots, look_of(data_set), rng)
    assert frames.shape == drawn.shape == (len(drawn), FRAME_SIZE, FRAME_SIZE, 3)
    assert len(drawn) == sum(shot.n_frames for shot in plan.shots)
    error = np.abs(frames.astype(float) - drawn).mean()
    assert error < 12  # compressed, with the colour at half the resolution
    row = read_clips(folder / "clips.csv").iloc[index]
    assert row["path"] == f"videos/{path.name}"
    assert row["text" if plan.label is None else "label"] == (plan.text or plan.label)


def test_no_two_clips_are_alike(built: Path) -> None:
    videos = [path.read_bytes() for path in built.rglob("*.mp4")]
    assert len(set(videos)) == len(videos) == 3 * len(DATA_SETS)
    texts: list[str] = []
    for part in DATA_SETS:
        if part.startswith("webvid"):
            texts += read_clips(built / part / "clips.csv")["text"].tolist()
    assert len(set(texts)) == len(texts)


def test_whole_data_sets_are_left_alone(tmp_path: Path, made: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    tables = run(tmp_path)
    assert made == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert {name: len(table) for name, table in tables.items()} == TWO


@pytest.mark.parametrize("damage", ["changed", "missing", "table", "manifest"])
def test_damaged_data_sets_are_made_again(tmp_path: Path, made: list[str], damage: str) -> None:
    before = digests(tmp_path)
    video = tmp_path / "ucf101" / "videos" / "ucf101_00001.mp4"
    if damage == "changed":
        content = bytearray(video.read_bytes())
        content[-1] ^= 1
        video.write_bytes(content)
    elif damage == "missing":
        video.unlink()
    elif damage == "table":
        (tmp_path / "ucf101" / "clips.csv").write_text("clip_id,path\n")
    else:
        (tmp_path / "ucf101" / "manifest.json").unlink()
    run(tmp_path)
    assert made == ["ucf101"]
    assert digests(tmp_path) == before


def test_another_size_seed_or_class_table_is_another_data_set(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.read_bytes() for path in tmp_path.rglob("*.mp4")}
    run(tmp_path, {**TWO, "msrvtt": 2})
    assert made == ["msrvtt"]
    assert len(list((tmp_path / "msrvtt" / "videos").iterdir())) == 2
    made.clear()
    run(tmp_path, seed=SEED + 1)
    assert made == list(TWO)
    assert not {path.read_bytes() for path in tmp_path.rglob("*.mp4")} & before
    made.clear()
    changed = tmp_path / "actions.csv"
    changed.write_bytes(module.ACTIONS_FILE.read_bytes() + b"\n")
    monkeypatch.setattr(module, "ACTIONS_FILE", changed)
    run(tmp_path, seed=SEED + 1)
    assert made == list(TWO)


def test_an_interrupted_build_is_no_data_set(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def failing(path: Path, frames: np.ndarray, crf: int) -> None:
        if written:
            raise OSError("no space left")
        written.append(path)
        encode(path, frames, crf)

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode", failing)
        with pytest.raises(OSError, match="no space left"):
            run(tmp_path, {"msrvtt": 3})
    assert not (tmp_path / "msrvtt").exists()
    run(tmp_path, {"msrvtt": 3})
    assert digests(tmp_path / "msrvtt") == digests(built / "msrvtt")
    assert [path.name for path in tmp_path.iterdir()] == ["msrvtt"]


def test_results_come_in_the_jobs_order_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [module._Job("msrvtt", (number,), SEED, tmp_path) for number in range(4)]

    def last_first(*_: Any, **__: Any) -> Iterator[tuple[int, Any]]:
        yield from [(2, ["c"]), (0, ["a"]), (3, Failure("OSError: no space left")), (1, ["b"])]

    monkeypatch.setattr(module, "killable_map", last_first)
    drawn = module._drawn(jobs, 2)
    assert [next(drawn) for _ in range(3)] == [["a"], ["b"], ["c"]]
    with pytest.raises(RuntimeError, match="clips of msrvtt are not made: OSError: no space left"):
        next(drawn)


@pytest.mark.parametrize("sizes", [{"kinetics": 3}, {"msrvtt": 0}, {"msrvtt": 2, "mit": -1}])
def test_wrong_sizes_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive numbers of clips of webvid_train"):
        run(tmp_path, sizes)
    assert not list(tmp_path.iterdir())


def test_wrong_seeds_and_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        run(tmp_path, seed=-1)
    with pytest.raises(ValueError, match="workers 0"):
        run(tmp_path, workers=0)


def test_equal_frames_give_equal_bytes_whatever_memory_holds(tmp_path: Path) -> None:
    rng = np.random.default_rng([5, DATA_SETS.index("webvid_val"), 0])
    frames = render(plan_clip("webvid_val", 0, rng).shots, look_of("webvid_val"), rng)
    found = set()
    for _ in range(60):
        left_behind = [rng.bytes(int(rng.integers(16, 4000))) for _ in range(60)]
        encode(tmp_path / "clip.mp4", frames, 28)
        found.add((tmp_path / "clip.mp4").read_bytes())
        del left_behind[::2]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "float32"),
        (np.zeros((2, 8, 8), np.uint8), r"uint8 \[2, 8, 8\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"\[2, 8, 8, 4\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
        (np.zeros((2, 8, 7, 3), np.uint8), "even sides"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(
    tmp_path: Path, frames: np.ndarray, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        encode(tmp_path / "clip.mp4", frames, 30)
    assert not list(tmp_path.iterdir())
