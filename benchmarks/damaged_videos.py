"""Seeded damage to sound video files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np

IN_PICTURES = ("a bit of a picture", "bytes of a picture", "zeroed sectors")  # kinds of damage
OTHER_ENDINGS = (".txt", ".jpg", ".mp4", ".avi", ".ts", ".m3u8", ".wav", ".h264", "")
_MATROSKA_INDEX = b"\x1c\x53\xbb\x6b"
_Spans = list[tuple[int, int]]  # start and end of byte ranges


@dataclass(frozen=True)
class Mutation:
    """A damaged file.

    kind: what was done to it.
    source: the sound file that it was made from.
    ending: of its name.
    content: its bytes.
    cut: how many of the source's first frames the file says to leave out.
    turns: by how many quarter turns, clockwise, the file says to turn the source's frames.
    holds_video: False where no frame may come out.
    """

    kind: str
    source: Path
    ending: str
    content: bytes
    cut: int = 0
    turns: int = 0
    holds_video: bool = True


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
    return islice(_endless([_Victim(path) for path in sources], seed), count)


def _endless(victims: Sequence[_Victim], seed: int) -> Iterator[Mutation]:
    for number, (kind, mutate) in enumerate(cycle(KINDS.items())):
        rng = np.random.default_rng([seed, number])
        shuffled = [victims[place] for place in rng.permutation(len(victims))]
        tried = (mutate(victim, victims, rng) for victim in shuffled)
        made = next((one for one in tried if one is not None), None)
        if made is not None:
            yield replace(made, kind=kind)


class _Victim:
    """A sound file and what is where in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, path.read_bytes()

    def with_bytes(self, content: bytes | bytearray, **changes: Any) -> Mutation:
        made = Mutation("", self.path, self.path.suffix, bytes(content))
        return replace(made, **changes)

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
            names = (b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"co64")
            return [self.boxes[name] for name in names if name in self.boxes]
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
        for name, start, end in _boxes(self.content, 0, len(self.content)):
            if name == b"moov":
                tracks = []
                for inner, first, last in _boxes(self.content, start, end):
                    if inner == b"trak":
                        tracks.append({b"hdlr": (0, 0)} | dict(_leaves(self.content, first, last)))
                    elif inner == b"mvhd":
                        found[inner] = (first, last)
                handlers = [self.content[slice(*track[b"hdlr"])][8:12] for track in tracks]
                if handlers.count(b"vide") == 1:  # of several, FFmpeg may read another one
                    return found | tracks[handlers.index(b"vide")]
        return {}


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


def _place(spans: _Spans, rng: np.random.Generator) -> int:
    """A byte of the spans, each as likely as any other."""
    at = int(rng.integers(sum(end - start for start, end in spans)))
    for start, end in spans:
        if at < end - start:
            return start + at
        at -= end - start
    raise AssertionError("unreachable")


def _flip(victim: _Victim, spans: _Spans, flips: int, rng: np.random.Generator) -> Mutation | None:
    if not any(end > start for start, end in spans):
        return None
    content = bytearray(victim.content)
    for _ in range(flips):
        content[_place(spans, rng)] ^= 1 << int(rng.integers(8))
    return victim.with_bytes(content)


