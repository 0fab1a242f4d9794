"""Real clips, good and broken, through the frame store. They lie beside some checkouts only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep import video
from data_prep.frame_store import FrameRule, build
from data_prep.sampling import midpoint_indices

RULE = FrameRule(n_frames=4, size=32)
MUST_FAIL = {
    "derived/empty.mp4": "cannot be opened as a video",
    "derived/moov_lost__WUzgd7C1pWA.mp4": "cannot be opened as a video",
    "derived/half_truncated__v_BabyCrawling_g01_c01.avi": "is damaged or cut off",
    "filetype__fixture-isom.mp4": "cannot be opened as a video",
    "filetype__fixture2.mkv": "File ended prematurely",
    "mp4parse__amr_nb_1f.3gp": "has no video stream",
    "mp4parse__no_timescale.mp4": "shown through the matrix (0, 0, 0, 0)",
    "torchcodec__nasa_13013.mp4.audio.mp3": "is no video file, but one of format 'mp3'",
    "small__AudioVideoInterleave.avi": "has no frames",
}
# Decoded, though another tool's count differs: it counted the file's other video stream.
OTHER_COUNT = {"torchcodec__nasa_13013.mp4"}


def test_real_clips_are_decoded_or_listed_with_the_reason(realdata: Path, tmp_path: Path) -> None:
    """As FFmpeg's own tools say of the files; the largest are left out to keep this quick."""
    table = pd.read_csv(realdata / "MANIFEST.csv")
    table = table[table["file"].str.startswith("videos/")]
    pixels = table["width"] * table["height"] * table["frames_decoded"]
    table = table[~(pixels > 40e6)]
    listed = table.set_index(table["file"].str.removeprefix("videos/"))
    clips = pd.DataFrame({"clip_id": listed.index, "path": listed.index})
    store = build(clips, realdata / "videos", tmp_path / "store", RULE, progress=False)

    assert len(store) >= 20
    assert len(store) + len(store.failures) == len(listed), "every file is decoded or listed"
    frames = store.frames(range(len(store)))
    bright = [clip[:count].max() for clip, count in zip(frames, store.frame_counts, strict=True)]
    assert min(bright) > 32, "none is black"

    reasons = dict(zip(store.failures["clip_id"], store.failures["reason"], strict=True))
    for name, reason in MUST_FAIL.items():
        assert reason in reasons[name]
    assert all(reasons.values())
    sound = listed[(listed["frames_decoded"] > 0) & (listed["decode_errors"] == 0)].index
    assert set(sound) - set(store.clip_ids) == set(), "sound files are not refused"
    for record in store.records:
        if "failure" not in record and record["clip_id"] not in OTHER_COUNT:
            assert record["video_frames"] == listed.loc[record["clip_id"], "frames_decoded"]


DECORDS_FAULTS: dict[str, Callable[[Any], bool]] = {
    "an odd width or height": lambda file: bool(file.codec.width % 2 or file.codec.height % 2),
    "more than 8 bits": lambda file: any(part.bits > 8 for part in file.codec.format.components),
    "open groups of pictures": lambda file: file.has_open_groups,
}


@pytest.mark.slow
@pytest.mark.skipif("decord" not in video.decoder_versions(), reason="decord is not installed")
def test_decord_and_pyav_give_the_same_pictures(realdata: Path) -> None:
    """To the bit, of every file that both open, except where decord is known to be wrong."""

    def choose(times: np.ndarray) -> np.ndarray:
        return midpoint_indices(0, times.size - 1, RULE.n_frames)

    compared, faults = 0, set()
    for path in sorted(path for path in (realdata / "videos").rglob("*") if path.is_file()):
        try:
            by_decord, by_pyav = (
                video.decode(path, choose, RULE.size, backend) for backend in ("decord", "pyav")
            )
        except video.DecodeError:
            continue
        assert (by_decord.decoder, by_pyav.decoder) == ("decord", "pyav")
        compared += 1
        if not np.array_equal(by_decord.frames, by_pyav.frames):
            assert not video.suits_decord(path), path.name
            with video._opened(path) as file:
                causes = {name for name, is_so in DECORDS_FAULTS.items() if is_so(file)}
            assert causes, path.name
            faults |= causes
    assert compared > 30
    assert faults == set(DECORDS_FAULTS)
