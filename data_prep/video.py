"""Frames of a video file, by number, from decord or PyAV: the right ones or an error.

An image is a video of one frame, read by Pillow.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import PIL
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from data_prep.sampling import frame_times
from data_prep.stand_ins import PAGE, START, stand_in

BACKENDS = ("auto", "decord", "pyav")
ROUNDING = 2  # grey levels by which two decoders' colours may differ
DISAGREEMENT = "decord and PyAV give different frames"

_CONCEALED = "concealing"  # FFmpeg made up a part of a picture; to it this is no error
_STILL_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_VIDEO_FORMATS = (  # FFmpeg's names; it would also make pictures of texts, and follow playlists
    "apng,asf,av1,avi,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,rm,tiff_pipe,vc1,vvc,webp_pipe,wtv,yuv4mpegpipe"
)
_BARE_FORMATS = {"av1", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "obu", "vc1", "vvc"}
_MOST_LOST = 0.05  # share of the frames that a header may promise too many
_MOST_PIXELS = 2**27  # of a resized image before its centre is cut out
_MOST_SLANT = 0.01  # off a quarter turn, as a tangent
_REFORMATTER = VideoReformatter()  # one for all, because making its tables costs more than using it

_Turn = tuple[bool, int, int]  # whether rows become columns; then the steps over rows and columns
_UPRIGHT: _Turn = (False, 1, 1)

Choose = Callable[[np.ndarray], np.ndarray]
"""From the times of `sampling.frame_times`, float32 [frames], to the numbers of the frames wanted,
int64 of any shape."""


class DecodeError(ValueError):
    """A video of which the wanted frames cannot be had, or not be trusted."""


@dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip: `frames` uint8 [*indices.shape, size, size, 3] (RGB), `indices` the frame
    numbers, `frame_count` how many frames the whole video has, `decoder` which library decoded,
    `compared` whether the other one was seen to give the same frames."""

    frames: np.ndarray
    indices: np.ndarray
    frame_count: int
    decoder: str
    compared: bool = False


def decode(path: Path, choose: Choose, size: int, backend: str = "auto") -> DecodedClip:
    """Decode the frames that `choose` asks for, each resized to `size` x `size` pixels.

    Frames are numbered in the order of presentation, after edit lists. Videos that are to be shown
    turned by quarters or mirrored come out so, whether the container says it (a display matrix) or
    the stream (SEI); decord, which does not know them all, refuses them, and can hang for ever:
    call this in a process that can be killed (as the frame store does).

    What no decoder notices: few formats have checksums. Of 429 files damaged in their pictures
    (`benchmarks.video_mutations`), 5% of those in H.264, 12% in MPEG-4 and half in HEVC, VP8, VP9
    and AV1 gave other frames without a warning. Nor is it noticed when a file of a kind that has no
    index (MPEG-TS, FLV, GIF) ends early between two frames, or when damage to an index or header
    makes another valid one.

    A JPEG, PNG, WebP or BMP image, whatever its name, is a video of one frame at 0 seconds, turned
    upright by its EXIF data; an alpha channel is dropped, as the CLIP paper's released code does.
    Animated images are videos.

    choose: gets the times of all frames, returns the numbers of those wanted.
    size: see `resize`.
    backend: "decord", "pyav", or "auto", which is PyAV too: on all sound videos tried decord gave
        the same frames to the bit (`suits_decord`), and took a quarter more time.

    Raises: DecodeError (a ValueError) when the file is no video, has no frames, is damaged where it
    matters, is to be shown slanted or not always turned alike, or when a wanted frame does not come
    out; ValueError as `check_backend`.
    """
    check_backend(backend)
    still = _still(Path(path), size)
    if still is not None:
        return _clip("pillow", choose, np.zeros(1, np.float32), lambda _: [resize(still, size)])
    with _opened(Path(path)) as video:
        if backend == "decord":
            return _decode_with_decord(video, choose, size)
        if video.has_timestamps:
            # Some pictures do not decode from the keyframe before them, and some files have more
            # packets than pictures. Decoding from the start and counting settles both, or raises.
            with suppress(DecodeError):
                return _decode_by_time(video, choose, size)
        return _decode_by_counting(video, choose, size)


