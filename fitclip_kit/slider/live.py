"""The fused model itself: exact features and outcomes of any fusion, kept as far as memory goes."""

from __future__ import annotations

import copy
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
from torch import Tensor, nn

from fitclip_core import ensembling, merges, zero_shot
from fitclip_core.ensembling import Schedule, Share
from fitclip_kit.engine.measure import Student
from fitclip_kit.engine.merge_distance import fisher_alpha
from fitclip_kit.slider.background import Task
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.merges import (
    LINEAR,
    Fusion,
    fisher_inputs,
    kept_diagonal,
    linear_at,
    merged,
)
from fitclip_kit.weights import checkpoints

CACHE_MB: Final = 256  # memory for features, in MiB
_VISION, _TEXT = "vision", "text"
_VIDEO_PART: Final = 0.9  # of the time that a set's outcomes take; the rest is for its texts


class LiveModel:
    """One model that is set to any fusion in place, with a memory of the features it gave.

    Features and outcomes are those that `measure.measure` stores. A video's features depend on the
    vision tower alone and a text's on the text tower alone, so they are kept by tower.

    Methods may be called from any thread. One at a time computes; what is kept is answered at once.
    Work looks at its task before every block of a tower and every parameter that it fuses.

    Args:
        material: the run. Its encoder is copied, not changed.
        cache_mb: memory for features, in MiB; those that were used last stay.

    All methods raise ValueError for a student that the run has not, and Superseded.
    """

    def __init__(self, material: Material, cache_mb: float = CACHE_MB) -> None:
        self.material = material
        self._encoder = copy.deepcopy(material.encoder)
        self._teacher = {
            name: tensor.detach() for name, tensor in material.encoder.model.state_dict().items()
        }
        self.logit_scale = float(material.encoder.logit_scale)  # the teacher's, of every fusion
        self._kept = _Features(int(cache_mb * 2**20))
        self._computing = threading.Lock()  # guards all below, and the model's weights
        self._line: tuple[int, ensembling.AlphaSweep] | None = None
        self._holds: tuple[Hashable, ...] | None = None
        self._teacher_fisher: dict[str, Tensor] | None = None
        self._student_fisher: tuple[int, dict[str, Tensor]] | None = None
        self._fisher_alphas: dict[tuple[int, float], float] = {}

    def video_features(self, fusion: Fusion, clip_set: ClipSet, task: Task) -> Tensor:
        """Features of a set's clips, float32 `[n, d]`, not to be changed in place."""
        trial = clip_set.trial
        frames = int(trial.frames.frame_counts[trial.indices[trial.videos[0]]].sum())

        def encode() -> Tensor:
            return zero_shot.video_side(self._encoder, trial)

        return self._features(fusion, _VISION, (clip_set,), encode, frames, task)

    def text_features(self, fusion: Fusion, clip_set: ClipSet, task: Task) -> Tensor:
        """Features of a set's captions `[n, d]` or classes `[classes, d]`, likewise."""

        def encode() -> Tensor:
            # Tokens are kept by the encoder; made all at once they could not be given up.
            for prompt in clip_set.prompts:
                task.check()
                self._encoder.tokenize([prompt])
            return zero_shot.text_side(self._encoder, clip_set.trial)

        prompts = len(set(clip_set.prompts))
        return self._features(fusion, _TEXT, (clip_set,), encode, prompts, task)

    def clip_features(self, fusion: Fusion, clip_set: ClipSet, row: int, task: Task) -> Tensor:
        """Features of one clip, `[d]`: the whole set's where they are kept.

        Else only this clip is encoded; in another batch a feature may differ in its last bits.
        """
        trial = clip_set.trial
        whole = self._kept.get(_key(fusion, _VISION, (clip_set,)))
        if whole is not None:
            return whole[row]
        index = trial.indices[[row]]

        def encode() -> Tensor:
            return self._encoder.encode_source(trial.frames, index)

        frames = int(trial.frames.frame_counts[index].sum())
        return self._features(fusion, _VISION, (clip_set, row), encode, frames, task)[0]

    def query_features(self, fusion: Fusion, text: str, task: Task) -> Tensor:
        """Features of a typed text, `[d]`, L2-normalised."""

        def encode() -> Tensor:
            return self._encoder.encode_texts([text])

        return self._features(fusion, _TEXT, (text,), encode, 1, task)[0]

    def outcomes(self, fusion: Fusion, clip_set: ClipSet, task: Task) -> pd.DataFrame:
        """The outcomes of a fusion on a set, as `zero_shot.evaluate` and a sweep give them."""
        videos = self.video_features(fusion, clip_set, task.part(0, _VIDEO_PART))
        texts = self.text_features(fusion, clip_set, task.part(_VIDEO_PART, 1))
        return zero_shot.rank(clip_set.trial, videos, texts)

    def state(self, fusion: Fusion) -> dict[str, Tensor]:
        """A fusion's weights: float32 copies on the CPU, as `ensembling.interpolate`."""
        with self._computing:
            student = self._student(fusion)
            share = merged(fusion, self._schedules(fusion, Task()))
            fused = ensembling.interpolate(self._teacher, student.state, share)
        return {
            name: tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
            for name, tensor in fused.items()
        }

    def save_checkpoint(self, fusion: Fusion, path: Path) -> Path:
        """Write a fusion's weights as safetensors, with what they were made of as metadata."""
        made_of = {
            "title": fusion.title,
            "fusion": json.dumps(asdict(fusion), sort_keys=True),
            "teacher_sha256": self.material.teacher_sha256,
            "student_sha256": self._student(fusion).sha256,
            "model": json.dumps(dict(self.material.model), sort_keys=True),
        }
        checkpoints.save(path, self.state(fusion), made_of)
        return path

    def _features(
        self,
        fusion: Fusion,
        tower: str,
        what: tuple[Hashable, ...],
        encode: Callable[[], Tensor],
        items: int,
        task: Task,
    ) -> Tensor:
        """What is kept, or else encoded by this tower of the fusion; `items` go through it."""
        self._student(fusion)
        key = _key(fusion, tower, what)
        features = self._kept.get(key)
        if features is None:
            with self._computing:
                features = self._kept.get(key)  # another thread may just have computed it
                if features is None:
                    self._fuse(fusion, task)
                    with _watched(self._encoder.model, tower, items, task):
                        features = encode()
                    self._kept.put(key, features)
        task.progress(1.0)
        return features

    def _fuse(self, fusion: Fusion, task: Task) -> None:
        """Set the model's weights; where that is given up they count as unknown."""
        task.check()
        wanted = tuple(_weights(fusion, tower) for tower in (_VISION, _TEXT))
        if self._holds == wanted:
            return
        student = self._student(fusion)
        share = merged(fusion, self._schedules(fusion, task))
        if self._line is None or self._line[0] != student.draw:
            line = ensembling.AlphaSweep(self._encoder.model, self._teacher, student.state)
            self._line = student.draw, line

        def checked(name: str) -> Share:
            task.check()
            return share(name)

        self._holds = None
        self._line[1].set_alpha(checked)
        self._holds = wanted

    def _schedules(self, fusion: Fusion, task: Task) -> dict[float, Schedule]:
        """The merge's schedule at each share that needs one; it may set other weights."""
        if fusion.merge == LINEAR:
            return {alpha: linear_at(alpha, self._teacher) for alpha in fusion.scheduled}
        return {
            alpha: self._fisher_schedule(fusion.draw, alpha, task) for alpha in fusion.scheduled
        }

    def _fisher_schedule(self, draw: int, alpha: float, task: Task) -> Schedule:
        student = self.material.students[draw]
        if self._teacher_fisher is None:
            teacher = Fusion.at(draw, 0)
            self._teacher_fisher = self._diagonal(teacher, self.material.teacher_sha256, task)
        if self._student_fisher is None or self._student_fisher[0] != draw:
            self._student_fisher = None  # one student's at a time: each is as large as the model
            self._student_fisher = draw, self._diagonal(Fusion.at(draw, 1), student.sha256, task)
        both = _Watched(self._teacher_fisher, task), self._student_fisher[1]
        if (draw, alpha) not in self._fisher_alphas:
            weight = fisher_alpha(*both, self._teacher, student.state, taken=alpha)
            self._fisher_alphas[draw, alpha] = weight
        return merges.fisher(*both, self._fisher_alphas[draw, alpha])

    def _diagonal(self, end: Fusion, sha256: str, task: Task) -> dict[str, Tensor]:
        inputs = fisher_inputs(self.material)
        clips, _, settings = inputs
        self._fuse(end, task)
        pictures = settings["n"] * int(clips.frames.frame_counts.max())  # at most
        with _watched(self._encoder.model, _VISION, pictures, task):
            return kept_diagonal(self.material, self._encoder, sha256, inputs)

    def _student(self, fusion: Fusion) -> Student:
        known = self.material.students
        if fusion.draw not in known:
            raise ValueError(f"there is no student {fusion.draw}; the run has {sorted(known)}")
        return known[fusion.draw]


