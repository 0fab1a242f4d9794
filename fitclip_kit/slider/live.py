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

from fitclip_core import ensembling, zero_shot
from fitclip_core.merges import Schedule, Share
from fitclip_kit.engine.measure import Student
from fitclip_kit.engine.merge_distance import fisher_alpha
from fitclip_kit.slider import fishers
from fitclip_kit.slider.fusion import LINEAR, Fusion, linear_at, merged
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.weights import checkpoints

Stop = Callable[[], bool]
Progress = Callable[[float], None]

_VISION, _TEXT = "vision", "text"
_VIDEO_PART: Final = 0.9  # of the time that a set's outcomes take; the rest is for its texts


class Superseded(Exception):
    """The work was given up because a newer move made it useless."""


def never() -> bool:
    """A `stop` for work that nothing supersedes."""
    return False


def unseen(share: float) -> None:
    """A `progress` that nobody watches."""


class LiveModel:
    """One model that is set to any fusion in place, with a memory of the features it gave.

    Features and outcomes are those that `measure.measure` stores: the same weights encode the same
    batches. A video's features depend on the vision tower alone and a text's on the text tower
    alone, so they are kept by tower.

    Methods may be called from any thread. One at a time computes; what is kept is answered at once,
    also meanwhile, and so is `has`. Work looks at `stop` before every block of a tower and every
    parameter that it fuses, and raises `Superseded` once it is true; `progress` gets the share that
    is done, 0 to 1. Fisher diagonals, which a run's first such merge computes, start at 0 of their
    own. Both are called in the caller's thread.

    Args:
        material: the run. Its encoder is copied, not changed.
        cache_mb: memory for features, in MiB; the ones that were used last stay.

    Raises: ValueError when cache_mb is not above 0.
    """

    def __init__(self, material: Material, cache_mb: float = 256) -> None:
        if not cache_mb > 0:
            raise ValueError(f"cache_mb is {cache_mb}; features need some memory, such as 256")
        self.material = material
        self._encoder = copy.deepcopy(material.encoder)
        self._teacher = {
            name: tensor.detach() for name, tensor in material.encoder.model.state_dict().items()
        }
        self._logit_scale = float(material.encoder.logit_scale)
        self._kept = _Features(int(cache_mb * 2**20))
        self._computing = threading.Lock()  # guards all below, and the model's weights
        self._line: tuple[int, ensembling.AlphaSweep] | None = None
        self._holds: tuple[Hashable, ...] | None = None
        self._teacher_fisher: dict[str, Tensor] | None = None
        self._student_fisher: tuple[int, dict[str, Tensor]] | None = None
        self._fisher_alphas: dict[tuple[int, float], float] = {}

    @property
    def logit_scale(self) -> float:
        """The teacher's factor on cosine similarities, which every fusion keeps."""
        return self._logit_scale

    def video_features(
        self, fusion: Fusion, clip_set: ClipSet, *, stop: Stop = never, progress: Progress = unseen
    ) -> Tensor:
        """Features of a set's clips, float32 `[n, d]`, as `zero_shot.video_side`.

        They are those that are kept: not to be changed in place.

        Raises: ValueError for a student that the run has not; Superseded.
        """
        trial = clip_set.trial
        return self._features(
            fusion,
            _VISION,
            (clip_set,),
            lambda: zero_shot.video_side(self._encoder, trial),
            int(trial.frames.frame_counts[trial.indices[trial.videos[0]]].sum()),
            stop,
            progress,
        )

    def text_features(
        self, fusion: Fusion, clip_set: ClipSet, *, stop: Stop = never, progress: Progress = unseen
    ) -> Tensor:
        """Features of a set's captions `[n, d]` or classes `[classes, d]`, as
        `zero_shot.text_side`, otherwise as `video_features`.

        Raises: as `video_features`.
        """

        def encode() -> Tensor:
            # Tokens are kept by the encoder; made all at once they could not be given up.
            for prompt in clip_set.prompts:
                if stop():
                    raise Superseded
                self._encoder.tokenize([prompt])
            return zero_shot.text_side(self._encoder, clip_set.trial)

        prompts = len(set(clip_set.prompts))
        return self._features(fusion, _TEXT, (clip_set,), encode, prompts, stop, progress)

    def clip_features(
        self, fusion: Fusion, clip_set: ClipSet, rows: Sequence[int], *, stop: Stop = never
    ) -> Tensor:
        """Features of some clips, `[rows, d]`: the whole set's where they are kept.

        Else only these clips are encoded; in another batch a feature may differ in its last bits.

        Args:
            rows: places in `clip_set.clip_ids`.

        Raises: ValueError when a row does not exist; otherwise as `video_features`.
        """
        trial, chosen = clip_set.trial, [int(row) for row in rows]
        if not all(0 <= row < len(trial.indices) for row in chosen):
            raise ValueError(
                f"{clip_set.name} has {len(trial.indices)} clips; there are no rows {chosen}"
            )
        whole = self._kept.get(_key(fusion, _VISION, (clip_set,)))
        if whole is not None:
            return whole[chosen]
        indices = trial.indices[chosen]
        return self._features(
            fusion,
            _VISION,
            (clip_set, *chosen),
            lambda: self._encoder.encode_source(trial.frames, indices),
            int(trial.frames.frame_counts[indices].sum()),
            stop,
            unseen,
        )

    def query_features(self, fusion: Fusion, texts: Sequence[str], *, stop: Stop = never) -> Tensor:
        """Features of typed texts, `[texts, d]`, L2-normalised.

        Raises: ValueError when there is no text; otherwise as `video_features`.
        """
        asked = tuple(texts)
        return self._features(
            fusion,
            _TEXT,
            asked,
            lambda: self._encoder.encode_texts(asked),
            len(set(asked)),
            stop,
            unseen,
        )

    def outcomes(
        self, fusion: Fusion, clip_set: ClipSet, *, stop: Stop = never, progress: Progress = unseen
    ) -> pd.DataFrame:
        """The outcomes of a fusion on a set, exactly those that the sweep would store.

        Returns: as `zero_shot.evaluate`.

        Raises: ValueError for a set without right answers; otherwise as `video_features`.
        """
        if not clip_set.has_answers:
            raise ValueError(
                f"the right texts of {clip_set.title} are not known, so it cannot be measured"
            )
        videos = self.video_features(
            fusion, clip_set, stop=stop, progress=lambda share: progress(_VIDEO_PART * share)
        )
        texts = self.text_features(
            fusion,
            clip_set,
            stop=stop,
            progress=lambda share: progress(_VIDEO_PART + (1 - _VIDEO_PART) * share),
        )
        return zero_shot.rank(clip_set.trial, videos, texts)

    def has(self, fusion: Fusion, clip_set: ClipSet) -> bool:
        """Whether both sides of a set are kept, so that its answer needs no encoding."""
        return all(self._kept.has(_key(fusion, tower, (clip_set,))) for tower in (_VISION, _TEXT))

    def state(self, fusion: Fusion, *, stop: Stop = never) -> dict[str, Tensor]:
        """A fusion's weights: float32 copies on the CPU, as `ensembling.interpolate`.

        Raises: as `video_features`.
        """
        with self._computing:
            student = self._student(fusion)
            share = merged(fusion, self._schedules(fusion, stop))
            fused = ensembling.interpolate(self._teacher, student.state, _stoppable(share, stop))
        return {
            name: tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
            for name, tensor in fused.items()
        }

    def save_checkpoint(self, fusion: Fusion, path: Path) -> Path:
        """Write a fusion's weights as safetensors, with what they were made of in the metadata.

        Args:
            path: a file whose name ends in .safetensors; its folder is made where needed.

        Returns:
            The path.

        Raises: ValueError for another suffix; otherwise as `video_features`.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"{path.name} would be a safetensors file; end its name in that")
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
        stop: Stop,
        progress: Progress,
    ) -> Tensor:
        """What is kept, or else encoded by this tower of the fusion; `items` go through it."""
        self._student(fusion)
        key = _key(fusion, tower, what)
        features = self._kept.get(key)
        if features is None:
            with self._computing:
                features = self._kept.get(key)  # another thread may just have computed it
                if features is None:
                    self._fuse(fusion, stop, progress)
                    with _watched(self._encoder.model, tower, items, stop, progress):
                        features = encode()
                    self._kept.put(key, features)
        progress(1.0)
        return features

    def _fuse(self, fusion: Fusion, stop: Stop, progress: Progress = unseen) -> None:
        """Set the model's weights; where that is given up they count as unknown."""
        if stop():
            raise Superseded
        wanted = tuple(_weights(fusion, tower) for tower in (_VISION, _TEXT))
        if self._holds == wanted:
            return
        student = self._student(fusion)
        share = merged(fusion, self._schedules(fusion, stop, progress))
        if self._line is None or self._line[0] != student.draw:
            line = ensembling.AlphaSweep(self._encoder.model, self._teacher, student.state)
            self._line = student.draw, line
        self._holds = None
        self._line[1].set_alpha(_stoppable(share, stop))
        self._holds = wanted

    def _schedules(
        self, fusion: Fusion, stop: Stop, progress: Progress = unseen
    ) -> dict[float, Schedule]:
        """The merge's schedule at each share that needs one; the model's weights may be others
        after it."""
        if fusion.merge == LINEAR:
            return {alpha: linear_at(alpha, self._teacher) for alpha in fusion.scheduled}
        return {
            alpha: self._fisher_schedule(fusion.draw, alpha, stop, progress)
            for alpha in fusion.scheduled
        }

    def _fisher_schedule(self, draw: int, alpha: float, stop: Stop, progress: Progress) -> Schedule:
        student = self.material.students[draw]
        if self._teacher_fisher is None:
            teacher = Fusion.at(draw, 0)
            self._teacher_fisher = self._diagonal(
                teacher, self.material.teacher_sha256, stop, progress
            )
        if self._student_fisher is None or self._student_fisher[0] != draw:
            self._student_fisher = None  # one student's at a time: each is as large as the model
            found = self._diagonal(Fusion.at(draw, 1), student.sha256, stop, progress)
            self._student_fisher = draw, found
        both = _Stoppable(self._teacher_fisher, stop), self._student_fisher[1]
        if (draw, alpha) not in self._fisher_alphas:
            weight = fisher_alpha(*both, self._teacher, student.state, taken=alpha)
            self._fisher_alphas[draw, alpha] = weight
        return ensembling.fisher(*both, self._fisher_alphas[draw, alpha])

    def _diagonal(
        self, end: Fusion, sha256: str, stop: Stop, progress: Progress
    ) -> dict[str, Tensor]:
        over = fishers.held_out(self.material)
        self._fuse(end, stop)
        with _watched(self._encoder.model, _VISION, over.pictures, stop, progress):
            return fishers.diagonal(over, self._encoder, sha256)

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
        self._most = most_bytes
        self._used = 0
        self._lock = threading.Lock()
        self._by_key: OrderedDict[Hashable, Tensor] = OrderedDict()

    def has(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._by_key

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


class _Stoppable(dict[str, Tensor]):
    """Tensors of which every reading asks whether the work is still wanted."""

    def __init__(self, tensors: Mapping[str, Tensor], stop: Stop) -> None:
        super().__init__(tensors)
        self._stop = stop

    def __getitem__(self, name: str) -> Tensor:
        if self._stop():
            raise Superseded
        return super().__getitem__(name)


def _stoppable(share: Callable[[str], Share], stop: Stop) -> Callable[[str], Share]:
    def checked(name: str) -> Share:
        if stop():
            raise Superseded
        return share(name)

    return checked


@contextmanager
def _watched(
    model: nn.Module, tower: str, items: int, stop: Stop, progress: Progress
) -> Iterator[None]:
    """Ask `stop` before each block of the model and tell how many items went into one tower.

    Between two batches would be too seldom for large models, and smaller batches would change the
    features' last bits; a hook changes nothing.
    """
    done = 0

    def check(*_: Any) -> None:
        if stop():
            raise Superseded

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal done
        progress(min(1.0, done / items))
        done += len(inputs[0])

    blocks = (nn.ModuleList, nn.Sequential)
    with ExitStack() as hooks:
        for module in model.modules():
            for child in module.children() if isinstance(module, blocks) else ():
                hooks.enter_context(_hook(child, check))
        for module in _entrances(model, tower):
            hooks.enter_context(_hook(module, count))
        yield


@contextmanager
def _hook(module: nn.Module, function: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(function)
    try:
        yield
    finally:
        handle.remove()


def _entrances(model: nn.Module, tower: str) -> Sequence[nn.Module]:
    """Where pictures or token ids enter a tower; none where the architecture is not known."""
    if tower == _VISION:
        return [module for name, module in model.named_modules() if name == "visual"]
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and not name.startswith("visual.")
    ][:1]
