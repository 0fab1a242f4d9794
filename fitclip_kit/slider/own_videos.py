"""One's own videos beside the run's data sets: decoded, listed, and scored against typed texts.

Nothing that a file or its name holds is trusted. An upload is kept under a name of this module's
making; decoding happens in processes that can be killed; whatever is not taken is listed with the
reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from data_prep.clips import validate
from fitclip_core import zero_shot
from fitclip_core.encoders import check_templates
from fitclip_kit.slider.background import Task
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.store.files import atomic_path, file_sha256

MOST_FILES: Final = 200
MOST_MB: Final = 500.0
SUFFIXES: Final = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv", ".bmp", ".jpeg", ".jpg", ".png", ".webp"),
)
"""What a file must be called: FFmpeg would make moving pictures of a .txt too."""
_DEADLINE: Final = 30.0  # seconds that decoding one clip may take
_KEPT_UPLOAD: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-z]+")


@dataclass(frozen=True, eq=False)
class OwnVideos:
    """Own clips and the texts to score them against, as the classes of a classification without
    right answers; None without a clip. failures: `path` and `reason` of each file left out.
    """

    clip_set: ClipSet | None
    failures: pd.DataFrame

    def with_texts(self, texts: str, templates: Sequence[str] = ("{}",)) -> OwnVideos:
        """The same clips with these labels or captions, one a line, each once; nothing is decoded.

        templates: prompts that each text is put into, as for classes; captions need none.

        Raises: ValueError as `video_text.check_templates`.
        """
        classes = tuple(dict.fromkeys(filter(None, map(str.strip, texts.splitlines()))))
        check_templates(templates)
        if self.clip_set is None:
            return self
        trial = replace(self.clip_set.trial, classes=classes, templates=tuple(templates))
        return replace(self, clip_set=replace(self.clip_set, trial=trial))


def from_folder(folder: str, material: Material, work_dir: Path) -> OwnVideos:
    """Decode the videos and images that lie in a folder, by name; folders in it are not entered.

    material: says which frames are taken. work_dir: for files, which the next call replaces.

    Raises: ValueError when there is no such folder, or as `frame_store.build`.
    """
    if not folder.strip():
        raise ValueError("no folder is named; type the path of one")
    try:
        root = Path(folder).expanduser()
        paths = sorted(root.iterdir())
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; nobody's home
        raise ValueError(f"{_shown(folder)} is no folder that can be read: {error}") from error
    intake = _Intake()
    for path in paths:
        if path.is_dir():
            intake.refuse(path.name, "is a folder; only files directly in the named one are read")
        elif not path.is_file():
            intake.refuse(path.name, "is no ordinary file")
        elif not _fits_a_table(path.name):
            intake.refuse(path.name, "has a name that not every system takes; rename it")
        else:
            intake.admit(path.name, path.stat().st_size, partial(file_sha256, path), path.name)
    return _decoded(intake, root, material, work_dir)


def from_uploads(
    files: Sequence[tuple[str, bytes]], material: Material, work_dir: Path
) -> OwnVideos:
    """Decode uploaded videos and images (name, content), otherwise as `from_folder`.

    A name is shown, without the folders in it, and is never a path: the content is kept in work_dir
    under its own digest.
    """
    uploads = Path(work_dir) / "uploads"
    intake = _Intake()
    for name, content in files:
        digest = sha256(content).hexdigest()
        kept = f"{digest}{_suffix(name)}"
        if intake.admit(name, len(content), partial(str, digest), kept):
            with atomic_path(uploads / kept) as temporary:
                temporary.write_bytes(content)
    now = {kept for _, kept in intake.rows}
    for earlier in uploads.glob("*") if uploads.is_dir() else ():
        if _KEPT_UPLOAD.fullmatch(earlier.name) and earlier.name not in now:
            earlier.unlink()
    return _decoded(intake, uploads, material, work_dir)


def compare(live: LiveModel, own: OwnVideos, fusion: Fusion, task: Task) -> pd.DataFrame:
    """How probable each text is for each own clip, by the teacher, the student and their fusion.

    Returns: a row for each clip and text: `clip_id`, `text`, and `teacher`, `student`, `fused`:
    softmax over the texts of logit_scale * score.

    Raises: ValueError when there is no clip or no text; Superseded.
    """
    clip_set = own.clip_set
    if clip_set is None:
        raise ValueError("there is no readable video; add one, or see why those given are not")
    if not clip_set.texts:
        raise ValueError("there is no label or caption; type at least one, one a line")
    clips, texts = clip_set.clip_ids, clip_set.texts
    columns: dict[str, object] = {
        "clip_id": np.repeat(clips, len(texts)),
        "text": np.tile(texts, len(clips)),
    }
    models = dict(zip(("teacher", "student", "fused"), (*fusion.ends, fusion), strict=True))
    for place, (name, model) in enumerate(models.items()):
        part = task.part(place / 3, (place + 1) / 3)
        videos = live.video_features(model, clip_set, part.part(0, 0.5))
        targets = live.text_features(model, clip_set, part.part(0.5, 1))
        logits = live.logit_scale * (videos @ targets.T).double()
        columns[name] = logits.softmax(1).flatten().numpy()
    return pd.DataFrame(columns).astype({"clip_id": "str", "text": "str"})


class _Intake:
    """Decides file by file what is taken: rows (clip_id, path), failures (name, reason)."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.failures: list[tuple[str, str]] = []
        self._bytes = 0
        self._by_digest: dict[str, str] = {}

    def refuse(self, name: str, reason: str) -> None:
        self.failures.append((_shown(name), reason))

    def admit(self, name: str, size: int, digest: Callable[[], str], path: str) -> bool:
        """Whether the file is taken; `digest` stands for its content, path is where it lies."""
        if _suffix(name) not in SUFFIXES:
            reason = "is not called a video or an image, such as clip.mp4 or picture.jpg"
        elif size == 0:
            reason = "is empty"
        elif len(self.rows) >= MOST_FILES:
            reason = f"is one more than the {MOST_FILES} files that are taken at once"
        elif self._bytes + size > MOST_MB * 1e6:
            reason = f"makes it more than the {MOST_MB:g} MB that are taken at once"
        else:
            try:
                content = digest()
            except OSError as error:
                reason = f"cannot be read: {error.strerror or error}"
            else:
                if content not in self._by_digest:
                    self._bytes += size
                    self._by_digest[content] = self._new_id(name)
                    self.rows.append((self._by_digest[content], path))
                    return True
                reason = f"has the same content as {self._by_digest[content]}"
        self.refuse(name, reason)
        return False

    def _new_id(self, name: str) -> str:
        plain, taken = _shown(name), set(self._by_digest.values())
        numbered = (f"{plain} ({number})" for number in range(2, len(taken) + 2))
        return next(clip_id for clip_id in (plain, *numbered) if clip_id not in taken)