def compare(clip: DecodedClip, path: Path, size: int) -> DecodedClip:
    """Decode a clip's frames once more, by the other backend, and say so in the clip.

    A clip that decord does not suit or fails on, or that no backend decoded, is returned as it is.

    Raises: DecodeError when the frames differ by more than `ROUNDING` grey levels, or when PyAV
    gives none.
    """
    by_decord = clip.decoder == "decord"
    if not by_decord and not (clip.decoder == "pyav" and suits_decord(path)):
        return clip
    try:
        other = decode(path, lambda times: clip.indices, size, "pyav" if by_decord else "decord")
    except DecodeError:
        if by_decord:
            raise
        return clip  # decord decodes ahead: it minds damage that lies behind the wanted frames
    difference = int(np.abs(clip.frames.astype(np.int16) - other.frames).max())
    if difference > ROUNDING:
        raise DecodeError(f"{DISAGREEMENT}, by up to {difference} grey levels")
    return replace(clip, compared=True)


def suits_decord(path: Path) -> bool:
    """Whether decord is installed, and a file is of the kind that it decodes right.

    That kind is 8-bit 4:2:0 H.264 of even width (but not 48, 72 or other narrow ones that divide
    what FFmpeg fills a row up to) and even height in MP4 or Matroska, upright, with closed groups
    of pictures, a distinct time for every frame, no frames cut by an edit list and as many as the
    header counts, if it does. On other kinds decord was seen to return wrong frames or none, or to
    end the process, or this kit has not checked that it does not.

    Raises: DecodeError when the file is no video or has no frames.
    """
    with _opened(Path(path)) as video:
        codec = video.codec
        # decord divides a row's bytes by its width to count channels, and FFmpeg fills rows up to
        # 32 pixels: one of 48 pixels takes 64 * 3 bytes, which is 48 * 4.
        filled = 32 * -(-codec.width // 32)
        looks_deeper = filled != codec.width and 3 * filled % codec.width == 0
        return bool(
            "decord" in decoder_versions()
            and video.format.name.split(",")[0] in ("mov", "matroska")
            and codec.name == "h264"
            and codec.pix_fmt in ("yuv420p", "yuvj420p")
            and codec.width % 2 == codec.height % 2 == 0
            and not looks_deeper
            and video.has_timestamps
            and video.stream.frames in (0, len(video.packets))
            and not any(packet.is_discard for packet in video.packets)
            and not video.has_open_groups
            and _is_upright(video, [0])
        )


def resize(frame: np.ndarray, size: int) -> np.ndarray:
    """Resize a frame's shorter side to `size` (bicubic, antialiased), then cut out the centre:
    uint8 [height, width, 3] to [size, size, 3].

    Raises: DecodeError for a frame so narrow that resizing would take gigabytes.
    Source: the preprocessing of the CLIP paper's released code (Pillow's bicubic filter);
    torchvision's uint8 antialiased resize agrees with it to about one grey level.
    """
    height, width = frame.shape[:2]
    short, long = sorted((height, width))
    if size * size * long > short * _MOST_PIXELS:
        raise DecodeError(f"is too long and narrow a picture ({width} x {height})")
    new_height, new_width = int(size * height / short), int(size * width / short)
    image = Image.fromarray(frame)
    if (new_height, new_width) != (height, width):
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def check_backend(backend: str) -> None:
    """Raises: ValueError for an unknown backend, or one that is not installed."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "decord" and "decord" not in decoder_versions():
        raise ValueError("decord is not installed; use backend 'auto' or 'pyav'")


@cache
def decoder_versions() -> dict[str, str]:
    """The installed decoders and their versions, such as {"pyav": "18.1.0"}; decord is absent where
    it is not installed."""
    versions = {"pyav": av.__version__, "pillow": PIL.__version__}
    if importlib.util.find_spec("decord") is not None:
        versions["decord"] = importlib.metadata.version("decord")
    return versions


def _clip(
    decoder: str,
    choose: Choose,
    times: np.ndarray,
    frames_of: Callable[[list[int]], list[np.ndarray]],
) -> DecodedClip:
    """The clip that `choose` asks for; `frames_of` decodes frames by distinct, rising numbers."""
    indices = np.asarray(choose(times))
    if indices.size == 0 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"frame numbers must be whole numbers, at least one; got {indices!r}")
    if indices.min() < 0 or indices.max() >= times.size:
        raise ValueError(f"frames {indices.min()} to {indices.max()} of {times.size} do not exist")
    numbers, places = np.unique(indices, return_inverse=True)
    frames = np.stack(frames_of(numbers.tolist()))[places.reshape(indices.shape)]
    return DecodedClip(frames, indices.astype(np.int64), times.size, decoder)


def _still(path: Path, size: int) -> np.ndarray | None:
    """An image as uint8 [height, width, 3], upright, or None where the file is something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_STILL_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"is too large an image: {error}") from error
    except OSError:
        return None  # a video, or a file that FFmpeg will find fault with
    with image:
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            return None
        try:
            # A far larger JPEG is decoded at a half, a quarter or an eighth of its size: this
            # changes the resized frame by one grey level at most, and saves most of the time.
            image.draft(None, (4 * size, 4 * size))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow itself would clip
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
        except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
            raise DecodeError(f"is a damaged image: {_plain(error)}") from error


