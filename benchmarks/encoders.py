"""Encoders: pictures and texts a second of each way to compute, and how far their numbers are off.

    python -m benchmarks.encoders
    python -m benchmarks.encoders --compile
    python -m benchmarks.encoders --model ViT-B-16-quickgelu --device cuda --pictures 4096 --compile

Ways: open_clip's own towers over padded texts; the kit's encoder, which computes the same features
from less; the kit's in bfloat16; and, with --compile, both of these with the picture tower's blocks
compiled. They take turns. On a GPU the table also says which share of its bfloat16 matrix peak,
measured here, the picture towers' arithmetic is.

Differences are those from open_clip's own towers: of features the largest and the largest angle, of
every metric of the mini benchmark the largest, with how many ranks differ. They are of the
mini benchmark's teacher, whichever model is timed, as the metrics of random weights say nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.side_by_side import seconds
from data_prep import frame_store
from data_prep.mini_benchmark import TEACHER
from data_prep.mini_benchmark.data_sets import EVALUATED
from fitclip_core.encoders import ClipEncoder
from fitclip_core.video_text import Precision
from fitclip_core.zero_shot import evaluate
from fitclip_kit.engine.measure import EvaluationSet
from fitclip_kit.engine.sources import Sources, prepare
from fitclip_kit.store.results import Cell, metric_table

N_FRAMES = 4
OWN = "open_clip's own"


class OwnTowers(ClipEncoder):
    """open_clip's towers as they are, over texts as long as the context."""

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        features = F.normalize(self.model.encode_image(images).float(), dim=-1)
        unsafe = features.device.type != "cpu"
        return torch.segment_reduce(features, "mean", lengths=counts, unsafe=unsafe)

    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_text(tokens.to(self.device), normalize=True)
        return features


def encoders(model: str | None, device: str, compiled: bool) -> dict[str, ClipEncoder]:
    """Each way's encoder, all with the same weights; `model` None: the mini benchmark's teacher."""

    def load(kind: type[ClipEncoder], precision: Precision) -> ClipEncoder:
        if model is None:
            return kind.from_folder(TEACHER, device, precision)
        return kind.from_open_clip(model, device=device, precision=precision)

    names: dict[str, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}
    ways = {OWN: load(OwnTowers, "float32")}
    ways |= {name: load(ClipEncoder, precision) for name, precision in names.items()}
    if compiled:
        for name, precision in names.items():
            ways[f"{name}, compiled"] = load(ClipEncoder, precision)
            for block in ways[f"{name}, compiled"].model.visual.transformer.resblocks:
                block.compile()
    for encoder in ways.values():
        encoder.load_state(ways[OWN].state())
    return ways


