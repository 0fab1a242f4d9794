import contextlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from benchmarks.damaged_videos import write_video
from data_prep import video
from data_prep.video import DecodeError, decode, resize, suits_decord

HAS_DECORD = "decord" in video.decoder_versions()
NEEDS_DECORD = pytest.mark.skipif(not HAS_DECORD, reason="decord is not installed")
BACKENDS = ["pyav", pytest.param("decord", marks=NEEDS_DECORD)]
SIZE = 24

MakeVideo = Callable[..., Path]
Numbers = Callable[[np.ndarray], np.ndarray]


def every(times: np.ndarray) -> np.ndarray:
    return np.arange(times.size)


def only(*numbers: int) -> video.Choose:
    return lambda times: np.array(numbers)


OPEN = "open-gop=1:keyint=6:min-keyint=6:scenecut=0:b-adapt=0:bframes=3"
FINE = {"g": "8", "b": "20M", "qmin": "1", "qmax": "1", "sc_threshold": "1000000000"}
NO_B_FRAMES = {"g": "8", "bf": "0", "crf": "5", "x264-params": "scenecut=0"}
KINDS: dict[str, dict] = {  # of files, and how they are made; decord suits the first three
    "b_frames.mp4": {},
    "one_gop.mkv": {"options": {**NO_B_FRAMES, "g": "250"}},
    "one_frame.mp4": {"n_frames": 1},
    "b_frames.avi": {"codec": "mpeg4", "options": {**FINE, "bf": "2"}},
    "plain.avi": {"codec": "mpeg4", "options": FINE},
    "open_gop.mp4": {"options": {"bf": "3", "crf": "5", "x264-params": OPEN}},
    "stream.ts": {},
    "program.mpg": {"codec": "mpeg2video", "options": {**FINE, "bf": "2"}},
    "bare.h264": {"options": NO_B_FRAMES},
}
BY_DECORD = list(KINDS)[:3]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_right_one(
    make_video: MakeVideo, numbers: Numbers, name: str, backend: str
) -> None:
    n = KINDS[name].get("n_frames", 30)
    path = make_video(name, **{"n_frames": n, **KINDS[name]})
    assert suits_decord(path) == (name in BY_DECORD and HAS_DECORD)
    if backend == "decord" and name not in BY_DECORD:
        return
    seen = []

    def choose(times: np.ndarray) -> np.ndarray:
        seen.append(times)
        return every(times)

    clip = decode(path, choose, SIZE, backend)
    rate = 25 if name == "bare.h264" else 10  # nothing tells it
    assert seen[-1].tolist() == pytest.approx([(k + 0.5) / rate for k in range(n)], abs=2e-3)
    assert numbers(clip.frames).tolist() == list(range(n))
    assert (clip.frame_count, clip.decoder) == (n, backend)
    assert clip.frames.shape == (n, SIZE, SIZE, 3)
    for number in range(n) if backend == "pyav" else {n - 1, n // 2, 0}:
        assert numbers(decode(path, only(number), SIZE, backend).frames) == [number]
    last = n - 1
    scattered = decode(path, lambda times: np.array([[last, 0], [0, last // 2]]), SIZE, backend)
    assert numbers(scattered.frames).tolist() == [[last, 0], [0, last // 2]]


@NEEDS_DECORD
@pytest.mark.parametrize("width", [2, 46, 48, 72, 96])
def test_decord_does_not_suit_widths_that_it_cannot_read(make_video: MakeVideo, width: int) -> None:
    path = make_video("clip.mp4", 2, width=width)
    try:
        decode(path, every, 2, "decord")
        expected = True
    except DecodeError as error:
        assert "size must exactly match" in str(error)
        expected = False
    assert suits_decord(path) == expected


@NEEDS_DECORD
@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_frames_are_compared_with_those_of_the_other_backend(
    make_video: MakeVideo, backend: str
) -> None:
    path = make_video("clip.mp4", 20)
    clip = decode(path, only(3, 9), SIZE, backend)
    assert not clip.compared
    assert video.compare(clip, path, SIZE).compared
    other = replace(clip, frames=clip.frames + np.uint8(video.ROUNDING))
    assert video.compare(other, path, SIZE).compared
    other = replace(clip, frames=clip.frames[::-1])
    with pytest.raises(DecodeError, match=r"give different frames, by up to 9\d grey levels"):
        video.compare(other, path, SIZE)


@NEEDS_DECORD
def test_pyav_is_believed_where_decord_fails(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video("clip.mp4", 2, width=48)
    clip = decode(path, every, SIZE)
    assert video.compare(clip, path, SIZE) is clip
    monkeypatch.setattr(video, "suits_decord", lambda path: True)
    assert video.compare(clip, path, SIZE) is clip
    with pytest.raises(DecodeError, match="decord failed"):
        decode(path, every, SIZE, "decord")


def test_auto_works_without_decord(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video("clip.mp4", 3)
    monkeypatch.setattr(video, "decoder_versions", lambda: {"pyav": "0"})
    assert decode(path, every, SIZE).decoder == "pyav"
    assert not suits_decord(path)
    for backend, message in [
        ("decord", "decord is not installed"),
        ("opencv", "unknown backend 'opencv'; choose one of auto, decord"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode(path, every, SIZE, backend)


def patched(path: Path, box: bytes, offset: int, content: bytes) -> Path:
    """The MP4 file with `content` written `offset` bytes after the name of its first `box`."""
    data = bytearray(path.read_bytes())
    at = data.index(box) + 4 + offset
    data[at : at + len(content)] = content
    out = path.with_name("patched_" + path.name)
    out.write_bytes(data)
    return out


def timed(path: Path, stamps: list[int], unit: Fraction, sound_first: float = 0.0) -> Path:
    """A video whose frame n appears at `stamps[n]` units, where sound starts `sound_first` seconds
    before the first one."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = unit
        # With B-frames, decord's FFmpeg leaves out the durations of an MP4's first packets.
        stream.options = {"bf": "0"}
        if sound_first:
            sound: Any = file.add_stream("aac", rate=48000, layout="mono")
            for start in range(0, 96_000, 960):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 48000, start
                file.mux(sound.encode(silence))
            file.mux(sound.encode())
        for stamp in stamps:
            shown = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
            shown.pts, shown.time_base = stamp + int(sound_first / unit), unit
            file.mux(stream.encode(shown))
        file.mux(stream.encode())
    return path


UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 90, 600)).tolist()
TIMED: dict[str, Any] = {  # the arguments of `timed`
    "25 a second.mp4": ([512 * n for n in range(1500)], Fraction(1, 12800)),
    "29.97 a second.mp4": ([1001 * n for n in range(900)], Fraction(1, 30000)),
    "any times.mp4": ([16 * stamp for stamp in UNEVEN], Fraction(1, 16000)),
    "any times.mkv": (UNEVEN, Fraction(1, 1000)),
    "sound first.mkv": ([40 * n for n in range(1000)], Fraction(1, 1000), 0.7),
}


@NEEDS_DECORD
@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", TIMED)
def test_times_are_those_of_the_official_code(tmp_path: Path, name: str, backend: str) -> None:
    """Which takes them from decord itself."""
    import decord

    path = timed(tmp_path / name, *TIMED[name])
    reader = decord.VideoReader(str(path))
    official = reader.get_frame_timestamp(range(len(reader))).mean(-1)
    seen = []

    def choose(times: np.ndarray) -> np.ndarray:
        seen.append(times)
        return np.array([0])

    decode(path, choose, 32, backend)
    assert seen[0].dtype == np.float32
    # How long an MP4's last frame lasts, decord's FFmpeg tells otherwise.
    assert seen[0].tolist()[:-1] == official.tolist()[:-1]


def test_edit_lists_cut_frames(make_video: MakeVideo, numbers: Numbers) -> None:
    """An edit that starts at 0.6 s: the first six frames are decoded, but not part of the video."""
    path = make_video("clip.mp4", 20, options=NO_B_FRAMES)
    data = path.read_bytes()
    media = data.index(b"mdhd")
    timescale = struct.unpack(">I", data[media + 16 : media + 20])[0]
    assert struct.unpack(">I", data[data.index(b"elst") + 8 :][:4]) == (1,)
    cut = patched(path, b"elst", 12, struct.pack(">i", int(0.6 * timescale)))
    assert not suits_decord(cut)
    clip = decode(cut, every, SIZE)
    assert numbers(clip.frames).tolist() == list(range(6, 20))
    assert clip.frame_count == 14


MATRICES = {  # a, b, c, d of a display matrix: column x, row y are shown at ax + cy, bx + dy
    "as they are": (1, 0, 0, 1),
    "left and right exchanged": (-1, 0, 0, 1),
    "top and bottom exchanged": (1, 0, 0, -1),
    "half a turn": (-1, 0, 0, -1),
    "a quarter turn clockwise": (0, 1, -1, 0),
    "a quarter turn anticlockwise": (0, -1, 1, 0),
    "rows and columns exchanged": (0, 1, 1, 0),
    "mirrored along the other diagonal": (0, -1, -1, 0),
}


def shown_through(matrix: tuple[int, ...], frame: np.ndarray) -> np.ndarray:
    """A square frame, pixel by pixel through a display matrix (ISO/IEC 14496-12, 6.2.2)."""
    a, b, c, d = matrix
    out, last = np.full_like(frame, 99), len(frame) - 1
    for y in range(last + 1):
        for x in range(last + 1):
            right, down = 2 * x - last, 2 * y - last  # from the centre, in half pixels
            column, row = a * right + c * down, b * right + d * down
            out[(row + last) // 2, (column + last) // 2] = frame[y, x]
    return out


def with_matrix(path: Path, *numbers: float, rest: tuple[int, ...] = (0, 0, 1 << 30)) -> Path:
    """The MP4 file with the display matrix a, b, c, d, and u, v, w in `rest`."""
    a, b, c, d = (int(65536 * number) for number in numbers)
    u, v, w = rest
    return patched(path, b"tkhd", 40, struct.pack(">9i", a, b, u, c, d, v, 0, 0, w))


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_are_applied(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264", 12, 32, 32)
    plain = decode(path, every, 32).frames
    turned = with_matrix(path, *MATRICES[name])
    expected = np.stack([shown_through(MATRICES[name], frame) for frame in plain])
    assert (decode(turned, every, 32).frames == expected).all()
    assert (decode(turned, only(10), 32).frames == expected[10]).all()
    nearly = [0.9998 * n if n else 0.0001 for n in MATRICES[name]]
    assert (decode(with_matrix(path, *nearly), only(10), 32).frames == expected[10]).all()
    if name == "as they are":
        assert suits_decord(turned) == HAS_DECORD
        return
    assert (decode(turned, only(10), 32).frames != plain[10]).any()
    assert not suits_decord(turned)
    if HAS_DECORD:
        with pytest.raises(DecodeError, match="is turned or mirrored for showing"):
            decode(turned, only(10), 32, "decord")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("numbers", "rest"),
    [
        ((0.7071, 0.7071, -0.7071, 0.7071), (0, 0, 1 << 30)),  # an eighth of a turn
        ((1, 0.5, 0, 1), (0, 0, 1 << 30)),  # slanted
        ((-1, 0, 0, 1), (1 << 20, 0, 1 << 30)),  # in perspective
        ((1, 0, 0, 1), (0, 1 << 20, 1 << 30)),
        ((1, 0, 0, 1), (0, 0, 0)),
        ((0, 0, 0, 0), (0, 0, 1 << 30)),
        ((1, 0, 0, 0), (0, 0, 1 << 30)),
    ],
)
def test_other_display_matrices_are_refused(
    make_video: MakeVideo, backend: str, numbers: tuple[float, ...], rest: tuple[int, ...]
) -> None:
    path = with_matrix(make_video("clip.mp4", 2), *numbers, rest=rest)
    message = "is to be shown through the matrix" if backend == "pyav" else "turned or mirrored"
    with pytest.raises(DecodeError, match=message):
        decode(path, only(0), SIZE, backend)
    assert not suits_decord(path)


def turned_in_stream(
    path: Path, codec: str, quarters: int, flip: tuple[int, int], keyframes: tuple[int, ...]
) -> Path:
    """The MP4 file whose stream says of the keyframes numbered so that they are to be shown
    mirrored, then turned anticlockwise (H.264 D.1.27 and H.265 D.2.17, display orientation)."""
    bits = f"0{flip[0]}{flip[1]}{quarters << 14:016b}" + ("0100" if codec == "libx264" else "1")
    payload = int(f"{bits}1".ljust(24, "0"), 2).to_bytes(3, "big")
    head = b"\x06" if codec == "libx264" else bytes([39 << 1, 1])
    unit = head + bytes([47, 3]) + payload.replace(b"\0\0\0", b"\0\0\3\0") + b"\x80"
    out = path.with_name("turned_" + path.name)
    with av.open(str(path)) as source, av.open(str(out), "w") as file:
        stream: Any = file.add_stream_from_template(source.streams.video[0])
        seen = -1
        for packet in source.demux(video=0):
            if not packet.size:
                continue
            seen += packet.is_keyframe
            content = bytes(packet)
            if packet.is_keyframe and seen in keyframes:
                content = struct.pack(">I", len(unit)) + unit + content
            copy: Any = av.Packet(content)
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = (
                packet.time_base,
                packet.is_keyframe,
                stream,
            )
            file.mux(copy)
    return out


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("flip", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_orientation_in_the_stream_is_applied(
    tmp_path: Path, codec: str, quarters: int, flip: tuple[int, int]
) -> None:
    """To every picture, though only the keyframes say so."""
    path = write_video(tmp_path / "clip.mp4", codec, 20, 64, 64)
    turned = turned_in_stream(path, codec, quarters, flip, (0, 1, 2))
    plain = decode(path, every, 64).frames
    mirrored = plain[:, :: (-1 if flip[1] else 1), :: (-1 if flip[0] else 1)]
    expected = np.rot90(mirrored, quarters, axes=(1, 2))
    assert (decode(turned, every, 64).frames == expected).all()
    for number in (0, 9, 16, 19):
        assert (decode(turned, only(number), 64).frames[0] == expected[number]).all()
    if (quarters, flip) not in [(0, (0, 0)), (2, (1, 1))] and HAS_DECORD:
        assert not suits_decord(turned)
        with pytest.raises(DecodeError, match="is turned or mirrored for showing"):
            decode(turned, only(9), 64, "decord")


@pytest.mark.parametrize("keyframes", [(0,), (1,), (1, 2), (0, 2)])
def test_videos_that_turn_are_refused(tmp_path: Path, keyframes: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264", 20, 64, 64)
    turned = turned_in_stream(path, "libx264", 0, (1, 0), keyframes)
    backends = ("pyav", "decord") if HAS_DECORD else ("pyav",)
    for backend in backends:
        with pytest.raises(DecodeError, match=r"not turned alike|turned or mirrored"):
            decode(turned, only(1, 9, 19), SIZE, backend)


@NEEDS_DECORD
def test_decord_may_not_turn_what_pyav_does_not(tmp_path: Path) -> None:
    """An old tag of Matroska files."""
    silent = write_video(tmp_path / "clip.mp4", "libx264", 6)
    with av.open(str(silent)) as source, av.open(str(tmp_path / "clip.mkv"), "w") as file:
        stream: Any = file.add_stream_from_template(source.streams.video[0])
        stream.metadata["rotate"] = "180"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    path = tmp_path / "clip.mkv"
    assert (decode(path, every, SIZE).frames == decode(silent, every, SIZE).frames).all()
    assert not suits_decord(path)
    with pytest.raises(DecodeError, match="is turned or mirrored for showing"):
        decode(path, every, SIZE, "decord")


@pytest.mark.parametrize("backend", BACKENDS)
def test_flipped_bits_are_noticed(tmp_path: Path, backend: str) -> None:
    """One wrong bit: the frames are the right ones, or the clip is refused. Such files decode
    without an exception, and only FFmpeg's log tells; where it fills the lost part of a picture
    from its surroundings, it calls that no error."""
    path = write_video(tmp_path / "clip.mp4", "libx264", n_frames=8, width=640, height=360)
    right = decode(path, every, SIZE, "pyav").frames
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0] - 8
    rng = np.random.default_rng(0)
    reasons = []
    for _ in range(25):
        flipped = bytearray(data)
        flipped[start + int(rng.integers(length))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert (decode(path, every, SIZE, backend).frames == right).all()
        except DecodeError as error:
            reasons.append(str(error))
    assert sum("FFmpeg reports damage" in reason for reason in reasons) > 12
    assert sum("concealing" in reason for reason in reasons) > 3


def test_damage_elsewhere_does_not_matter(make_video: MakeVideo, numbers: Numbers) -> None:
    path = make_video("clip.mp4", 16, options=NO_B_FRAMES)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0]
    for place in range(start + length - 300, start + length, 5):
        data[place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        decode(path, only(15), SIZE)
    for last in range(1, 8):
        clip = decode(path, only(0, last), SIZE)
        assert numbers(clip.frames).tolist() == [0, last]


def test_cut_off_files_are_refused(make_video: MakeVideo) -> None:
    mp4 = make_video("clip.mp4", 30, container={"movflags": "faststart"})
    mkv = make_video("clip.mkv", 30)
    avi = make_video("clip.avi", 30, **KINDS["plain.avi"])
    for path in (mp4, mkv, avi):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 9 // 10])
        for _ in range(2):  # FFmpeg's log leaves out a line that it has just said
            with pytest.raises(DecodeError, match="is damaged or cut off"):
                decode(path, only(0), SIZE)


def test_lost_frames_of_an_avi_are_noticed(make_video: MakeVideo, numbers: Numbers) -> None:
    """FFmpeg steps over what it does not understand, and the frames after it would be misnumbered:
    only the header's count tells. One frame of 40 more or less is common."""
    path = make_video("clip.avi", 40, **KINDS["plain.avi"])
    counted = patched(path, b"strh", 4 + 32, struct.pack("<I", 41))
    assert decode(counted, every, SIZE).frame_count == 40
    data = bytearray(path.read_bytes())
    chunks = [found.start() for found in re.finditer(b"00dc", data[: data.index(b"idx1")])]
    data[chunks[10] : chunks[30]] = bytes(chunks[30] - chunks[10])
    data[data.index(b"idx1") :] = b""
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"holds \d+ of the 40 frames that its header"):
        decode(path, every, SIZE)


def with_sound(silent: Path, path: Path) -> Path:
    """The video with a sound track, so that its frames do not lie in one piece."""
    with av.open(str(silent)) as source, av.open(str(path), "w") as file:
        pictures: Any = file.add_stream_from_template(source.streams.video[0])
        sound: Any = file.add_stream("aac", rate=16000, layout="mono")
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = pictures
                file.mux(packet)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 16000, 1600 * number
            file.mux(sound.encode(silence))
        file.mux(sound.encode())
    return path


def test_lost_frames_of_an_mp4_are_noticed(make_video: MakeVideo, tmp_path: Path) -> None:
    """Frames that its index puts behind the end of the file."""
    path = with_sound(make_video("silent.mp4", 20, options=NO_B_FRAMES), tmp_path / "clip.mp4")
    assert decode(path, every, SIZE).frame_count == 20
    behind = struct.pack(">I", 2**28)
    cut = patched(path, b"stco", 4 + 4 + 4 * 3, behind)  # the fourth piece
    with pytest.raises(DecodeError, match=r"holds \d+ of the 20 frames"):
        decode(cut, only(0), SIZE)


def test_an_avi_without_its_head_is_no_bare_stream(make_video: MakeVideo) -> None:
    """FFmpeg would decode the pictures that it still finds."""
    path = make_video("clip.avi", 20, **KINDS["plain.avi"])
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"00dc") + 8 :])
    with pytest.raises(DecodeError, match="is damaged, or a bare stream of m4v"):
        decode(path, every, SIZE)
    bare = make_video("clip.h264", 20)
    with pytest.raises(DecodeError, match="a bare stream of h264, which must be named so"):
        decode(bare.rename(bare.with_suffix(".mp4")), every, SIZE)


STRANGERS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "a git-LFS pointer",
    "/annex/objects/MD5E-s9--0.mp4\n": "a git-annex pointer",
    "\N{BYTE ORDER MARK}\n <!DOCTYPE html>\n<title>Sign in</title>": "a web page",
    "<HTML><body>404</body></HTML>": "a web page",
    "<?xml version='1.0'?><Error><Code>AccessDenied</Code>": "a web page or a server's error",
    '{"error": "quota"}': "a web page or a server's error",
    "PK\3\4": "an archive",
    "%PDF-1.7": "a PDF document",
    "": "empty",
}


@pytest.mark.parametrize("text", STRANGERS)
@pytest.mark.parametrize("name", ["a.mp4", "a.h264", "a.jpg"])
def test_what_stands_in_a_files_place_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    for call in (suits_decord, lambda path: decode(path, every, SIZE)):
        with pytest.raises(DecodeError, match=f"it is {STRANGERS[text]}"):
            call(path)


def test_files_without_frames(
    tmp_path: Path, make_video: MakeVideo, make_audio: Callable[[str], Path]
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    mp4 = make_video("whole.mp4", 5).read_bytes()
    (tmp_path / "no_index.mp4").write_bytes(mp4[: mp4.index(b"moov") - 4])
    opened = "cannot be opened as a video"
    for path, message in [
        *((tmp_path / name, opened) for name in ("text.mp4", "no_index.mp4", "absent.mp4", ".")),
        (make_audio("sound.m4a"), "no video stream"),
    ]:
        for call in (suits_decord, lambda path: decode(path, every, SIZE)):
            with pytest.raises(DecodeError, match=message) as caught:
                call(path)
            assert str(tmp_path) not in str(caught.value), "texts must not depend on the place"


@pytest.mark.parametrize("name", ["notes.txt", "notes.nfo", "notes.ans", "clip%d.jpg"])
def test_texts_are_no_moving_pictures(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("FFmpeg draws texts as a terminal would\n" * 50)
    with pytest.raises(DecodeError, match="no video file"):
        decode(tmp_path / name, every, SIZE)


def test_messages_are_one_printable_line() -> None:
    """A file's own texts can be in them."""
    with video._ffmpeg_errors() as errors:
        av.logging.log(av.logging.ERROR, "mov", "tag 'a\nb\x1b[31m' is unknown\n")
    assert errors == [("mov", "tag 'a?b?[31m' is unknown")]
    with video._native_stderr() as messages:
        os.write(2, b"[h264 @ 0x55d2c0] no \x1b[31m frame\n\nplain\n")
    assert messages == [("h264", "no ?[31m frame"), ("", "plain")]


@pytest.mark.parametrize("bad", [np.array([5]), np.array([-1]), np.array([]), np.array([0.5])])
def test_frames_that_do_not_exist(make_video: MakeVideo, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be whole numbers|of 5 do not exist"):
        decode(make_video("clip.mp4", 5), lambda times: bad, SIZE)


@settings(max_examples=30)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 7, 16, 33]), st.integers(0, 2**32)
)
def test_resize_agrees_with_torchvision(height: int, width: int, size: int, seed: int) -> None:
    waves = np.random.default_rng(seed).uniform(0, 6, (2, 3))
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., None]
    frame = (127.5 + 127.5 * np.sin(rows * waves[0] + columns * waves[1])).astype(np.uint8)
    transform = v2.Compose(
        [
            v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(size),
        ]
    )
    expected = transform(torch.from_numpy(frame).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    resized = resize(frame, size)
    assert resized.shape == (size, size, 3)
    assert np.abs(resized.astype(int) - expected).max() <= 2


def photo(height: int = 40, width: int = 52, channels: int = 3) -> np.ndarray:
    """uint8 [height, width, channels]: smooth waves, different in every channel."""
    rows, columns = np.mgrid[0 : 6 : height * 1j, 0 : 7 : width * 1j]
    waves = [np.sin((n + 1) * rows + n) * np.cos(columns - n * rows) for n in range(channels)]
    return (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def by_pillow(image: Image.Image, size: int = SIZE) -> np.ndarray:
    """CLIP's preprocessing spelled out: shorter side to `size`, then the centre."""
    scale = size / min(image.size)
    width, height = int(image.width * scale), int(image.height * scale)
    small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(small.crop((left, top, left + size, top + size)))


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


PHOTO = Image.fromarray(photo())
STILLS = {
    **dict.fromkeys(["rgb.jpg", "rgb.png", "rgb.webp", "rgb.bmp"], PHOTO),
    "grey.jpg": Image.fromarray(photo()[..., 0]),
    "bilevel.png": Image.fromarray(photo()[..., 0] > 99),
    "palette.png": PHOTO.quantize(64),
    "cmyk.jpg": PHOTO.convert("CMYK"),
    "alpha.png": Image.fromarray(photo(channels=4)),
    "alpha.webp": Image.fromarray(photo(channels=4)),
    "grey_alpha.png": Image.fromarray(photo(channels=2)),
    "one_pixel.png": Image.fromarray(photo(1, 1)),
    "wide.jpeg": Image.fromarray(photo(31, 77)),
}


@pytest.mark.parametrize("name", STILLS)
def test_an_image_is_a_clip_of_one_frame(tmp_path: Path, name: str) -> None:
    path = saved(STILLS[name], tmp_path / name)
    clip = decode(path, lambda times: np.zeros((2, 3), int), SIZE)
    assert (clip.frame_count, clip.decoder, clip.indices.tolist()) == (1, "pillow", [[0] * 3] * 2)
    assert clip.frames.shape == (2, 3, SIZE, SIZE, 3)
    with Image.open(path) as image:
        assert (clip.frames == by_pillow(image)).all()


def test_an_image_is_known_by_its_content(tmp_path: Path, make_video: MakeVideo) -> None:
    path = saved(PHOTO, tmp_path / "a.png").rename(tmp_path / "1234567890")
    assert decode(path, every, SIZE).decoder == "pillow"
    moved = make_video("clip.mp4", 3).rename(tmp_path / "clip.jpg")
    assert decode(moved, every, SIZE).frame_count == 3


def test_colours_below_transparency_and_of_sixteen_bits_stay(tmp_path: Path) -> None:
    clear = np.full((8, 8, 4), (200, 100, 50, 0), np.uint8)
    path = saved(Image.fromarray(clear), tmp_path / "clear.png")
    assert (decode(path, every, 8).frames[0] == (200, 100, 50)).all()
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    assert (decode(path, every, 8).frames[0] == (values // 256)[..., None]).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int, name: str) -> None:
    """EXIF 2.32, tag 0x0112: what the first row and the first column of the file show."""
    upright = photo(24, 24)
    stored = {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.swapaxes(0, 1),  # left, top
        6: upright.swapaxes(0, 1)[::-1],  # right, top
        7: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {
        "a.webp": {"lossless": True},
        "a.jpg": {"quality": 100, "subsampling": 0},
    }
    path = saved(Image.fromarray(stored), tmp_path / name, exif=exif, **options.get(name, {}))
    difference = np.abs(decode(path, every, SIZE).frames[0] - upright.astype(int))
    assert difference.max() <= (4 if name == "a.jpg" else 0)


def test_large_photos_are_decoded_smaller(tmp_path: Path) -> None:
    path = saved(Image.fromarray(photo(8 * SIZE, 9 * SIZE)), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as whole:
        difference = decode(path, every, SIZE).frames[0] - by_pillow(whole).astype(int)
    assert 0 < np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "rgb.webp", "rgb.bmp"])
def test_images_cut_off_or_damaged(tmp_path: Path, name: str) -> None:
    """Whole, or an error: nothing else may come out, and no other exception."""
    path = saved(Image.fromarray(photo(200, 300)), tmp_path / name)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) * 0.97, 40).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(DecodeError) as caught:
            decode(path, every, SIZE)
        assert str(tmp_path) not in str(caught.value)
    path.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(DecodeError, match="damaged image" if name != "rgb.webp" else None):
        decode(path, every, SIZE)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(DecodeError):
            decode(path, every, SIZE)


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    content = io.BytesIO()
    PHOTO.save(content, "PNG")
    path.write_bytes(png_with_header(content.getvalue(), header))
    with pytest.raises(DecodeError, match="too large an image"):
        decode(path, every, SIZE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 52 - 1)  # Pillow only warns here
    with pytest.raises(DecodeError, match="too large an image"):
        decode(saved(PHOTO, tmp_path / "a.png"), every, SIZE)


def test_images_that_resizing_would_blow_up_are_refused(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (1, 60000)), tmp_path / "line.png")
    with pytest.raises(DecodeError, match=r"too long and narrow a picture \(1 x 60000\)"):
        decode(path, every, 224)
    assert decode(path, every, 2).frames.shape == (1, 2, 2, 3)


def png_with_header(png: bytes, header: bytes) -> bytes:
    """The PNG with another IHDR chunk, its checksum right."""
    chunk = b"IHDR" + header
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[12 + len(chunk) + 4 :]


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_animated_images_are_videos(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(photo() // 3 + 80 * n) for n in range(3)]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    clip = decode(path, every, SIZE)
    assert (clip.frame_count, clip.decoder) == (3, "pyav")
    brightness = clip.frames.mean(axis=(1, 2, 3))
    assert (np.diff(brightness) > 60).all()


def test_phone_photos_with_a_second_picture(tmp_path: Path) -> None:
    """Multi-picture files are JPEG photos with an extra, such as a gain map: the first counts."""
    first, second = PHOTO, Image.fromarray(255 - photo())
    path = saved(first, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    clip = decode(path, every, SIZE)
    assert (clip.frame_count, clip.decoder) == (1, "pillow")
    assert np.abs(clip.frames[0].astype(int) - by_pillow(first)).mean() < 12