@contextmanager
def _opened(path: Path) -> Iterator[_Video]:
    with suppress(OSError), open(path, "rb") as file:  # FFmpeg will say why it cannot be read
        start = file.read(START)
        if what := PAGE if start.lstrip().startswith(b'{"') else stand_in(start):
            raise DecodeError(f"cannot be opened as a video or image: it is {what}")
    try:
        with _ffmpeg_errors() as messages:
            # No file may make the decoder open addresses or other files. Metadata may be in any
            # encoding; it is not used.
            container = av.open(
                os.path.abspath(path),  # else FFmpeg may take a name for an address
                metadata_errors="replace",
                options={"protocol_whitelist": "file", "format_whitelist": _VIDEO_FORMATS},
            )
    except (OSError, av.error.FFmpegError) as error:
        for name, text in messages:
            if text.startswith("Format not on whitelist"):
                raise DecodeError(f"is no video file, but one of format {name!r}") from error
        raise DecodeError(f"cannot be opened as a video: {_plain(error)}") from error
    with container:
        for _, text in messages:
            if text.startswith("Invalid mdhd time scale"):
                # In wrong times an edit list may cut any frames.
                raise DecodeError(f"is damaged: {text}")
        bare = container.format
        if bare.name in _BARE_FORMATS and path.suffix[1:] not in {bare.name, *bare.extensions}:
            # FFmpeg takes the rest of an AVI without its head for such a stream.
            raise DecodeError(
                f"is damaged, or a bare stream of {bare.name}, which must be named so"
            )
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise DecodeError("has no video stream")
        if stream.codec_context is None:
            raise DecodeError("has a video stream for which there is no decoder")
        yield _Video(path, container, stream)


