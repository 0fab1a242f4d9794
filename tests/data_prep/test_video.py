import contextlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import count
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


def decoded_with_times(path: Path, size: int, backend: str) -> tuple[video.DecodedClip, np.ndarray]:
    """Every frame, and the times that are chosen from."""
    seen = []

    def choose(times: np.ndarray) -> np.ndarray:
        seen.append(times)
        return every(times)

    return decode(path, choose, size, backend), seen[-1]


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
    clip, times = decoded_with_times(path, SIZE, backend)
    rate = 25 if name == "bare.h264" else 10  # nothing tells it
    assert times.tolist() == pytest.approx([(k + 0.5) / rate for k in range(n)], abs=2e-3)
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
    if suits_decord(path):
        decode(path, every, 2, "decord")
        return
    with pytest.raises(DecodeError, match=r"decord failed: .*size must exactly match"):
        decode(path, every, 2, "decord")


@NEEDS_DECORD
def test_frames_are_compared_with_those_of_the_other_backend(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video("clip.mp4", 20)
    for backend in ("decord", "pyav"):
        clip = decode(path, only(3, 9), SIZE, backend)
        assert not clip.compared
        for difference in (0, video.ROUNDING):
            other = replace(clip, frames=clip.frames + np.uint8(difference))
            assert video.compare(other, path, SIZE).compared
        other = replace(clip, frames=clip.frames[::-1])
        with pytest.raises(DecodeError, match=r"give different frames, by up to 9\d grey levels"):
            video.compare(other, path, SIZE)

    path = make_video("narrow.mp4", 2, width=48)
    clip = decode(path, every, SIZE)
    assert video.compare(clip, path, SIZE) is clip
    monkeypatch.setattr(video, "suits_decord", lambda path: True)
    assert video.compare(clip, path, SIZE) is clip, "PyAV is believed where decord fails"


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


def silence(number: int) -> av.AudioFrame:
    """A tenth of a second."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 16000, 1600 * number
    return frame


UNEVEN = (700 + np.cumsum(np.random.default_rng(0).integers(20, 90, 90))).tolist()
TIMED: dict[str, tuple[list[int], Fraction]] = {  # stamps, and their unit
    "29.97 a second.mp4": ([1001 * n for n in range(300)], Fraction(1, 30000)),
    "any times.mp4": ([16 * stamp for stamp in UNEVEN], Fraction(1, 16000)),
    "sound first.mkv": (UNEVEN, Fraction(1, 1000)),
}


@NEEDS_DECORD
@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", TIMED)
def test_times_are_those_of_the_official_code(
    make_video: MakeVideo, tmp_path: Path, name: str, backend: str
) -> None:
    """Which takes them from decord itself."""
    import decord

    stamps, unit = TIMED[name]
    # With B-frames, decord's FFmpeg leaves out the durations of an MP4's first packets.
    path = make_video(name, stamps=stamps, unit=unit, options=NO_B_FRAMES)
    if name.startswith("sound"):
        path = remuxed(path, tmp_path / "with sound.mkv", sound=True)
    reader = decord.VideoReader(str(path))
    official = reader.get_frame_timestamp(range(len(reader))).mean(-1)
    _, times = decoded_with_times(path, 32, backend)
    assert times.dtype == np.float32
    # How long an MP4's last frame lasts, decord's FFmpeg tells otherwise.
    assert times.tolist()[:-1] == official.tolist()[:-1]


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


SIGNS = (1, -1)
PLAIN_REST = (0, 0, 1 << 30)
MATRICES = [  # a, b, c, d of a display matrix: column x, row y are shown at ax + cy, bx + dy
    *((a, 0, 0, d) for a in SIGNS for d in SIGNS),
    *((0, b, c, 0) for b in SIGNS for c in SIGNS),
]


def shown_through(matrix: tuple[int, ...], frame: np.ndarray) -> np.ndarray:
    """A square frame through a display matrix (ISO/IEC 14496-12, 6.2.2)."""
    a, b, c, d = matrix
    out, last = np.full_like(frame, 99), len(frame) - 1
    down, right = 2 * np.indices(frame.shape[:2]) - last  # from the centre, in half pixels
    out[(b * right + d * down + last) // 2, (a * right + c * down + last) // 2] = frame
    return out


def with_matrix(path: Path, *numbers: float, rest: tuple[int, ...] = PLAIN_REST) -> Path:
    """The MP4 file with the display matrix a, b, c, d, and u, v, w in `rest`."""
    a, b, c, d = (int(65536 * number) for number in numbers)
    u, v, w = rest
    return patched(path, b"tkhd", 40, struct.pack(">9i", a, b, u, c, d, v, 0, 0, w))


def refused_as_turned(path: Path) -> None:
    assert not suits_decord(path)
    if HAS_DECORD:
        with pytest.raises(DecodeError, match="is turned or mirrored for showing"):
            decode(path, only(1, 9), SIZE, "decord")


def test_display_matrices_are_applied(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264", 12, 32, 32)
    plain = decode(path, every, 32).frames
    for matrix in MATRICES:
        turned = with_matrix(path, *matrix)
        expected = np.stack([shown_through(matrix, frame) for frame in plain])
        assert (decode(turned, every, 32).frames == expected).all()
        assert (decode(turned, only(10), 32).frames == expected[10]).all()
        if matrix == (1, 0, 0, 1):
            assert suits_decord(turned) == HAS_DECORD
        else:
            assert (expected[10] != plain[10]).any()
            refused_as_turned(turned)
        nearly = [0.9998 * n if n else 0.0001 for n in matrix]
        assert (decode(with_matrix(path, *nearly), only(10), 32).frames == expected[10]).all()


@pytest.mark.parametrize(
    ("numbers", "rest"),
    [
        ((0.7071, 0.7071, -0.7071, 0.7071), PLAIN_REST),  # an eighth of a turn
        ((1, 0.5, 0, 1), PLAIN_REST),  # slanted
        ((-1, 0, 0, 1), (1 << 20, 0, 1 << 30)),  # in perspective
        ((1, 0, 0, 1), (0, 1 << 20, 1 << 30)),
        ((1, 0, 0, 1), (0, 0, 0)),
        ((0, 0, 0, 0), PLAIN_REST),
        ((1, 0, 0, 0), PLAIN_REST),
    ],
)
def test_other_display_matrices_are_refused(
    make_video: MakeVideo, numbers: tuple[float, ...], rest: tuple[int, ...]
) -> None:
    path = with_matrix(make_video("clip.mp4", 12), *numbers, rest=rest)
    with pytest.raises(DecodeError, match="is to be shown through the matrix"):
        decode(path, only(0), SIZE)
    refused_as_turned(path)


def remuxed(
    path: Path,
    out: Path,
    *,
    change: Callable[[Any], Any] = lambda packet: packet,
    sound: bool = False,
    tags: dict[str, str] | None = None,
) -> Path:
    """The video's packets copied: changed, with sound between them, or with tags."""
    with av.open(str(path)) as source, av.open(str(out), "w") as file:
        stream: Any = file.add_stream_from_template(source.streams.video[0])
        stream.metadata.update(tags or {})
        track: Any = file.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                changed = change(packet)
                changed.stream = stream
                file.mux(changed)
            if sound:
                file.mux(track.encode(silence(number)))
        if sound:
            file.mux(track.encode())
    return out


def turned_in_stream(
    path: Path, codec: str, quarters: int, flip: tuple[int, int], keyframes: tuple[int, ...]
) -> Path:
    """The MP4 file whose stream says of the keyframes numbered so that they are to be shown
    mirrored, then turned anticlockwise (H.264 D.1.27 and H.265 D.2.17, display orientation)."""
    bits = f"0{flip[0]}{flip[1]}{quarters << 14:016b}" + ("0100" if codec == "libx264" else "1")
    payload = int(f"{bits}1".ljust(24, "0"), 2).to_bytes(3, "big")
    head = b"\x06" if codec == "libx264" else bytes([39 << 1, 1])
    unit = head + bytes([47, 3]) + payload.replace(b"\0\0\0", b"\0\0\3\0") + b"\x80"
    seen = count()

    def change(packet: Any) -> Any:
        if not packet.is_keyframe or next(seen) not in keyframes:
            return packet
        copy: Any = av.Packet(struct.pack(">I", len(unit)) + unit + bytes(packet))
        for name in ("pts", "dts", "duration", "time_base", "is_keyframe"):
            setattr(copy, name, getattr(packet, name))
        return copy

    return remuxed(path, path.with_name("turned_" + path.name), change=change)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_orientation_in_the_stream_is_applied(tmp_path: Path, codec: str, quarters: int) -> None:
    """To every picture, though only the keyframes say so."""
    path = write_video(tmp_path / "clip.mp4", codec, 20, 64, 64)
    plain = decode(path, every, 64).frames
    for flip in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        turned = turned_in_stream(path, codec, quarters, flip, (0, 1, 2))
        mirrored = plain[:, :: SIGNS[flip[1]], :: SIGNS[flip[0]]]
        expected = np.rot90(mirrored, quarters, axes=(1, 2))
        assert (decode(turned, every, 64).frames == expected).all()
        for number in (0, 9, 16, 19):
            assert (decode(turned, only(number), 64).frames[0] == expected[number]).all()
        if (quarters, flip) not in [(0, (0, 0)), (2, (1, 1))]:
            refused_as_turned(turned)


@pytest.mark.parametrize("keyframes", [(0,), (1,), (1, 2), (0, 2)])
def test_videos_that_turn_are_refused(tmp_path: Path, keyframes: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264", 20, 64, 64)
    turned = turned_in_stream(path, "libx264", 0, (1, 0), keyframes)
    for backend in ("pyav", "decord") if HAS_DECORD else ("pyav",):
        with pytest.raises(DecodeError, match=r"not turned alike|turned or mirrored"):
            decode(turned, only(1, 9, 19), SIZE, backend)


def test_decord_may_not_turn_what_pyav_does_not(tmp_path: Path) -> None:
    """An old tag of Matroska files."""
    plain = write_video(tmp_path / "clip.mp4", "libx264", 20)
    path = remuxed(plain, tmp_path / "clip.mkv", tags={"rotate": "180"})
    assert (decode(path, every, SIZE).frames == decode(plain, every, SIZE).frames).all()
    refused_as_turned(path)


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
    start = data.index(b"mdat")
    end = start + struct.unpack(">I", data[start - 4 : start])[0] - 4
    data[end - 300 : end] = bytes(byte ^ 0x55 for byte in data[end - 300 : end])
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        decode(path, only(15), SIZE)
    for last in range(1, 8):
        assert numbers(decode(path, only(0, last), SIZE).frames).tolist() == [0, last]


def test_cut_off_files_are_refused(make_video: MakeVideo) -> None:
    for path in (
        make_video("clip.mp4", 30, container={"movflags": "faststart"}),
        make_video("clip.mkv", 30),
        make_video("clip.avi", 30, **KINDS["plain.avi"]),
    ):
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


def test_lost_frames_of_an_mp4_are_noticed(make_video: MakeVideo, tmp_path: Path) -> None:
    """Frames that its index puts behind the end of the file."""
    silent = make_video("silent.mp4", 20, options=NO_B_FRAMES)
    path = remuxed(silent, tmp_path / "clip.mp4", sound=True)  # so that it is not all in one piece
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


PAGE = "it is a web page or a server's error"
STRANGERS = [
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a git-LFS pointer"),
    ("/annex/objects/MD5E-s9--0.mp4\n", "it is a git-annex pointer"),
    ("\N{BYTE ORDER MARK}\n <!DOCTYPE html>\n<title>Sign in</title>", PAGE),
    ("<HTML><body>404</body></HTML>", PAGE),
    ("<?xml version='1.0'?><Error><Code>AccessDenied</Code>", PAGE),
    ('{"error": "quota"}', PAGE),
    ("PK\3\4", "it is an archive"),
    ("%PDF-1.7", "it is a PDF document"),
    ("", "it is empty"),
]


@pytest.mark.parametrize(("text", "message"), STRANGERS)
def test_what_stands_in_a_files_place_is_named(tmp_path: Path, text: str, message: str) -> None:
    for name in ("a.mp4", "a.h264", "a.jpg"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        refused(tmp_path / name, message)


def refused(path: Path, message: str) -> None:
    for call in (suits_decord, lambda path: decode(path, every, SIZE)):
        with pytest.raises(DecodeError, match=message) as caught:
            call(path)
        assert str(path.parent) not in str(caught.value), "texts must not depend on the place"


def test_files_without_frames(
    tmp_path: Path, make_video: MakeVideo, make_audio: Callable[[str], Path]
) -> None:
    mp4 = make_video("whole.mp4", 5).read_bytes()
    (tmp_path / "no_index.mp4").write_bytes(mp4[: mp4.index(b"moov") - 4])
    (tmp_path / "text.mp4").write_text("this is no video")
    for name in ("text.mp4", "no_index.mp4", "absent.mp4", "."):
        refused(tmp_path / name, "cannot be opened as a video")
    refused(make_audio("sound.m4a"), "no video stream")
    for name in ("notes.txt", "notes.nfo", "notes.ans", "clip%d.jpg"):
        (tmp_path / name).write_text("FFmpeg draws texts as a terminal would\n" * 50)
        refused(tmp_path / name, "no video file")


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
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 7, 16, 33]), st.integers(1, 4))
def test_resize_agrees_with_torchvision(height: int, width: int, size: int, channel: int) -> None:
    frame = np.roll(photo(height, width, 4), channel, axis=2)[..., :3]
    steps = [v2.Resize(size, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
    expected = v2.Compose(steps)(torch.from_numpy(frame).permute(2, 0, 1)).permute(1, 2, 0)
    resized = resize(frame, size)
    assert resized.shape == (size, size, 3)
    assert np.abs(resized.astype(int) - expected.numpy()).max() <= 2


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


def saved(image: Image.Image | np.ndarray, path: Path, **options: Any) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


PHOTO = Image.fromarray(photo())
STILLS: dict[str, Image.Image | np.ndarray] = {
    **dict.fromkeys(["rgb.jpg", "rgb.png", "rgb.webp", "rgb.bmp"], PHOTO),
    "grey.jpg": photo()[..., 0],
    "bilevel.png": photo()[..., 0] > 99,
    "palette.png": PHOTO.quantize(64),
    "cmyk.jpg": PHOTO.convert("CMYK"),
    **dict.fromkeys(["alpha.png", "alpha.webp"], photo(channels=4)),
    "grey_alpha.png": photo(channels=2),
    "one_pixel.png": photo(1, 1),
    "wide.jpeg": photo(31, 77),
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
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for image, expected in ((clear, clear[..., :3]), (values, (values // 256)[..., None])):
        assert (decode(saved(image, tmp_path / "a.png"), every, 8).frames[0] == expected).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
def test_images_are_turned_upright(tmp_path: Path, name: str) -> None:
    """EXIF 2.32, tag 0x0112: what the first row and the first column of the file show."""
    upright = photo(24, 24)
    stored = [
        upright,  # top, left
        upright[:, ::-1],  # top, right
        upright[::-1, ::-1],  # bottom, right
        upright[::-1],  # bottom, left
        upright.swapaxes(0, 1),  # left, top
        upright.swapaxes(0, 1)[::-1],  # right, top
        upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
    ]
    lossless: dict[str, dict[str, Any]] = {
        "a.webp": {"lossless": True},
        "a.jpg": {"quality": 100, "subsampling": 0},
    }
    for orientation, frame in enumerate(stored, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(frame, tmp_path / name, exif=exif, **lossless.get(name, {}))
        difference = np.abs(decode(path, every, SIZE).frames[0] - upright.astype(int))
        assert difference.max() <= (4 if name == "a.jpg" else 0)


def test_large_photos_are_decoded_smaller(tmp_path: Path) -> None:
    path = saved(photo(8 * SIZE, 9 * SIZE), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as whole:
        difference = decode(path, every, SIZE).frames[0] - by_pillow(whole).astype(int)
    assert 0 < np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "rgb.webp", "rgb.bmp"])
def test_images_cut_off_or_damaged(tmp_path: Path, name: str) -> None:
    """Whole, or an error: nothing else may come out, and no other exception."""
    path = saved(photo(200, 300), tmp_path / name)
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


def test_images_that_would_blow_up_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(Image.new("RGB", (1, 60000)), tmp_path / "line.png")
    with pytest.raises(DecodeError, match=r"too long and narrow a picture \(1 x 60000\)"):
        decode(path, every, 224)
    assert decode(path, every, 2).frames.shape == (1, 2, 2, 3)

    plain = saved(PHOTO, tmp_path / "a.png").read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    end = 12 + len(header)
    bomb = plain[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain[end + 4 :]
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 52 - 1)  # Pillow only warns of the second
    for name in ("bomb.png", "a.png"):
        with pytest.raises(DecodeError, match="too large an image"):
            decode(tmp_path / name, every, SIZE)


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