def _picture_bit(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    return _flip(victim, victim.pictures, 1, rng)


def _picture_bytes(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    if not victim.pictures:
        return None
    content = bytearray(victim.content)
    at = _place(victim.pictures, rng)
    noise = rng.bytes(int(rng.integers(2, 65)))[: len(content) - at]
    content[at : at + len(noise)] = noise
    return victim.with_bytes(content)


def _header_bits(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    return _flip(victim, victim.header, int(rng.integers(1, 9)), rng)


def _index_bits(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    return _flip(victim, victim.index, int(rng.integers(1, 9)), rng)


def _zeroed(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    """Sectors that a disk or a download lost."""
    content = bytearray(victim.content)
    start = 512 * int(rng.integers(max(1, len(content) // 512)))
    size = min(512 * int(rng.integers(1, 17)), len(content) - start)
    content[start : start + size] = bytes(size)
    return victim.with_bytes(content)


def _tail_cut(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    return victim.with_bytes(victim.content[: int(rng.integers(1, len(victim.content)))])


def _head_cut(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    return victim.with_bytes(victim.content[int(rng.integers(1, len(victim.content))) :])


def _middle_cut(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    start, end = sorted(rng.integers(1, len(victim.content), 2).tolist())
    return victim.with_bytes(victim.content[:start] + victim.content[end + 1 :])


def _other_head(
    victim: _Victim, others: Sequence[_Victim], rng: np.random.Generator
) -> Mutation | None:
    other = others[int(rng.integers(len(others)))]
    if other is victim:
        return None
    size = int(rng.integers(16, 1 + min(65536, len(other.content), len(victim.content))))
    return victim.with_bytes(other.content[:size] + victim.content[size:])


def _other_ending(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    return victim.with_bytes(victim.content, ending=str(rng.choice(OTHER_ENDINGS)))


def _no_video(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation:
    size = len(victim.content)
    playlist = f"#EXTM3U\n#EXTINF:1,\n{victim.path}\n#EXT-X-ENDLIST\n"
    choices = [b"", bytes(size), rng.bytes(size), b"This is no video.\n" * 99, playlist.encode()]
    return victim.with_bytes(choices[int(rng.integers(len(choices)))], holds_video=False)


def _display_matrix(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    if b"tkhd" not in victim.boxes:
        return None
    _, end = victim.boxes[b"tkhd"]
    content, where = bytearray(victim.content), slice(end - 44, end - 8)
    if content[where] != _matrix(0):
        return None
    if rng.random() < 0.3:
        content[where] = rng.bytes(36)
        return victim.with_bytes(content, holds_video=False)
    turns = int(rng.integers(1, 4))
    content[where] = _matrix(turns)
    return victim.with_bytes(content, turns=turns)


def _matrix(turns: int) -> bytes:
    """A display matrix of clockwise quarter turns (ISO/IEC 14496-12, 8.3.2: a b u c d v x y w)."""
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    return struct.pack(">9i", *(n << 16 for n in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)


def _edit_list(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    """The first frames cut off: those that are shown before a frame's time."""
    if b"elst" not in victim.boxes or b"mdhd" not in victim.boxes:
        return None
    start, _end = victim.boxes[b"elst"]
    content = bytearray(victim.content)
    version, entries = struct.unpack_from(">BxxxI", content, start)
    with av.open(str(victim.path), options={"ignore_editlist": "1"}) as container:
        stamps = [p.pts for p in container.demux(container.streams.video[0]) if p.pts is not None]
    stamps.sort()
    whole_edit = struct.unpack_from(">Ii" if version == 0 else ">Qq", content, start + 8)
    if entries != 1 or len(stamps) < 2 or whole_edit[1] > stamps[0]:
        return None
    cut = int(rng.integers(1, len(stamps)))
    struct.pack_into(
        *((">i", content, start + 12) if version == 0 else (">q", content, start + 16)),
        stamps[cut],
    )
    return victim.with_bytes(content, cut=cut)


def _counts(victim: _Victim, _: Any, rng: np.random.Generator) -> Mutation | None:
    """Wrong numbers of frames, rates and durations: 0, too many, or any."""
    fields: list[tuple[int, str]] = []
    if victim.boxes:
        places = {b"stts": 8, b"stsz": 8, b"mvhd": 12, b"mdhd": 12, b"stsc": 4, b"stss": 4}
        for name, offset in places.items():
            if name in victim.boxes:
                start, end = victim.boxes[name]
                fields += [
                    (at, ">I") for at in (start + offset, start + offset + 4) if at + 4 <= end
                ]
    elif victim.content[8:12] == b"AVI ":
        avih, strh = victim.content.find(b"avih") + 8, victim.content.find(b"strh") + 8
        fields = [(avih, "<I"), (avih + 16, "<I"), (strh + 20, "<I"), (strh + 24, "<I")]
        fields += [(strh + 32, "<I")]
    if not fields:
        return None
    content = bytearray(victim.content)
    at, layout = fields[int(rng.integers(len(fields)))]
    old = struct.unpack_from(layout, content, at)[0]
    values = [0, old + 1, 2 * old + 7, 2**31 - 1, int(rng.integers(2**32))]
    new = values[int(rng.integers(len(values)))] % 2**32
    struct.pack_into(layout, content, at, new)
    return victim.with_bytes(content)


KINDS: dict[str, Callable[[_Victim, Sequence[_Victim], np.random.Generator], Mutation | None]] = {
    "a bit of a picture": _picture_bit,
    "bytes of a picture": _picture_bytes,
    "bits of the header": _header_bits,
    "bits of the index": _index_bits,
    "zeroed sectors": _zeroed,
    "tail cut off": _tail_cut,
    "head cut off": _head_cut,
    "middle cut out": _middle_cut,
    "another file's head": _other_head,
    "another ending": _other_ending,
    "no video": _no_video,
    "display matrix": _display_matrix,
    "edit list": _edit_list,
    "counts and rates": _counts,
}
