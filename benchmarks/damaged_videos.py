"""Seeded damage to sound video files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np

IN_PICTURES = ("a bit of a picture", "bytes of a picture", "zeroed sectors")  # kinds of damage
OTHER_ENDINGS = (".txt", ".jpg", ".mp4", ".avi", ".ts", ".m3u8", ".wav", ".h264", "")
_MATROSKA_INDEX = b"\x1c\x53\xbb\x6b"
_INDEX_BOXES = (b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"co64")
_COUNTS = {b"stts": 8, b"stsz": 8, b"mvhd": 12, b"mdhd": 12, b"stsc": 4, b"stss": 4}
_Rng = np.random.Generator
_Spans = list[tuple[int, int]]  # start and end of byte ranges


@dataclass(frozen=True)
class Mutation:
    """A damaged file: what was done to which sound file, its name's ending and its bytes."""

    kind: str
    source: Path
    ending: str
    content: bytes
    cut: int = 0  # how many of the source's first frames the file says to leave out
    turns: int = 0  # by how many quarter turns, clockwise, it says to turn the source's frames
    holds_video: bool = True  # False where no frame may come out


def encoded_sources(folder: Path) -> list[Path]:
    """Sound videos encoded on the spot: H.264 in MP4 and Matroska, MPEG-4 in AVI, VP9 in WebM."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"a.mp4": "libx264", "b.mkv": "libx264", "c.avi": "mpeg4", "d.webm": "libvpx-vp9"}
    return [write_video(folder / name, codec=codec) for name, codec in kinds.items()]


def write_video(
    path: Path, codec: str, n_frames: int = 24, width: int = 128, height: int = 96
) -> Path:
    """A texture that moves by three pixels a frame."""
    rng = np.random.default_rng(0)
    blocks = (height // 8 + 1, (width + 3 * n_frames) // 8 + 1, 3)
    texture = rng.integers(0, 256, blocks, dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 8
        for number in range(n_frames):
            shown = texture[4 : 4 + height, 3 * number : 3 * number + width]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        file.mux(stream.encode())
    return path


def mutations(sources: Sequence[Path], count: int, seed: int) -> Iterator[Mutation]:
    """`count` mutations of the sources, the kinds in turn; the same for the same seed.

    Raises: ValueError for no sources.
    """
    if not sources:
        raise ValueError("there are no sound videos to damage")
    victims = [_Victim(path) for path in sources]
    for number, (kind, mutate) in enumerate(cycle(KINDS.items())):
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(victims))
        tried = (mutate(victims[place], victims, rng) for place in order)
        if count and (made := next(filter(None, tried), None)):
            count -= 1
            yield replace(made, kind=kind)
        if not count:
            return


class _Victim:
    """A sound file and what is where in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, path.read_bytes()

    def with_bytes(self, content: bytes | bytearray, **changes: Any) -> Mutation:
        made = Mutation("", self.path, self.path.suffix, bytes(content))
        return replace(made, **changes)

    def with_patch(self, at: int, patch: bytes, **changes: Any) -> Mutation:
        content = self.content[:at] + patch + self.content[at + len(patch) :]
        return self.with_bytes(content, **changes)

    @cached_property
    def pictures(self) -> _Spans:
        """Where the packets of the video that is read lie."""
        with av.open(str(self.path), metadata_errors="replace") as container:
            packets = list(container.demux(container.streams.best("video")))
        places = [(packet.pos, packet.size) for packet in packets if packet.size]
        return [(at, at + size) for at, size in places if at is not None and at >= 0]

    @cached_property
    def index(self) -> _Spans:
        """The tables that tell where the pictures lie; empty where there are none."""
        if self.boxes:
            return [self.boxes[name] for name in _INDEX_BOXES if name in self.boxes]
        end = len(self.content)
        at = self.content.rfind(b"idx1")
        if at > 0:
            return [(at + 8, min(at + 8 + struct.unpack_from("<I", self.content, at + 4)[0], end))]
        at = self.content.rfind(_MATROSKA_INDEX)
        return [(at + 4, min(at + 99, end))] if at > 0 else []

    @property
    def header(self) -> _Spans:
        """In MP4 the description of the whole and the track, without the index; else what comes
        before the first packet."""
        if self.boxes:
            return [span for span in self.boxes.values() if span not in self.index]
        return [(0, min((start for start, _ in self.pictures), default=0) or 64)]

    @cached_property
    def boxes(self) -> dict[bytes, tuple[int, int]]:
        """Where the contents of the innermost boxes of an MP4 file's video track lie, and of the
        box that describes the whole, by name. Empty for other files."""
        if self.content[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
            return {}
        found: dict[bytes, tuple[int, int]] = {}
        tracks = []
        for outer, *span in _boxes(self.content, 0, len(self.content)):
            for name, start, end in _boxes(self.content, *span) if outer == b"moov" else ():
                if name == b"mvhd":
                    found[name] = (start, end)
                elif name == b"trak":
                    tracks.append({b"hdlr": (0, 0)} | dict(_leaves(self.content, start, end)))
        handlers = [self.content[slice(*track[b"hdlr"])][8:12] for track in tracks]
        if handlers.count(b"vide") != 1:  # of several, FFmpeg may read another one
            return {}
        return found | tracks[handlers.index(b"vide")]


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the contents of boxes in a row (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", content, start + 8)[0], 16
        last = end if size == 0 else start + size
        if last > end or last < start + head:
            return
        yield name, start + head, last
        start = last


def _leaves(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for name, first, last in _boxes(content, start, end):
        if name in (b"mdia", b"minf", b"stbl", b"edts"):
            yield from _leaves(content, first, last)
        else:
            yield name, (first, last)


def _place(spans: _Spans, rng: _Rng) -> int:
    """A byte of the spans, each as likely as any other."""
    ends = np.cumsum([end - start for start, end in spans])
    at = int(rng.integers(ends[-1]))
    span = int(np.searchsorted(ends, at, side="right"))
    return spans[span][1] - int(ends[span]) + at


def _from_1(end: int, rng: _Rng) -> int:
    return int(rng.integers(1, end))


def _flip(victim: _Victim, spans: _Spans, flips: int, rng: _Rng) -> Mutation | None:
    if not any(end > start for start, end in spans):
        return None
    content = bytearray(victim.content)
    for _ in range(flips):
        content[_place(spans, rng)] ^= 1 << int(rng.integers(8))
    return victim.with_bytes(content)


def _picture_bytes(victim: _Victim, _: Any, rng: _Rng) -> Mutation | None:
    if not victim.pictures:
        return None
    at = _place(victim.pictures, rng)
    noise = rng.bytes(int(rng.integers(2, 65)))[: len(victim.content) - at]
    return victim.with_patch(at, noise)


def _zeroed(victim: _Victim, _: Any, rng: _Rng) -> Mutation:
    """Sectors that a disk or a download lost."""
    size = len(victim.content)
    start = 512 * int(rng.integers(max(1, size // 512)))
    return victim.with_patch(start, bytes(min(512 * int(rng.integers(1, 17)), size - start)))


def _middle_cut(victim: _Victim, _: Any, rng: _Rng) -> Mutation:
    start, end = sorted(rng.integers(1, len(victim.content), 2).tolist())
    return victim.with_bytes(victim.content[:start] + victim.content[end + 1 :])


def _other_head(victim: _Victim, others: Sequence[_Victim], rng: _Rng) -> Mutation | None:
    other = others[int(rng.integers(len(others)))]
    if other is victim:
        return None
    size = int(rng.integers(16, 1 + min(65536, len(other.content), len(victim.content))))
    return victim.with_bytes(other.content[:size] + victim.content[size:])


def _no_video(victim: _Victim, _: Any, rng: _Rng) -> Mutation:
    size = len(victim.content)
    playlist = f"#EXTM3U\n#EXTINF:1,\n{victim.path}\n#EXT-X-ENDLIST\n"
    choices = [b"", bytes(size), rng.bytes(size), b"This is no video.\n" * 99, playlist.encode()]
    return victim.with_bytes(choices[int(rng.integers(len(choices)))], holds_video=False)


def _display_matrix(victim: _Victim, _: Any, rng: _Rng) -> Mutation | None:
    """Other turns than none, or noise (ISO/IEC 14496-12, 8.3.2: a b u c d v x y w)."""
    if b"tkhd" not in victim.boxes:
        return None
    at = victim.boxes[b"tkhd"][1] - 44
    corners = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]  # by quarter turns
    matrices = [
        struct.pack(">9i", *(n << 16 for n in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
        for a, b, c, d in corners
    ]
    if victim.content[at : at + 36] != matrices[0]:
        return None
    if rng.random() < 0.3:
        return victim.with_patch(at, rng.bytes(36), holds_video=False)
    turns = int(rng.integers(1, 4))
    return victim.with_patch(at, matrices[turns], turns=turns)


def _edit_list(victim: _Victim, _: Any, rng: _Rng) -> Mutation | None:
    """The first frames cut off: those that are shown before a frame's time."""
    if b"elst" not in victim.boxes or b"mdhd" not in victim.boxes:
        return None
    start, _end = victim.boxes[b"elst"]
    version, entries = struct.unpack_from(">BxxxI", victim.content, start)
    layout, width = (">i", 4) if version == 0 else (">q", 8)
    first = struct.unpack_from(layout, victim.content, start + 8 + width)[0]
    with av.open(str(victim.path), options={"ignore_editlist": "1"}) as container:
        packets = container.demux(container.streams.video[0])
        stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    if entries != 1 or len(stamps) < 2 or first > stamps[0]:
        return None
    cut = int(rng.integers(1, len(stamps)))
    return victim.with_patch(start + 8 + width, struct.pack(layout, stamps[cut]), cut=cut)


def _counts(victim: _Victim, _: Any, rng: _Rng) -> Mutation | None:
    """Wrong numbers of frames, rates and durations: 0, too many, or any."""
    places, layout = [], ">I"
    if victim.boxes:
        for name, offset in _COUNTS.items():
            start, end = victim.boxes.get(name, (0, 0))
            places += [at for at in (start + offset, start + offset + 4) if at + 4 <= end]
    elif victim.content[8:12] == b"AVI ":
        avih, strh = victim.content.find(b"avih") + 8, victim.content.find(b"strh") + 8
        places, layout = [avih, avih + 16, strh + 20, strh + 24, strh + 32], "<I"
    if not places:
        return None
    at = places[int(rng.integers(len(places)))]
    old = struct.unpack_from(layout, victim.content, at)[0]
    values = [0, old + 1, 2 * old + 7, 2**31 - 1, int(rng.integers(2**32))]
    new = values[int(rng.integers(len(values)))] % 2**32
    return victim.with_patch(at, struct.pack(layout, new))


KINDS: dict[str, Callable[[_Victim, Sequence[_Victim], _Rng], Mutation | None]] = {
    "a bit of a picture": lambda file, _, rng: _flip(file, file.pictures, 1, rng),
    "bytes of a picture": _picture_bytes,
    "bits of the header": lambda file, _, rng: _flip(file, file.header, _from_1(9, rng), rng),
    "bits of the index": lambda file, _, rng: _flip(file, file.index, _from_1(9, rng), rng),
    "zeroed sectors": _zeroed,
    "tail cut off": lambda file, _, rng: file.with_bytes(
        file.content[: _from_1(len(file.content), rng)]
    ),
    "head cut off": lambda file, _, rng: file.with_bytes(
        file.content[_from_1(len(file.content), rng) :]
    ),
    "middle cut out": _middle_cut,
    "another file's head": _other_head,
    "another ending": lambda file, _, rng: file.with_bytes(
        file.content, ending=str(rng.choice(OTHER_ENDINGS))
    ),
    "no video": _no_video,
    "display matrix": _display_matrix,
    "edit list": _edit_list,
    "counts and rates": _counts,
}
