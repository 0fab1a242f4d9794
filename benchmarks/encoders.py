"""Encoders: pictures and texts a second of each way to compute, and how far their features are off.

    python -m benchmarks.encoders
    python -m benchmarks.encoders --model ViT-B-16-quickgelu --device cuda --pictures 4096

Ways, in turns: open_clip's own towers over padded texts; the kit's encoder; and the kit's in
bfloat16. Differences are from open_clip's own: the largest of a feature's values, and the mean
length of a feature's error; of random weights, or of the mini benchmark's teacher.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.side_by_side import seconds
from data_prep.mini_benchmark import TEACHER
from fitclip_core.encoders import ClipEncoder, Precision

N_FRAMES = 4


class OwnTowers(ClipEncoder):
    """open_clip's towers as they are, over texts as long as the context."""

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        features = F.normalize(self.model.encode_image(images).float(), dim=-1)
        unsafe = features.device.type != "cpu"
        return torch.segment_reduce(features, "mean", lengths=counts, unsafe=unsafe)

    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_text(tokens.to(self.device), normalize=True)
        return features


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="open_clip's name; default: the mini benchmark's teacher")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--pictures", type=int, default=1600, help="default: 1600")
    given = parser.parse_args()
    ways: dict[str, ClipEncoder] = {}
    kinds: dict[str, tuple[type[ClipEncoder], Precision]] = {
        "open_clip's own": (OwnTowers, "float32"),
        "kit": (ClipEncoder, "float32"),
        "kit, bfloat16": (ClipEncoder, "bfloat16"),
    }
    for name, (kind, precision) in kinds.items():
        if given.model:
            ways[name] = kind.from_open_clip(given.model, None, given.device, precision)
        else:
            ways[name] = kind.from_folder(TEACHER, given.device, precision)
        ways[name].load_state(ways["open_clip's own"].state())
    size = ways["kit"].image_size
    shape = (given.pictures // N_FRAMES, N_FRAMES, size, size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    words = [f"{k} " + "a person opens a red door " * (1 + k % 3) for k in range(500)]
    calls = {}
    for name, encoder in ways.items():
        calls[f"{name}/pictures"] = partial(encoder.encode_videos, frames)
        calls[f"{name}/texts"] = partial(encoder.encode_texts, words)
    print(f"{given.model or 'mini CLIP'} on {given.device}, {torch.get_num_threads()} threads")
    for what, table in seconds(calls, rounds=5).items():
        taken = table.median()
        for name in ways:
            pictures = given.pictures / taken[f"{name}/pictures"]
            texts = len(words) / taken[f"{name}/texts"]
            print(f"{name:>16}: {pictures:8.1f} pictures, {texts:8.1f} texts in each of {what}")
    features = {
        name: torch.cat([calls[f"{name}/{what}"]().float() for what in ("pictures", "texts")])
        for name in ways
    }
    for name in list(ways)[1:]:
        errors = features[name] - features["open_clip's own"]
        mean = errors.norm(dim=1).mean()
        print(f"{name}: off by at most {errors.abs().max():.1e}, in the mean by {mean:.1e}")


if __name__ == "__main__":
    main()
