"""Pretrains the mini CLIP teacher on captioned still pictures.

    python -m data_prep.mini_benchmark.pretrain --out teacher_folder

The shipped teacher (`data_prep/mini_benchmark/teacher`) was made by this script; its log and
settings lie beside it. The run takes about an hour on two cores and is needed only to make another.
"""

import argparse
import json
import math
import re
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from data_prep.decode_workers import Failure, killable_map
from data_prep.mini_benchmark import stills
from data_prep.mini_benchmark.concepts import actions, concepts
from data_prep.mini_benchmark.vocabulary import VIDEO_WORDS, reduced_merges, write_merges
from fitclip_core.encoders import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE
from fitclip_core.losses import contrastive_loss
from fitclip_core.metrics import recall_at_k, retrieval_ranks
from fitclip_kit.store.files import atomic_path, write_json
from fitclip_kit.weights import checkpoints

IMAGE_SIZE = 40
CONTEXT_LENGTH = 40
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CHUNK = 8192  # pictures drawn at a time, by a process beside the training
VALIDATION_PICTURES = 1000
LOG_EVERY = 250
_DEADLINE = 3600.0  # seconds for a chunk, which takes less than a minute
LOG_FILE, SETTINGS_FILE = "pretraining_log.csv", "pretraining_settings.json"


def model_config(vocab_size: int) -> dict[str, Any]:
    """Return the mini CLIP's architecture in open_clip's `open_clip_config.json` form.

    vocab_size: number of tokens, the two special ones included.
    Source: CLIP's ViT and text transformer (Radford et al., 2021), made small.
    """
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": IMAGE_SIZE,
                "patch_size": 8,
                "width": 128,
                "layers": 4,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocab_size,
                "width": 128,
                "heads": 4,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "size": IMAGE_SIZE,
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
        },
    }


def corpus_words() -> list[str]:
    """Return the words that the vocabulary writes whole: names, labels, caption templates."""
    texts = [concept.name for concept in concepts()]
    texts += [action.label for action in actions()]
    texts += [*stills.COLOURS, *stills.ONE, *stills.TWO, *stills.THREE, *stills.ACTION, VIDEO_WORDS]
    return sorted({word for text in texts for word in re.sub(r"\{\w+\}", " ", text).split()})


