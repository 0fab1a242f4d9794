"""An alpha sweep, videos to stored outcomes, beside its least part: the forward passes alone.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --model ViT-B-16-quickgelu --clips 8 --alphas 2 --rounds 1

The six evaluation sets of the mini benchmark; the teacher is the mini benchmark's, or a model of
open_clip's with random weights; the one student's weights are the teacher's with noise (no time
depends on them). What takes turns in one run, in seconds and in processor seconds, which say more
where others use the machine:

    frames   frame stores built anew
    kit      `measure` on them, outcomes of both directions stored
    forward  a bare forward pass an alpha over pictures and token ids that lie ready in memory
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

N_FRAMES = 4
NOISE = 0.3  # of the student's weights, in standard deviations of each tensor


class Sweep:
    """One benchmark, teacher and student.

    folder: an empty one, for videos, frames and results.
    """

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        # Decoding processes import this module again: the models are imported where they are used.
        import torch

        from data_prep.clip_frames import FrameRule
        from data_prep.mini_benchmark import TEACHER
        from data_prep.mini_benchmark.data_sets import EVALUATED
        from fitclip_core.encoders import ClipEncoder
        from fitclip_kit.engine.measure import Student
        from fitclip_kit.engine.sources import Sources, prepare
        from fitclip_kit.weights.models import LoadedModel

        self.folder = folder
        self.alphas = tuple(number / (given.alphas - 1) for number in range(given.alphas))
        if given.model:
            self.encoder: Any = ClipEncoder.from_open_clip(
                given.model, device=given.device, precision=given.precision
            )
        else:
            self.encoder = ClipEncoder.from_folder(TEACHER, given.device, given.precision)
        self.rule = FrameRule(N_FRAMES, self.encoder.image_size)
        self.sets = prepare(
            Sources(), folder / "data", dict.fromkeys(EVALUATED, given.clips), seed=1
        )
        generator = torch.Generator().manual_seed(0)
        noisy = {
            name: tensor + NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self.encoder.state().items()
            if name != "logit_scale"
        }
        self.teacher = LoadedModel(self.encoder, "made up", {})
        told: dict[str, Any] = {"draw": 1, "labelled_clips": 1, "labelled_share": 1.0}
        self.student = Student(**told, state=noisy, sha256="made up")
        self.stores: list[Any] = []
        self.frames()
        self.images = [
            self.encoder.images(store.frames(range(len(store))), store.frame_counts)
            for store in self.stores
        ]
        texts = [text for one in self.evaluation_sets() for text in _texts(one)]
        self.tokens = self.encoder.tokenize(texts).to(given.device)

    def frames(self) -> None:
        from data_prep import frame_store

        shutil.rmtree(self.folder / "frames", ignore_errors=True)
        self.stores = [
            frame_store.build(
                one.clips, one.root, self.folder / "frames" / name, self.rule, progress=False
            )
            for name, one in self.sets.items()
        ]

    def evaluation_sets(self) -> list[Any]:
        from fitclip_kit.engine.measure import EvaluationSet

        return [
            EvaluationSet(name, one.clips, store, templates=one.templates, classes=one.classes)
            for (name, one), store in zip(self.sets.items(), self.stores, strict=True)
        ]

    def kit(self) -> None:
        from fitclip_kit.engine.measure import measure, sweep_cells
        from fitclip_kit.store.results import ResultsStore

        shutil.rmtree(self.folder / "results", ignore_errors=True)
        results = ResultsStore(self.folder / "results")
        cells = sweep_cells(list(self.sets), [self.student], self.alphas)
        students = [self.student]
        measure(cells, self.teacher, self.evaluation_sets(), results, students=students)

    def forward(self) -> None:
        import torch

        with torch.inference_mode():
            for _ in self.alphas:
                for images, counts in self.images:
                    self.encoder.video_features(images, counts)
                self.encoder.text_features(self.tokens)


def _texts(one: Any) -> list[str]:
    """Captions, or every class in every template."""
    if one.templates:
        return [t.replace("{}", label) for label in one.classes for t in one.templates]
    return list(one.clips["text"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="open_clip's name; default: the mini benchmark's teacher")
    parser.add_argument("--clips", type=int, default=200, help="a data set (default: 200)")
    parser.add_argument("--alphas", type=int, default=11, help="default: 11")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16")
    given = parser.parse_args()

    from fitclip_kit.engine.run import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # how threads wait; read when the models are imported
    from benchmarks.side_by_side import seconds

    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder), given)
        ways = {"frames": sweep.frames, "kit": sweep.kit, "forward": sweep.forward}
        for what, table in seconds(ways, given.rounds).items():
            print(f"{what}:", ", ".join(f"{name} {v:.1f}" for name, v in table.median().items()))
            print(f"    kit / forward {(table['kit'] / table['forward']).median():.2f}")


if __name__ == "__main__":
    main()