def rates(ways: Mapping[str, ClipEncoder], pictures: int, rounds: int) -> pd.DataFrame:
    """Pictures and texts a second, and on a GPU the share of the matrix peak."""
    first = ways[OWN]
    size = first.image_size
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (pictures // N_FRAMES, N_FRAMES, size, size, 3), np.uint8)
    words = [
        f"{number} " + "a person opens a red door " * (1 + number % 3) for number in range(500)
    ]
    calls: dict[str, Callable[[], object]] = {}
    for name, encoder in ways.items():
        calls[f"{name}/pictures"] = partial(encoder.encode_videos, frames)
        calls[f"{name}/texts"] = partial(encoder.encode_texts, words)
    taken = seconds(calls, rounds).median()
    table = pd.DataFrame(
        {
            "pictures/s": [frames.shape[0] * N_FRAMES / taken[f"{name}/pictures"] for name in ways],
            "texts/s": [len(words) / taken[f"{name}/texts"] for name in ways],
        },
        index=list(ways),
    )
    if first.device.type == "cuda":
        table["of the bf16 peak"] = (
            table["pictures/s"] * _picture_flops(first) / _peak(first.device)
        )
    return table


def differences(ways: Mapping[str, ClipEncoder], clips: int) -> pd.DataFrame:
    """How far each way's features and metrics are from open_clip's own, on the mini benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        sets = _mini_sets(Path(folder), clips, ways[OWN].image_size)
        found = {name: [_measured(encoder, one) for one in sets] for name, encoder in ways.items()}
    rows = {}
    for name, measured in found.items():
        pairs = list(zip(measured, found[OWN], strict=True))
        features = [(f, g) for (f, *_), (g, *_) in pairs]
        angles = [
            F.cosine_similarity(f.double(), g.double()).clamp(max=1).acos() for f, g in features
        ]
        ranks = np.concatenate([m["rank"].ne(o["rank"]) for (_, m, _), (_, o, _) in pairs])
        row = {
            "feature, at most": max(float((f - g).abs().max()) for f, g in features),
            "angle, at most": float(torch.cat(angles).max()),
            "ranks that differ": f"{int(ranks.sum())} of {len(ranks)}",
        }
        for metric in ("R@1", "R@5", "R@10", "MdR", "top1", "top5"):
            far = [(m - o)[m.index.get_level_values("metric") == metric].abs().max()
                   for (*_, m), (*_, o) in pairs]  # fmt: skip
            row[metric] = np.nanmax(far) * (1 if metric == "MdR" else 100)
        rows[name] = row
    return pd.DataFrame(rows).T


def _measured(
    encoder: ClipEncoder, one: EvaluationSet
) -> tuple[torch.Tensor, pd.DataFrame, pd.Series]:
    """A set's features, outcomes and metrics."""
    outcomes = evaluate(
        encoder, one.clips, one.frames, templates=one.templates, classes=one.classes or None
    )
    cell = asdict(Cell(one.name))
    metrics = metric_table(outcomes.assign(**cell)).set_index(["direction", "metric"])["value"]
    texts = one.classes if one.templates else one.clips["text"].tolist()
    features = torch.cat([encoder.encode_source(one.frames), encoder.encode_texts(texts)])
    return features, outcomes, metrics


def _mini_sets(folder: Path, clips: int, size: int) -> list[EvaluationSet]:
    rule = frame_store.FrameRule(N_FRAMES, size)
    made = prepare(Sources(), folder / "data", dict.fromkeys(EVALUATED, clips), seed=1)
    return [
        EvaluationSet(
            name,
            one.clips,
            frame_store.build(one.clips, one.root, folder / name, rule, progress=False),
            templates=one.templates,
            classes=one.classes,
        )
        for name, one in made.items()
    ]


def _picture_flops(encoder: ClipEncoder) -> float:
    """Two a multiplication and addition, counted where gradients keep the operations apart."""
    picture = torch.zeros(1, 3, encoder.image_size, encoder.image_size, device=encoder.device)
    with FlopCounterMode(display=False) as counter:
        encoder.model.encode_image(picture)
    return float(counter.get_total_flops())


def _peak(device: torch.device, width: int = 8192) -> float:
    """Operations a second of a large bfloat16 matrix product."""
    one = torch.randn(width, width, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        one @ one
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return 2 * width**3 / float(np.median(times))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", help="open_clip's name; default: the mini benchmark's teacher")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--pictures", type=int, default=1600, help="default: 1600")
    parser.add_argument("--clips", type=int, default=200, help="a mini data set (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    given = parser.parse_args(arguments)
    print(f"{given.model or 'mini CLIP'} on {given.device}, {torch.get_num_threads()} threads")
    timed = encoders(given.model, given.device, given.compile)
    print(rates(timed, given.pictures, given.rounds).round(2).to_string(), "\n")
    compared = timed if given.model is None else encoders(None, given.device, given.compile)
    print(f"{given.clips} clips of each mini data set; shares in points, angles in radians")
    print(differences(compared, given.clips).to_string(float_format="{:.2g}".format))


if __name__ == "__main__":
    main()
