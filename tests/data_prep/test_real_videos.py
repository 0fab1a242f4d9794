"""Real clips, good and broken, through the frame store. They lie beside some checkouts only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep import video
from data_prep.frame_store import FrameRule, FrameStore, build
from data_prep.sampling import midpoint_indices

RULE = FrameRule(n_frames=4, size=32)
MUST_FAIL = {
    "derived/empty.mp4": "cannot be opened as a video",
    "derived/moov_lost__WUzgd7C1pWA.mp4": "cannot be opened as a video",
    "derived/half_truncated__v_BabyCrawling_g01_c01.avi": "is damaged or cut off",
    "filetype__fixture-isom.mp4": "cannot be opened as a video",
    "filetype__fixture2.mkv": "File ended prematurely",
    "mp4parse__amr_nb_1f.3gp": "has no video stream",
    "mp4parse__no_timescale.mp4": "cannot be decoded",
    "torchcodec__nasa_13013.mp4.audio.mp3": "is no video file, but one of format 'mp3'",
    "small__AudioVideoInterleave.avi": "has no frames",
}
# Decoded, though another tool's count differs: it counted the file's other video stream.
OTHER_COUNT = {"torchcodec__nasa_13013.mp4"}


@pytest.fixture(scope="module")
def listed(realdata: Path) -> pd.DataFrame:
    """What FFmpeg's own tools say of the files; the largest are left out to keep this quick."""
    table = pd.read_csv(realdata / "MANIFEST.csv")
    table = table[table["file"].str.startswith("videos/")]
    pixels = table["width"] * table["height"] * table["frames_decoded"]
    table = table[~(pixels > 40e6)]
    return table.assign(path=table["file"].str.removeprefix("videos/")).set_index("path")


@pytest.fixture(scope="module")
def store(
    realdata: Path, listed: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> FrameStore:
    clips = pd.DataFrame({"clip_id": listed.index, "path": listed.index})
    folder = tmp_path_factory.mktemp("real") / "store"
    return build(clips, realdata / "videos", folder, RULE, progress=False)


def test_at_least_twenty_real_clips_are_decoded(store: FrameStore, listed: pd.DataFrame) -> None:
    assert len(store) >= 20
    assert len(store) + len(store.failures) == len(listed), "every file is decoded or listed"
    frames = store.frames(range(len(store)))
    bright = [clip[:count].max() for clip, count in zip(frames, store.frame_counts, strict=True)]
    assert min(bright) > 32, "none is black"


def test_broken_files_are_listed_with_the_reason(store: FrameStore) -> None:
    reasons = dict(zip(store.failures["clip_id"], store.failures["reason"], strict=True))
    for name, reason in MUST_FAIL.items():
        assert reason in reasons[name]
    assert all(reasons.values())


def test_sound_files_are_not_refused(store: FrameStore, listed: pd.DataFrame) -> None:
    sound = listed[(listed["frames_decoded"] > 0) & (listed["decode_errors"] == 0)].index
    assert set(sound) - set(store.clip_ids) == set()


def test_frame_counts_are_those_of_ffmpeg(store: FrameStore, listed: pd.DataFrame) -> None:
    for record in store.records:
        if "failure" not in record and record["clip_id"] not in OTHER_COUNT:
            assert record["video_frames"] == listed.loc[record["clip_id"], "frames_decoded"]


def midpoints(times: np.ndarray) -> np.ndarray:
    return midpoint_indices(0, times.size - 1, RULE.n_frames)


def test_decord_and_pyav_give_the_same_pictures(store: FrameStore, realdata: Path) -> None:
    by_decord = [r for r in store.records if r.get("decoder") == "decord"]
    if not by_decord:
        pytest.skip("decord is not installed")
    for record in by_decord[:12]:
        path = realdata / "videos" / record["path"]
        other = video.decode(path, midpoints, RULE.size, "pyav")
        frames = store.frames([store.clip_ids.index(record["clip_id"])])[0, : len(other.frames)]
        assert (frames == other.frames).all(), record["path"]
