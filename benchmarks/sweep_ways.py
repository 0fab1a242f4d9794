"""The ways to sweep over alpha that `benchmarks.sweep` compares."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from benchmarks import bare
from data_prep import frame_store
from data_prep.datasets.base import DataSet
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark import TEACHER
from data_prep.mini_benchmark.data_sets import EVALUATED
from fitclip_core.video_text import Precision
from fitclip_kit.engine.measure import EvaluationSet, Student, measure, sweep_cells
from fitclip_kit.engine.sources import Sources, prepare
from fitclip_kit.store.results import ResultsStore

N_FRAMES, BATCH_CLIPS = 4, 32
NOISE = 0.3  # of the student's weights, in standard deviations of each tensor
ALPHAS = tuple(number / 10 for number in range(11))


class _Ready(NamedTuple):
    """One data set's pictures and token ids, as the towers take them."""

    images: list[tuple[torch.Tensor, torch.Tensor]]
    tokens: list[torch.Tensor]


class Ways:
    """One benchmark, teacher and student; each method is a whole sweep, or a part of one.

    Args:
        folder: an empty one, for videos, frames and results.
        clips: of each evaluation set.
        device: where the model computes.
        precision: of the kit's encoder and the bare passes; the plain way computes in float32.
    """

    alphas = ALPHAS

    def __init__(self, folder: Path, clips: int, device: str, precision: Precision) -> None:
        self._folder, self._device, self._precision = folder, device, precision
        sources = Sources(teacher={"file": str(TEACHER), "precision": precision})
        sizes = dict.fromkeys(EVALUATED, clips)
        self._sets = prepare(sources, folder / "data", sizes, seed=1)
        self._teacher = sources.load_teacher(device)
        self._encoder: Any = self._teacher.encoder
        self._rule = frame_store.FrameRule(N_FRAMES, self._encoder.image_size)
        state, generator = self._encoder.state(), torch.Generator().manual_seed(0)
        noisy = {
            name: tensor + NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in state.items()
            if name != "logit_scale"
        }
        made_up: dict[str, Any] = {
            "draw": 1,
            "labelled_clips": 1,
            "labelled_share": 1.0,
            "sha256": "made up",
        }
        self._student = Student(**made_up, state=noisy)
        self._stores = self._build(folder / "kept")
        self._ready = [self._prepared(one) for one in self._evaluation_sets(self._stores)]

    @property
    def described(self) -> str:
        """What is measured on what."""
        clips = sum(len(one.clips) for one in self._sets.values())
        return (
            f"{clips} clips of {len(self._sets)} sets x {N_FRAMES} frames of "
            f"{self._encoder.image_size} px, {len(ALPHAS)} alphas, {torch.get_num_threads()} "
            f"threads, {available_cores()} cores, {self._device}, {self._precision}"
        )

    def kit(self) -> pd.DataFrame:
        """Videos to outcomes by the kit; returns the metrics."""
        folder = self._folder / "anew"
        shutil.rmtree(folder, ignore_errors=True)
        results = ResultsStore(folder / "results")
        sets = self._evaluation_sets(self._build(folder / "frames"))
        cells = sweep_cells([one.name for one in sets], [self._student], ALPHAS)
        measure(cells, self._teacher, sets, results, students=[self._student])
        return results.metrics(cells)

    def plain(self) -> dict[tuple[Any, Any], np.ndarray]:
        """Videos to ranks by the plain way; returns those of texts, or of classes."""
        teacher: Any = open_clip.create_model(f"local-dir:{TEACHER}", device=self._device).eval()
        ranks: dict[tuple[Any, Any], np.ndarray] = {}
        for alpha in ALPHAS:
            model = copy.deepcopy(teacher)
            student = {"logit_scale": teacher.logit_scale, **self._student.state}
            fused = {
                name: (1 - alpha) * tensor + alpha * student[name].to(self._device)
                for name, tensor in teacher.state_dict().items()
            }
            model.load_state_dict(fused)
            for name, data_set in self._sets.items():
                ranks[name, alpha] = self._plain_ranks(model, data_set)
        return ranks

    def decode(self) -> None:
        """Every video once, by the bare decoder that the kit would choose."""
        paths = [one.root / path for one in self._sets.values() for path in one.clips["path"]]
        decoders = {record["decoder"] for store in self._stores for record in store.records}
        if len(decoders) != 1:
            raise ValueError(f"the videos were decoded by {decoders}; give those of one kind")
        bare.decode_all(paths, N_FRAMES, self._rule.size, decoders.pop(), available_cores())

    def forward(self, passes: int) -> None:
        """So many bare forward passes over all pictures and texts."""
        kind, reduced = torch.device(self._device).type, self._precision != "float32"
        autocast = torch.autocast(kind, torch.bfloat16, enabled=reduced)
        with torch.inference_mode(), autocast:
            for _ in range(passes):
                for one in self._ready:
                    for images, counts in one.images:
                        self._encoder.video_features(images, counts)
                    for tokens in one.tokens:
                        self._encoder.text_features(tokens)
            if kind == "cuda":
                torch.cuda.synchronize()

    def _build(self, folder: Path) -> list[frame_store.FrameStore]:
        return [
            frame_store.build(one.clips, one.root, folder / name, self._rule, progress=False)
            for name, one in self._sets.items()
        ]

    def _evaluation_sets(self, stores: Sequence[frame_store.FrameStore]) -> list[EvaluationSet]:
        return [
            EvaluationSet(name, one.clips, store, templates=one.templates, classes=one.classes)
            for (name, one), store in zip(self._sets.items(), stores, strict=True)
        ]

    def _prepared(self, one: EvaluationSet) -> _Ready:
        encoder, at_once = self._encoder, 2**18 // self._rule.size**2 // N_FRAMES
        images, tokens = [], []
        for start in range(0, len(one.frames.clip_ids), at_once):
            part = np.arange(start, min(start + at_once, len(one.frames.clip_ids)))
            images.append(encoder.images(one.frames.frames(part), one.frames.frame_counts[part]))
        rows = encoder.tokenize(list(dict.fromkeys(_texts(one))))
        by_length = rows[torch.argsort((rows != 0).sum(1), stable=True)]
        tokens += [part.to(self._device) for part in by_length.split(2**13 // rows.shape[1])]
        return _Ready(images, tokens)

    def _plain_ranks(self, model: Any, data_set: DataSet) -> np.ndarray:
        labelled = bool(data_set.classes)
        texts = _texts(data_set)
        videos = torch.cat(list(self._plain_videos(model, data_set)))
        with torch.no_grad():
            batches = [texts[start : start + 256] for start in range(0, len(texts), 256)]
            tokens = [self._encoder.tokenizer(batch).to(self._device) for batch in batches]
            targets = torch.cat([model.encode_text(part, normalize=True) for part in tokens])
        if labelled:
            targets = targets.unflatten(0, (len(data_set.classes), -1)).mean(1)
            places = [data_set.classes.index(label) for label in data_set.clips["label"]]
            scores, right = videos @ targets.T, torch.tensor(places)
        else:
            scores, right = targets @ videos.T, torch.arange(len(videos))
        order = scores.cpu().argsort(dim=1, descending=True)
        return (torch.where(order == right[:, None])[1] + 1).numpy()

    def _plain_videos(self, model: Any, data_set: DataSet) -> Iterator[torch.Tensor]:
        paths = [data_set.root / path for path in data_set.clips["path"]]
        loader = DataLoader(
            _Decoded(paths, model.visual.preprocess_cfg),
            batch_size=BATCH_CLIPS,
            num_workers=available_cores(),
            multiprocessing_context="fork",
        )
        with torch.no_grad():
            for clips in loader:
                frames = clips.flatten(0, 1).to(self._device)
                features = model.encode_image(frames, normalize=True)
                yield features.unflatten(0, clips.shape[:2]).mean(1)


def differences(metrics: pd.DataFrame, ranks: Mapping[tuple[Any, Any], np.ndarray]) -> str:
    """How far the plain way's metrics are from the kit's, in points: they resize otherwise."""
    far = []
    for row in metrics.to_dict("records"):
        if row["metric"] != "MdR" and row["direction"] != "video_to_text":
            k = int(row["metric"].removeprefix("R@").removeprefix("top"))
            far.append(100 * (row["value"] - np.mean(ranks[row["data_set"], row["alpha"]] <= k)))
    spread = np.abs(far)
    return f"kit - plain: {np.mean(far):+.2f} points in the mean, {spread.max():.1f} at most"


class _Decoded(Dataset[torch.Tensor]):
    """Videos that are decoded and transformed when they are asked for."""

    def __init__(self, paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
        self._paths = paths
        size = settings["size"][0]
        self._transform = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Resize(size, InterpolationMode.BICUBIC, antialias=True),
                v2.CenterCrop(size),
                v2.Normalize(settings["mean"], settings["std"]),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        pictures = bare.with_pyav(self._paths[index], N_FRAMES)
        frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        transformed: torch.Tensor = self._transform(frames)
        return transformed


def _texts(one: DataSet | EvaluationSet) -> list[str]:
    """Captions, or every class in every template."""
    if one.templates:
        return [t.replace("{}", label) for label in one.classes for t in one.templates]
    texts: list[str] = one.clips["text"].tolist()
    return texts