class _Video:
    """An open video file whose compressed pictures have been read, but not decoded.

    Holding them in memory (as much as the file's video stream) makes the numbering exact without
    seeking, which is where decoders go wrong.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path, self.format, self.stream = path, container.format, stream
        self.codec = stream.codec_context
        self.codec.thread_count = 1
        self.turn: _Turn | None = None  # of the pictures decoded so far
        self.position = 0  # of the packet that is decoded next
        with _ffmpeg_errors() as errors:
            try:
                self.packets = [packet for packet in container.demux(stream) if packet.size]
            except av.error.FFmpegError as error:
                raise DecodeError(f"cannot be read: {_plain(error)}") from error
        # The codec's parser speaks here too; what it saw matters when those pictures are decoded.
        damage = [text for name, text in errors if name == self.format.name]
        if any(packet.is_corrupt for packet in self.packets):
            damage.append("a packet is incomplete")
        if damage:
            raise DecodeError(f"is damaged or cut off: {damage[0]}")
        if not self.packets:
            raise DecodeError("has no frames")
        self._check_count()

    def _check_count(self) -> None:
        """FFmpeg steps over what it cannot read of an AVI or MP4 file, without a warning."""
        entries = self.stream.index_entries
        if self.format.name == "avi":
            # The header's count is often wrong by one.
            promised, least = self.stream.frames, (1 - _MOST_LOST) * self.stream.frames
        elif "mp4" in self.format.name:
            promised = least = len(entries)  # after edit lists, unlike the header's count
        else:
            return
        # A frame of no bytes repeats the one before it; FFmpeg leaves it out.
        empty = sum(entry.size == 0 for entry in entries)
        count = len(self.packets)
        if count + empty < least:
            raise DecodeError(
                f"is damaged or cut off: holds {count} of the {promised} frames that its header "
                "promises"
            )

    @cached_property
    def has_timestamps(self) -> bool:
        """Whether every picture has a time of presentation of its own, which can number it."""
        if self.format.name == "avi" and self.codec.has_b_frames:
            return False  # AVI stores the order of decoding only
        stamps = [packet.pts for packet in self.packets]
        return None not in stamps and len(set(stamps)) == len(stamps)

    @property
    def has_open_groups(self) -> bool:
        """Whether a picture comes after a keyframe in the file and before it on screen; it may need
        pictures from before the keyframe."""
        stamps = np.array([packet.pts for packet in self.packets])
        earliest_later = np.minimum.accumulate(stamps[::-1])[::-1]
        return bool((stamps > earliest_later)[self._keyframes].any())

    @cached_property
    def stamps(self) -> list[int]:
        """Timestamps of the pictures that no edit list cuts, in the order of presentation."""
        return sorted(packet.pts for packet in self.packets if not packet.is_discard)

    def times(self, stamps: list[int]) -> np.ndarray:
        """`sampling.frame_times` of the frames with these rising timestamps."""
        if not stamps:
            raise DecodeError("has no frames: its edit list cuts them all")
        durations = {packet.pts: packet.duration or 0 for packet in self.packets}
        shown = np.array([durations.get(stamp, 0) for stamp in stamps])
        start = self.stream.start_time  # of the video, not of the file, whose sound may start first
        zero = stamps[0] if start is None else start
        return frame_times(np.array(stamps), shown, float(self.stream.time_base), zero)

    def pictures(self, start: int = 0) -> Iterator[Any]:
        """Every picture decoded from packet `start` on, in the order of presentation."""
        self.codec.flush_buffers()
        for number, packet in enumerate([*self.packets[start:], None], start):
            self.position = number + 1
            pictures = self.codec.decode(packet)
            for picture in pictures:
                if picture.key_frame:
                    self.learn_turn(picture)
            yield from pictures

    def pictures_at(self, stamps: list[int]) -> Iterator[Any]:
        """The pictures with these rising timestamps, each decoded from the last keyframe before
        it; a DecodeError where one does not come out."""
        pictures = self.pictures(self.keyframe_before(stamps[0]))
        for stamp in stamps:
            start = self.keyframe_before(stamp)
            if start > self.position:
                pictures = self.pictures(start)
            for picture in pictures:
                if picture.pts == stamp:
                    yield picture
                    break
                if picture.pts is None or picture.pts > stamp:
                    raise DecodeError("gives its frames other times than its packets")
            else:
                raise DecodeError("ends before a frame that its packets promise")

    def keyframe_before(self, stamp: int) -> int:
        """The number of the last keyframe's packet before the picture with this timestamp."""
        return max((n for n in self._keyframes if self.packets[n].pts <= stamp), default=0)

    @cached_property
    def _keyframes(self) -> list[int]:
        return [n for n, packet in enumerate(self.packets) if packet.is_keyframe]

    def learn_turn(self, picture: Any) -> None:
        """Note how a picture is turned (a keyframe's turn holds until the next one), or raise a
        DecodeError when it is not by quarters, or unlike those before it."""
        turn = _turn(picture) or (_UPRIGHT if picture.key_frame else self.turn)
        if self.turn not in (None, turn):
            raise DecodeError("is not turned alike for showing from its start to its end")
        self.turn = turn

    def look(self, start: int) -> None:
        """`learn_turn` of the first picture after packet `start`, if it can be decoded."""
        with _ffmpeg_errors(), suppress(av.error.FFmpegError):
            next(self.pictures(start), None)

    def frame(self, picture: Any, size: int) -> np.ndarray:
        """A picture as it is to be shown, resized: uint8 [size, size, 3]."""
        self.learn_turn(picture)
        frame = _REFORMATTER.reformat(picture, format="rgb24", threads=1).to_ndarray()
        swapped, rows, columns = self.turn or _UPRIGHT
        if swapped:
            frame = frame.swapaxes(0, 1)
        return resize(frame[::rows, ::columns], size)