def _batches(
    tokenizer: SimpleTokenizer, seed: int, batch: int, reuse: int, chunks: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Batches of (uint8 images [n, 3, size, size], tokens [n, context]) from so many chunks."""
    generator = torch.Generator().manual_seed(seed)
    # With one worker in order; it draws the next chunk while one is trained on.
    drawn = killable_map(
        partial(_draw_chunk, seed, CHUNK), range(chunks), workers=1, deadline=_DEADLINE
    )
    with closing(drawn):
        for expected, (number, chunk) in enumerate(drawn):
            if isinstance(chunk, Failure) or number != expected:
                raise RuntimeError(f"pictures of chunk {expected} could not be drawn: {chunk}")
            images, captions = chunk
            pixels = _channels_first(images)
            tokens = tokenizer(captions)
            for _ in range(reuse):
                for rows in torch.randperm(len(pixels), generator=generator).split(batch):
                    chosen = pixels[rows]
                    flip = torch.rand(len(rows), generator=generator) < 0.5
                    chosen[flip] = chosen[flip].flip(-1)
                    yield chosen, tokens[rows]


def _draw_chunk(seed: int, size: int, number: int) -> tuple[np.ndarray, list[str]]:
    return stills.draw_many(IMAGE_SIZE, seed * 1_000_003 + number, size)


def _text_features(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Text features, computed only up to the longest text: causal attention makes this exact."""
    length = int(tokens.argmax(-1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return functional.normalize(x @ model.text_projection, dim=-1)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


@torch.inference_mode()
def _validate(
    model: open_clip.CLIP, tokenizer: SimpleTokenizer, images: np.ndarray, captions: list[str]
) -> dict[str, float]:
    """Caption-to-picture recall on unseen stills."""
    model.eval()
    pixels = _normalise(_channels_first(images))
    image = torch.cat([model.encode_image(p, normalize=True) for p in pixels.split(256)])
    text = torch.cat([_text_features(model, t) for t in tokenizer(captions).split(256)])
    model.train()
    ranks = retrieval_ranks(text, image)
    return {f"val_R@{k}": recall_at_k(ranks, k) for k in (1, 5)}


def pretrain(
    out: Path, *, seed: int, steps: int, batch: int, learning_rate: float, reuse: int
) -> None:
    """Train the teacher and write it to `out` in open_clip's local-dir layout.

    Weights (float16) and log are written every LOG_EVERY steps and at the end, the settings last.

    seed: of the first weights, the pictures and their order. steps: optimiser steps.
    batch: pictures a step, at most CHUNK. learning_rate: highest of a cosine schedule with warm-up.
    reuse: passes over each drawn picture.

    Raises ValueError if a setting is out of range.
    Source: contrastive pretraining of CLIP (Radford et al., 2021) at a small scale.
    """
    if seed < 0 or min(steps, batch, reuse) < 1 or batch > CHUNK or not learning_rate > 0:
        raise ValueError(
            f"seed {seed}, steps {steps}, batch {batch}, reuse {reuse}, learning_rate "
            f"{learning_rate}: give a seed from 0, whole numbers from 1, a batch of at most "
            f"{CHUNK} and a learning rate above 0"
        )
    settings = {
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "reuse": reuse,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_FILE).unlink(missing_ok=True)
    torch.manual_seed(seed)
    write_merges(out / MERGES_FILE, reduced_merges(corpus_words()))
    tokenizer = SimpleTokenizer(bpe_path=str(out / MERGES_FILE), context_length=CONTEXT_LENGTH)
    config = model_config(tokenizer.vocab_size)
    write_json(out / CONFIG_FILE, config)
    model = open_clip.CLIP(**config["model_cfg"])
    optimizer = _optimizer(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / 200, 0.5 * (1 + math.cos(math.pi * s / steps)) + 1e-3),
    )
    held_out = stills.draw_many(IMAGE_SIZE, seed + 999_999_937, VALIDATION_PICTURES)
    log: list[dict[str, float]] = []
    chunks = math.ceil(steps / (reuse * math.ceil(CHUNK / batch)))
    with closing(_batches(tokenizer, seed, batch, reuse, chunks)) as batches:
        for step in tqdm(range(1, steps + 1), mininterval=30):
            pixels, tokens = next(batches)
            loss = _loss(model, pixels, tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            if step % LOG_EVERY == 0 or step == steps:
                row = {"step": step, "loss": loss.item() / 2}
                row |= {"logit_scale": model.logit_scale.exp().item()}
                row |= _validate(model, tokenizer, *held_out)
                log.append(row)
                tqdm.write(json.dumps(row))
                _write(out, model, log)
    write_json(out / SETTINGS_FILE, settings)


def _optimizer(model: open_clip.CLIP, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices, not gains, biases and the logit scale."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )


def _loss(model: open_clip.CLIP, pixels: Tensor, tokens: Tensor) -> Tensor:
    """Contrastive loss of a batch, both directions summed."""
    # On a CPU the flash kernel's backward pass takes three times as long as the plain one's.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        image = model.encode_image(_normalise(pixels), normalize=True)
        text = _text_features(model, tokens)
    return contrastive_loss(model.logit_scale.exp() * image.float() @ text.float().T)


def _write(out: Path, model: open_clip.CLIP, log: list[dict[str, float]]) -> None:
    checkpoints.save(out / WEIGHTS_FILE, model.state_dict(), dtype=torch.float16)
    with atomic_path(out / LOG_FILE) as temporary:
        pd.DataFrame(log).round(5).to_csv(temporary, index=False)


def main() -> None:
    """Command line of the pretraining."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--reuse", type=int, default=3)
    pretrain(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
