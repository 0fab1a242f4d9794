"""The real architecture, with random weights: load, fuse and score a few clips."""

import numpy as np
import pandas as pd
import torch
from open_clip.transformer import QuickGELU

from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import AlphaSweep
from fitclip_core.zero_shot import evaluate


class RandomClips:
    clip_ids = ("first", "second")
    frame_counts = np.array([2, 1])

    def frames(self, indices: np.ndarray) -> np.ndarray:
        data = np.random.default_rng(0).integers(0, 256, (2, 2, 224, 224, 3), np.uint8)
        return data[indices]


def test_vit_b_16_quickgelu_loads_fuses_and_scores() -> None:
    torch.manual_seed(0)
    encoder = ClipEncoder.from_open_clip("ViT-B-16-quickgelu")
    assert encoder.image_size == 224
    assert sum(p.numel() for p in encoder.model.parameters()) == 149_620_737
    assert isinstance(encoder.model.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert isinstance(encoder.model.transformer.resblocks[0].mlp.gelu, QuickGELU)

    teacher = encoder.state()
    student = {name: value * 1.01 for name, value in teacher.items()}
    clips = pd.DataFrame({"clip_id": list(RandomClips.clip_ids), "text": ["a dog", "rain"]})
    with AlphaSweep(encoder.model, teacher, student) as sweep:
        sweep.set_alpha(0.4)
        projection = encoder.model.visual.proj.detach()
        torch.testing.assert_close(projection, teacher["visual.proj"] * 1.004)
        assert encoder.logit_scale == teacher["logit_scale"].exp().item()
        outcomes = evaluate(encoder, clips, RandomClips())
    assert len(outcomes) == 4
    assert outcomes["rank"].between(1, 2).all()
    assert outcomes.attrs["coverage"]["measured"] == 2
    assert torch.equal(encoder.model.visual.proj, teacher["visual.proj"])