def _turn(picture: Any) -> _Turn | None:
    """How a picture is to be turned and mirrored for showing, None where nothing says so.

    Source: ISO/IEC 14496-12, 6.2.2: column x, row y are shown at ax + cy, bx + dy.
    """
    matrix = _side_data(picture).get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, u, c, d, v, _, _, w = struct.unpack("=9i", bytes(matrix))
    swapped = abs(b) > abs(a)
    column, row, *others = (c, b, a, d) if swapped else (a, d, b, c)
    least = min(abs(column), abs(row))
    if u or v or w <= 0 or not least or max(abs(n) for n in others) > _MOST_SLANT * least:
        shown = ", ".join(f"{n / 65536:.3g}" for n in (a, b, c, d))
        raise DecodeError(
            f"is to be shown through the matrix ({shown}), which is no quarter turn or mirror image"
        )
    return swapped, 1 if row > 0 else -1, 1 if column > 0 else -1


def _side_data(picture: Any) -> Any:
    """What comes with a picture, except kinds that PyAV has no name for, which it fails at."""
    try:
        return picture.side_data
    except ValueError:  # EXIF, say
        graph, size = Graph(), {"width": picture.width, "height": picture.height}
        unnamed = range(len(SideDataType), 40)
        graph.link_nodes(
            graph.add_buffer(**size, format=picture.format, time_base=picture.time_base),
            *(graph.add("sidedata", f"mode=delete:type={kind}") for kind in unnamed),
            graph.add("buffersink"),
        ).configure()
        graph.push(picture)
        return graph.pull().side_data


def _is_upright(video: _Video, starts: Iterable[int]) -> bool:
    """Whether decord, too, shows as they are the pictures that are decoded from these packets."""
    try:
        for start in starts:
            video.look(start)
    except DecodeError:
        return False
    # decord follows this old tag of Matroska files; FFmpeg does not.
    tagged = any(name.lower() == "rotate" for name in video.stream.metadata)
    return video.turn in (None, _UPRIGHT) and not tagged


def _decode_by_time(video: _Video, choose: Choose, size: int) -> DecodedClip:
    def frames_of(numbers: list[int]) -> list[np.ndarray]:
        stamps = [video.stamps[number] for number in numbers]
        if video.keyframe_before(stamps[0]) > 0:
            video.look(0)
        with _trusted():
            return [video.frame(picture, size) for picture in video.pictures_at(stamps)]

    return _clip("pyav", choose, video.times(video.stamps), frames_of)


def _decode_by_counting(video: _Video, choose: Choose, size: int) -> DecodedClip:
    """Decode all to learn how many frames there are, then again up to the last one wanted."""
    with _trusted():
        stamps = [picture.pts for picture in video.pictures()]
    if not stamps:
        raise DecodeError("has no frames")
    if video.has_timestamps and None not in stamps and all(a < b for a, b in pairwise(stamps)):
        times = video.times(stamps)
    else:
        rate = video.stream.average_rate
        if not rate:
            raise DecodeError("tells neither its frames' times nor their rate")
        counted = np.arange(len(stamps))
        times = frame_times(counted, np.ones_like(counted), 1 / float(rate), 0)

    def frames_of(numbers: list[int]) -> list[np.ndarray]:
        wanted = set(numbers)
        with _trusted():
            pictures = enumerate(islice(video.pictures(), numbers[-1] + 1))
            return [video.frame(picture, size) for n, picture in pictures if n in wanted]

    return _clip("pyav", choose, times, frames_of)


