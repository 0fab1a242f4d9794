"""What the method reads: rows of one video, clips in a source, and training's random views."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fitclip_core.clips import (
    TrainingClips,
    check_labels,
    crop_and_flip,
    crop_boxes,
    first_rows,
    locate_clips,
    training_batches,
    video_numbers,
)
from tests.make import CROP_SIZE, Source, clips

ROWS = [
    ("a.mp4", 0.0, 2.0),
    ("a.mp4", math.nan, math.nan),
    ("b.mp4", math.nan, 2.0),
    ("a.mp4", math.nan, math.nan),
    ("a.mp4", 0.0, 2.0),
    ("a.mp4", 0.0, math.nan),
    ("b.mp4", math.nan, 2.0),
    ("a.mp4", 2.0, 0.0),
]
VIDEOS = [0, 1, 2, 1, 0, 3, 2, 4]


def test_rows_of_equal_path_start_and_end_are_one_video() -> None:
    clips = pd.DataFrame(ROWS, columns=["path", "start", "end"], index=range(7, 15))
    assert video_numbers(clips).tolist() == VIDEOS
    assert video_numbers(clips.astype(object).where(clips.notna(), None)).tolist() == VIDEOS
    assert video_numbers(clips[["path"]]).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert first_rows(video_numbers(clips)).tolist() == [n in (0, 1, 2, 5, 7) for n in range(8)]


def test_rows_whose_path_is_not_known_are_videos_of_their_own() -> None:
    assert video_numbers(pd.DataFrame({"clip_id": ["a", "b"]})).tolist() == [0, 1]
    clips = pd.DataFrame({"path": ["a.mp4", None, math.nan, "a.mp4", None]})
    assert video_numbers(clips).tolist() == [0, 1, 2, 0, 3]
    assert video_numbers(clips[:0]).tolist() == []


def test_a_video_has_one_label_however_often() -> None:
    clips = pd.DataFrame({"clip_id": list("abcd"), "label": ["run", "sit", "run", None]})
    check_labels(clips, np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"'a' and 'b' are one video .* labels 'run' and 'sit'"):
        check_labels(clips, np.array([0, 0, 1, 2]))


def test_rows_of_one_video_are_one_clip_with_several_captions() -> None:
    source = clips(4).frames
    table = pd.DataFrame(
        {
            "clip_id": ["clip3", "other", "clip0", "gone", "gone2", "another"],
            "path": ["3.mp4", "3.mp4", "1.mp4", "5.mp4", "5.mp4", "3.mp4"],
            "text": list("cbadea"),
        }
    )
    training = TrainingClips.from_table(table, source)
    assert training.indices.tolist() == [3, 0] and len(training) == 2
    assert training.captions == [("c", "b", "a"), ("a",)]
    assert training.texts == ["c", "a"], "what validation reads"
    assert training.missing == ["gone", "gone2"]


def test_boxes_follow_torchvisions_distribution() -> None:
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    picture, scale = torch.zeros(1, 48, 40), (0.5, 1.0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(picture, scale, (3 / 4, 4 / 3)) for _ in range(4000)]
    ).double()
    ours = crop_boxes(4000, 48, 40, scale, torch.Generator().manual_seed(1)).double()
    top, left, height, width = ours.T
    assert min(top.min(), left.min()) == 0
    assert ((top + height).max(), (left + width).max()) == (48, 40), "inside, and at the edges"
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.35, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.35, rtol=0)


def test_boxes_fall_back_to_the_centre() -> None:
    # No box of the whole area and a ratio of 3/4 to 4/3 fits into a picture of 10 x 100.
    boxes = crop_boxes(5, 10, 100, (1.0, 1.0), torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 43, 10, 13]] * 5
    boxes = crop_boxes(1, 100, 10, (1.0, 1.0), torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[43, 0, 13, 10]]
    boxes = crop_boxes(1, 1, 1, (0.01, 0.01), torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 0, 1, 1]], "a box has pixels"


def test_clips_of_one_video_have_one_position() -> None:
    source = clips(4).frames
    ids = ["x", "clip3", "lost", "clip0", "y", "clip2", "z"]
    indices, missing = locate_clips(source, ids, np.array([0, 1, 2, 0, 1, 0, 2]))
    assert indices.tolist() == [0, 3, -1, 0, 3, 0, -1]
    assert missing == ["lost", "z"]
    indices, missing = locate_clips(source, ["clip2", "lost", "clip0"], np.arange(3))
    assert (indices.tolist(), missing) == ([2, -1, 0], ["lost"])
    source.places = {"a": 1, "b": 1, "clip3": 3}  # type: ignore[attr-defined]
    assert locate_clips(source, ["b", "clip0", "clip3"], np.arange(3))[0].tolist() == [1, -1, 3]


def batches(training: TrainingClips, size: int, **changes: Any) -> Any:
    settings: dict = {"image_size": CROP_SIZE, "crop_scale": (0.5, 1.0), "seed": 3} | changes
    return training_batches(training, size, **settings)


def test_a_batch_holds_a_clip_once_with_one_of_its_captions() -> None:
    captions = [("a", "b"), ("d",), ("e", "f"), ("g",), ("h",), ("i",)]
    several = TrainingClips(clips(6).frames, captions)
    drawn: dict[int, list[str]] = {}
    stream = batches(several, 4)
    for _ in range(120):
        batch = next(stream)
        assert len(batch.texts) == batch.n == 4
        of_clips = [next(row for row in range(6) if text in captions[row]) for text in batch.texts]
        assert len(set(of_clips)) == 4
        for row, text in zip(of_clips, batch.texts, strict=True):
            drawn.setdefault(row, []).append(text)
    assert all(set(drawn[row]) == set(captions[row]) for row in range(6))
    assert 0.35 < drawn[0].count("a") / len(drawn[0]) < 0.65
    first, plain = next(batches(several, 4)), next(batches(clips(6), 4))
    assert torch.equal(first.frames, plain.frames), "the captions are drawn after the crops"


def test_draws_are_chosen_for_each_interval() -> None:
    frames = np.zeros((300, 2, 3, CROP_SIZE, CROP_SIZE, 3), np.uint8)  # clips, intervals, draws
    frames += np.arange(3, dtype=np.uint8)[:, None, None, None]
    frames += 10 * np.arange(2, dtype=np.uint8)[:, None, None, None, None]
    batch = next(batches(TrainingClips(Source(frames), ["x"] * 300), 300))
    chosen = batch.frames[..., 0, 0, 0].numpy()
    assert batch.draws == 3 and chosen.shape == (300, 2)
    assert set(chosen[:, 0]) == {0, 1, 2} and set(chosen[:, 1]) == {10, 11, 12}
    pairs = pd.Series(list(map(tuple, chosen.tolist()))).value_counts()
    assert len(pairs) == 9 and pairs.min() > 300 / 9 / 2  # independent of each other


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 5), slice(4, 7), slice(0, 7)])
def test_rows_of_a_batch_look_as_within_it(rows: slice) -> None:
    whole, part = batches(clips(9), 7), batches(clips(9), 7, rows=rows)
    for _ in range(3):
        batch, own = next(whole), next(part)
        assert torch.equal(own.frames, batch.frames[rows]) and own.n == batch.n == 7
        assert own.texts == batch.texts[rows]
        assert np.array_equal(own.counts, batch.counts[rows])


TABLE = pd.DataFrame({"clip_id": ["clip1", "clip0", "clip1"], "text": ["c", "b", "a"]})
SOURCE = clips(4).frames


def first_batch_of(shape: tuple[int, ...]) -> Any:
    return next(batches(TrainingClips(Source(np.zeros(shape, np.uint8)), ["x"] * 3), 2))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: TrainingClips.from_table(TABLE[["clip_id"]], SOURCE), "lacks the column 'text'"),
        (lambda: TrainingClips.from_table(TABLE, SOURCE), "'clip1' appears 2 times"),
        (
            lambda: TrainingClips.from_table(TABLE[:2].assign(text=pd.Series(["c", None])), SOURCE),
            "1 clips have no text, the first is 'clip0'",
        ),
        (lambda: TrainingClips(SOURCE, ["a", "b"]), "2 texts for 4 clips"),
        (lambda: TrainingClips(SOURCE, [], np.array([], int)), "no clip"),
        (lambda: locate_clips(SOURCE, ["lost"], np.arange(1)), "none of the 1 clips"),
        (lambda: locate_clips(SOURCE, [], np.arange(0)), "none of the 0 clips"),
        *[
            (lambda shape=shape: first_batch_of(shape), "draws_per_interval")
            for shape in ((3, 2, CROP_SIZE, CROP_SIZE, 3), (3, 2, 0, CROP_SIZE, CROP_SIZE, 3))
        ],
    ],
)
def test_clips_that_cannot_be_trained_on_are_refused(call, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        call()


def test_views_are_the_frames_cropped_and_flipped() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 3, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    boxes = torch.tensor([[0, 0, CROP_SIZE, CROP_SIZE]] * 2 + [[2, 3, 10, 9]] * 2)
    views = crop_and_flip(frames, boxes, torch.tensor([False, True, False, True]), CROP_SIZE)
    assert views.shape == (4, 3, CROP_SIZE, CROP_SIZE, 3) and views.dtype == torch.uint8
    assert np.array_equal(views[0], frames[0])
    assert np.array_equal(views[1], frames[1, :, :, ::-1])
    part = Image.fromarray(frames[2, 1, 2:12, 3:12]).resize(
        (CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC
    )
    assert np.abs(views[2, 1].int() - torch.tensor(np.asarray(part)).int()).max() <= 1
    again = crop_and_flip(frames[[2, 2]], boxes[[2, 2]], torch.tensor([False, True]), CROP_SIZE)
    assert torch.equal(again[1], again[0].flip(2)) and torch.equal(again[0], views[2])


def test_half_of_the_clips_are_flipped() -> None:
    ramp = np.broadcast_to(
        np.arange(CROP_SIZE, dtype=np.uint8)[:, None], (200, 2, 1, CROP_SIZE, CROP_SIZE, 3)
    )
    batch = next(batches(TrainingClips(Source(ramp), ["x"] * 200), 200))
    flipped = batch.frames[:, 0, 0, 0, 0] > batch.frames[:, 0, 0, -1, 0]
    assert 60 < int(flipped.sum()) < 140
