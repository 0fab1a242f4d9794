"""Small videos whose frames tell their own number."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

RATE = 10  # frames a second
# Without scenecut every frame would become a keyframe, as no two of these pictures are alike.
GROUPS_OF_8 = {"g": "8", "bf": "2", "crf": "5", "x264-params": "scenecut=0"}


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey picture whose left half tells `number` // 16 and whose right half `number` % 16."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2] = 16 * (number // 16)
    frame[:, width // 2 :] = 16 * (number % 16)
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number in a resized picture [size, size, 3]; the seam in the middle is left out."""
    size = frame.shape[1]
    left, right = frame[:, : size // 3], frame[:, -(size // 3) :]
    return 16 * round(float(left.mean()) / 16) + round(float(right.mean()) / 16)


def write_video(
    path: Path,
    n_frames: int,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    width: int = 64,
    height: int = 48,
    stamps: Sequence[int] = (),
    unit: Fraction = Fraction(1, RATE),
) -> Path:
    """stamps: of all frames, in units of so many seconds; by default one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = unit
        stream.options = options or GROUPS_OF_8
        for number, stamp in enumerate(stamps or range(n_frames)):
            shown = picture(number % 256, height, width)
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = stamp, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16 * 1024, 1024):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """make_video(name, n_frames, ...) -> path of a video in the test's folder."""
    return lambda name, n_frames=20, **kwargs: write_video(tmp_path / name, n_frames, **kwargs)


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: write_audio(tmp_path / name)


@pytest.fixture
def numbers() -> Callable[[np.ndarray], np.ndarray]:
    """numbers(frames [..., size, size, 3]) -> the frame numbers that the pixels tell [...]."""

    def read(frames: np.ndarray) -> np.ndarray:
        flat = frames.reshape(-1, *frames.shape[-3:])
        return np.array([read_number(frame) for frame in flat]).reshape(frames.shape[:-3])

    return read
