"""Damaged and odd videos, through the frame store: the right frames or a listed failure."""

import re
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd

from benchmarks.damaged_videos import IN_PICTURES, KINDS, encoded_sources, mutations
from benchmarks.video_mutations import Outcome, outcomes
from data_prep.clip_frames import FrameRule
from data_prep.frame_store import build
from data_prep.sampling import midpoint_indices

RULE = FrameRule(n_frames=4, size=32)
REAL = [  # small clips of all containers and codecs that are there
    "UCF-101/PushUps/v_PushUps_g01_c01.avi",
    "decord__flipping_a_pancake.mkv",
    "exoplayer__bear-vp9.webm",
    "exoplayer__sample.flv",
    "exoplayer__sample_fragmented.mp4",
    "exoplayer__sample_h263.ts",
    "exoplayer__testvid_1022ms.mp4",
    "ffmpegpython__in.mp4",
    "filetype__fixture.3gp",
    "filetype__fixture.mpg",
    "filetype__fixture.wmv.asf",
    "imageio__newtonscradle.gif",
    "mmaction2__demo_spatiotemporal_det.mp4",
    "tfio__small.mp4",
    "torchcodec__av1_video.mkv",
    "torchcodec__h265_video.mp4",
]
# What no decoder can notice: most formats have no checksums, and some no count of frames either.
MAY_DIFFER = {*IN_PICTURES, "bits of the header", "bits of the index", "counts and rates"}
MAY_BE_CUT = {".ts", ".mpg", ".gif", ".flv", ".webm"}
CUTS = {"tail cut off", "head cut off", "middle cut out", "another file's head"}


def check(found: list[Outcome], folder: Path) -> None:
    """What holds for any damage; a reason is for a person, and the same on every machine."""
    for one in found:
        name = f"{one.mutation.kind} of {one.mutation.source.name}: {one.reason}"
        if one.how == "different":
            cut = one.mutation.kind in CUTS and one.mutation.source.suffix in MAY_BE_CUT
            assert one.mutation.kind in MAY_DIFFER or cut, name
        if one.how in ("reported", "killed", "crashed"):
            assert one.reason.strip() and one.reason.isprintable(), "one line"
            assert str(folder) not in one.reason
            assert not re.search(r"0x(5[56]|7f)[0-9a-f]{10}\b", one.reason), "a memory address"
            assert not re.match(r"[A-Z]\w+(Error|Exception): ", one.reason), "the kit's mistake"
    counts = Counter(one.how for one in found)
    assert counts["killed"] + counts["crashed"] <= 1, "they are rare, and cost their clip"


def test_damaged_videos_are_decoded_right_or_listed(tmp_path: Path) -> None:
    made = list(mutations(encoded_sources(tmp_path / "sound"), 3 * len(KINDS), seed=1))
    found = outcomes(made, tmp_path / "damaged", workers=2, deadline=30)
    assert {one.mutation.kind for one in found} == set(KINDS)
    check(found, tmp_path)
    again = outcomes(made[:14], tmp_path / "again", workers=1, deadline=30)
    assert [(one.how, one.reason) for one in again] == [(one.how, one.reason) for one in found[:14]]


def test_damaged_real_videos_are_decoded_right_or_listed(realdata: Path, tmp_path: Path) -> None:
    sources = [realdata / "videos" / name for name in REAL]
    found = outcomes(
        list(mutations(sources, 5 * len(KINDS), seed=6)), tmp_path, workers=2, deadline=30
    )
    check(found, tmp_path)
    # H.264, nearly all of the paper's clips, shows its damage.
    h264 = [one for one in found if one.codec == "h264" and one.mutation.kind in IN_PICTURES]
    assert Counter(one.how for one in h264)["reported"] > 3
    assert all(one.difference < 1 for one in h264 if one.how == "different")


def grey(path: Path, size: tuple[int, int], codec: str, n_frames: int = 5, **options: str) -> None:
    """Frame n has the luma 40 + 40 n, and no colour."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", **options} if codec == "libx264" else options
        for number in range(n_frames):
            frame = av.VideoFrame(*size, stream.pix_fmt)
            for plane, level in zip(frame.planes, (40 + 40 * number, 128, 128), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


PATCHED = {  # what lies how many bytes after the first such tag, and what to write there
    "no_rate.avi": (b"strh", 4 + 20, struct.pack("<2I", 0, 0)),
    "more_frames.avi": (b"avih", 4 + 16, struct.pack("<I", 2**31 - 1)),
    "far_more_frames.avi": (b"strh", 4 + 32, struct.pack("<I", 2**31 - 1)),
    "long.mp4": (b"mvhd", 16, struct.pack(">I", 2**32 - 1)),
    "more_frames.mp4": (b"stts", 8, struct.pack(">I", 2**31 - 1)),
    "more_samples.mp4": (b"stsz", 8, struct.pack(">I", 2**32 - 1)),
    "no_time_scale.mp4": (b"mdhd", 12, struct.pack(">I", 0)),
    "all_cut.mp4": (b"elst", 12, struct.pack(">i", 2**31 - 1)),
}
REFUSED = {
    "all_cut.mp4": "has no frames",
    "far_more_frames.avi": "is damaged or cut off: holds 5 of the 2147483647 frames that its "
    "header promises",
    "no_time_scale.mp4": "is damaged: Invalid mdhd time scale 0, defaulting to 1",
    "more_samples.mp4": "cannot be opened as a video: Invalid data found when processing input",
}


def test_odd_videos(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    grey(folder / "1x1.mp4", (1, 1), "libx264")
    grey(folder / "8k.mp4", (7680, 4320), "libx264", 1)
    grey(folder / "one_frame.mkv", (64, 48), "libx264", 1)
    grey(folder / "line.avi", (16, 4096), "mpeg4")
    for name in ("b_frames.h264", "b_frames.avi"):
        grey(folder / name, (64, 48), "libx264", bf="2")
        with av.open(str(folder / name)) as file:
            kinds = {picture.pict_type for picture in file.decode(video=0)}
        assert av.video.frame.PictureType.B in kinds
    for name, (tag, offset, content) in PATCHED.items():
        grey(folder / name, (64, 48), "mpeg4" if name.endswith(".avi") else "libx264")
        data = bytearray((folder / name).read_bytes())
        at = data.index(tag) + len(tag) + offset
        data[at : at + len(content)] = content
        (folder / name).write_bytes(data)

    names = sorted(path.name for path in folder.iterdir())
    clips = pd.DataFrame({"clip_id": names, "path": names})
    store = build(clips, folder, tmp_path / "store", RULE, workers=2, progress=False)
    assert dict(zip(store.failures["clip_id"], store.failures["reason"], strict=True)) == REFUSED
    for place, name in enumerate(store.clip_ids):
        n_frames = 1 if name in ("8k.mp4", "one_frame.mkv") else 5
        wanted = midpoint_indices(0, n_frames - 1, 4)
        frames = store.frames([place])[0, : store.frame_counts[place]]
        brightness = frames.mean(axis=(1, 2, 3))
        assert np.abs(brightness - (40 + 40 * wanted - 16) * 255 / 219).max() < 2, name
        assert frames.std(axis=(1, 2, 3)).max() < 2, name