@dataclass(frozen=True, eq=False)
class _InMemory:
    """Decoded clips that stay what they are when their files are replaced by the next ones'."""

    clip_ids: list[str]
    frame_counts: np.ndarray
    data: np.ndarray

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.data[indices]


def _decoded(intake: _Intake, root: Path, material: Material, work_dir: Path) -> OwnVideos:
    failures, clip_set = intake.failures, None
    if intake.rows:
        table = pd.DataFrame(intake.rows, columns=["clip_id", "path"])
        rule = FrameRule(_frames_a_clip(material), material.encoder.image_size)
        store = frame_store.build(
            table, root, Path(work_dir) / "frames", rule, deadline=_DEADLINE, progress=False
        )
        failed = dict(zip(store.failures["clip_id"], store.failures["reason"], strict=True))
        failures = [*failures, *failed.items()]
        if len(store):
            every = np.arange(len(store))
            source = _InMemory(store.clip_ids, store.frame_counts, store.frames(every))
            trial = zero_shot.Trial(
                task="classification",
                clips=table[table["clip_id"].isin(store.clip_ids)].reset_index(drop=True),
                frames=source,
                indices=every,
                classes=(),
                templates=(),
                coverage={"clips": len(table), "measured": len(store), "missing": list(failed)},
            )
            protocol = {"frame_store": store.digest, "frame_rule": asdict(rule)}
            clip_set = ClipSet("own_videos", "My videos", trial, protocol)
    return OwnVideos(clip_set, pd.DataFrame(failures, columns=["path", "reason"], dtype="str"))


def _frames_a_clip(material: Material) -> int:
    rules = [clip_set.protocol.get("frame_rule", {}) for clip_set in material.sets.values()]
    return int(next((rule["n_frames"] for rule in rules if "n_frames" in rule), 4))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _fits_a_table(name: str) -> bool:
    try:
        name.encode()
        validate(pd.DataFrame({"clip_id": ["one"], "path": [name]}))
    except ValueError:
        return False
    return True


def _shown(name: str) -> str:
    """A file's name for readers: without folders, of at most 100 printable characters."""
    last = re.split(r"[/\\]", name)[-1]
    printable = (letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in last)
    return "".join(printable)[-100:].strip() or "(no name)"