def _weights(fusion: Fusion, tower: str) -> tuple[Hashable, ...]:
    """What a tower's weights depend on: the teacher's on nothing, the student's on the draw."""
    share = fusion.vision if tower == _VISION else fusion.text
    if share == 0:
        return ()
    return (fusion.draw,) if share == 1 else (fusion.draw, fusion.merge, share)


def _key(fusion: Fusion, tower: str, what: tuple[Hashable, ...]) -> Hashable:
    return tower, _weights(fusion, tower), what


class _Features:
    """The features that were used last, as many as fit in memory."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._used = most_bytes, 0
        self._lock = threading.Lock()
        self._by_key: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keep features of a new key, unless they alone are too large."""
        if features.nbytes > self._most:
            return
        with self._lock:
            self._by_key[key] = features
            self._used += features.nbytes
            while self._used > self._most:
                self._used -= self._by_key.popitem(last=False)[1].nbytes


class _Watched(dict[str, Tensor]):
    """Tensors of which every reading asks whether the work is still wanted."""

    def __init__(self, tensors: Mapping[str, Tensor], task: Task) -> None:
        super().__init__(tensors)
        self._task = task

    def __getitem__(self, name: str) -> Tensor:
        self._task.check()
        return super().__getitem__(name)


@contextmanager
def _watched(model: nn.Module, tower: str, items: int, task: Task) -> Iterator[None]:
    """Look at the task before each block of the model and tell how many items went into one tower.

    Between two batches would be too seldom for large models, and smaller batches would change the
    features' last bits; a hook changes nothing.
    """
    done = 0

    def look(*_: Any) -> None:
        task.check()
        task.progress(min(1.0, done / items))

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal done
        look()
        done += len(inputs[0])

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.ModuleList | nn.Sequential):
                for child in module.children():
                    hooks.callback(child.register_forward_pre_hook(look).remove)
        for module in _entrances(model, tower):
            hooks.callback(module.register_forward_pre_hook(count).remove)
        yield


def _entrances(model: nn.Module, tower: str) -> Sequence[nn.Module]:
    """Where pictures or token ids enter a tower; none where the architecture is not known."""
    if tower == _VISION:
        return [module for name, module in model.named_modules() if name == "visual"]
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and not name.startswith("visual.")
    ][:1]