def _decode_with_decord(video: _Video, choose: Choose, size: int) -> DecodedClip:
    import decord

    if not video.has_timestamps:
        raise DecodeError("has no distinct times for its frames; use backend 'pyav'")
    times = video.times(video.stamps)

    def frames_of(numbers: list[int]) -> list[np.ndarray]:
        starts = {0, *(video.keyframe_before(video.stamps[number]) for number in numbers)}
        if not _is_upright(video, starts):
            raise DecodeError("is turned or mirrored for showing; use backend 'pyav'")
        decord.logging.set_level(decord.logging.INFO)  # below which it tells of no concealing
        with _native_stderr() as messages:
            try:
                reader = decord.VideoReader(os.path.abspath(video.path), num_threads=1)
                count = len(reader)
                if count == times.size:
                    pictures = reader.get_batch(numbers).asnumpy()
                del reader  # which decodes ahead, and would go on to write
            except (decord.DECORDError, RuntimeError) as error:
                # Without times and source lines, which say nothing of the video
                text = re.sub(r"\[[\d:]+\] \S+:\d+: ", "", str(error).strip().splitlines()[0])
                raise DecodeError(f"decord failed: {text}") from error
        if count != times.size:
            raise DecodeError(
                f"decord counts {count} frames where there are {times.size}; use backend 'pyav'"
            )
        # What is written does not tell errors from trifles, but sound files seldom cause any.
        damage = [text for name, text in messages if name != "swscaler"]
        if damage:
            raise DecodeError(f"FFmpeg reports damage: {damage[0]}")
        return [resize(picture, size) for picture in pictures]

    return _clip("decord", choose, times, frames_of)


@contextmanager
def _trusted() -> Iterator[None]:
    """Turn FFmpeg's exceptions and its log's errors into DecodeError: a damaged picture is decoded
    to rubbish without an exception, only the log tells."""
    with _ffmpeg_errors() as errors:
        try:
            yield
        except av.error.FFmpegError as error:
            raise DecodeError(f"cannot be decoded: {_plain(error)}") from error
    if errors:
        raise DecodeError(f"FFmpeg reports damage: {errors[0][1]}")


@contextmanager
def _ffmpeg_errors() -> Iterator[list[tuple[str, str]]]:
    """Collect (who, message) of FFmpeg's errors from its log, filled in when the block ends."""
    errors: list[tuple[str, str]] = []
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)  # else a second file with the same damage seems sound
    try:
        with av.logging.Capture(local=False) as log:
            yield errors
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
        errors += [
            (name, _one_line(message))
            for importance, name, message in log
            if importance <= av.logging.ERROR or message.startswith(_CONCEALED)
        ]


@contextmanager
def _native_stderr() -> Iterator[list[tuple[str, str]]]:
    """Collect (who, message) of what native code writes to the standard error, filled in when the
    block ends: decord has no other way of telling its FFmpeg's errors."""
    messages: list[tuple[str, str]] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                # "[h264 @ 0x55d2c0] text": the address differs from run to run.
                parts = re.fullmatch(r"(?:\[(\w.*) @ 0x\w+\] )?(.+)", line)
                if parts:
                    messages.append((parts[1] or "", _one_line(parts[2])))


def _one_line(text: str) -> str:
    """A message without what a file may have put into it to confuse those who read it."""
    return "".join(char if char.isprintable() else "?" for char in text.strip())


def _plain(error: Exception) -> str:
    """An error's text without the path, which depends on where the data lie."""
    return str(getattr(error, "strerror", None) or error)
