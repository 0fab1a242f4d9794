"""The pretraining script, a few steps of it."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.mini_benchmark import pretrain as module
from data_prep.mini_benchmark.pretrain import CONTEXT_LENGTH, IMAGE_SIZE, pretrain
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.weights import checkpoints

SETTINGS: dict[str, Any] = dict(seed=3, steps=3, batch=8, learning_rate=1e-3, reuse=2)
FILES = {
    "bpe_simple_vocab.txt.gz",
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "pretraining_log.csv",
    "pretraining_settings.json",
}


@pytest.fixture(scope="module", autouse=True)
def small() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 12)
        patch.setattr(module, "VALIDATION_PICTURES", 6)
        patch.setattr(module, "LOG_EVERY", 2)
        yield


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn in this process."""

    def one_by_one(
        function: Any, items: Any, *, workers: int, deadline: float
    ) -> Iterator[tuple[int, Any]]:
        yield from enumerate(map(function, items))

    monkeypatch.setattr(module, "killable_map", one_by_one)


@pytest.fixture(scope="module")
def teacher(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "teacher"
    pretrain(folder, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def encoder(teacher: Path) -> ClipEncoder:
    return ClipEncoder.from_folder(teacher)


def test_the_folder_is_whole(teacher: Path) -> None:
    assert {path.name for path in teacher.iterdir()} == FILES
    assert json.loads((teacher / "pretraining_settings.json").read_text()) == SETTINGS
    log = pd.read_csv(teacher / "pretraining_log.csv")
    assert log["step"].tolist() == [2, 3]
    assert log["loss"].between(0, 2 * math.log(8)).all()
    assert (log["val_R@1"] >= 0).all()
    assert log["val_R@5"].between(log["val_R@1"], 1).all()
    state = checkpoints.load(teacher / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert (teacher / "open_clip_model.safetensors").stat().st_size < 8e6


def test_the_folder_is_an_encoder(encoder: ClipEncoder) -> None:
    assert (encoder.name, encoder.image_size) == ("teacher", IMAGE_SIZE)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    videos = encoder.encode_videos(frames)
    texts = encoder.encode_texts(["a fox on a red background", "pizza, slow motion"])
    assert videos.shape == texts.shape == (2, 128)
    assert videos.isfinite().all()
    assert encoder.tokenize(["fox"]).shape == (1, CONTEXT_LENGTH)
    assert encoder.tokenize(["fox"]).count_nonzero() == 3  # start, fox, end


def test_the_same_seed_gives_the_same_bytes(
    teacher: Path, tmp_path: Path, in_process: None
) -> None:
    pretrain(tmp_path / "again", **SETTINGS)
    pretrain(tmp_path / "other", **{**SETTINGS, "seed": 4, "steps": 1})
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (teacher / name).read_bytes(), name
    weights = "open_clip_model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (teacher / weights).read_bytes()


def test_an_interrupted_run_has_no_settings(
    tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pretraining_settings.json").write_text("{}")
    calls = 0

    def failing(model: Any, *batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return model.logit_scale * 0

    monkeypatch.setattr(module, "_loss", failing)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, **SETTINGS)
    assert not (tmp_path / "pretraining_settings.json").exists()


@pytest.mark.parametrize("texts", [["fox"], ["", "a " * 50, "a fox and a cat", "fox"]])
def test_trimmed_text_features_are_open_clips(encoder: ClipEncoder, texts: list[str]) -> None:
    tokens = encoder.tokenize(texts)
    with torch.no_grad():
        trimmed = module._text_features(encoder.model, tokens)
        whole = encoder.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(trimmed, whole, atol=1e-6, rtol=1e-5)


def test_every_picture_is_used_as_often_as_asked(
    in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and captions tell their number; the chunk's number is in the seed."""

    def numbered(size: int, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
        first = 100 * (seed - 7 * 1_000_003)
        numbers = range(first, first + count)
        images = np.zeros((count, 2, 2, 3), np.uint8)
        images[:, 0, 0, 0] = [number % 256 for number in numbers]
        return images, [str(number) for number in numbers]

    monkeypatch.setattr(module.stills, "draw_many", numbered)
    batches = module._batches(
        lambda texts: torch.tensor([int(text) for text in texts]),
        seed=7,
        batch=5,
        reuse=2,
        chunks=2,
    )
    taken = list(batches)
    assert [len(tokens) for _, tokens in taken] == 4 * [5, 5, 2]
    for chunk, passes in ((0, taken[:6]), (1, taken[6:])):
        counts = Counter(torch.cat([tokens for _, tokens in passes]).tolist())
        assert counts == dict.fromkeys(range(100 * chunk, 100 * chunk + 12), 2)
    flipped = 0
    for pixels, tokens in taken:
        assert pixels.shape == (len(tokens), 3, 2, 2)
        assert (pixels[:, 0, 0].sum(-1) == tokens % 256).all()
        flipped += int((pixels[:, 0, 0, 1] > 0).sum())
    assert 10 < flipped < 38


def test_validation_scores_are_recalls(encoder: ClipEncoder) -> None:
    images, captions = module.stills.draw_many(IMAGE_SIZE, 5, 9)
    texts = encoder.encode_texts(captions)
    pictures = encoder.encode_videos(images[:, None])
    better = (texts @ pictures.T > (texts * pictures).sum(1)[:, None] + 1e-7).sum(1)
    scores = module._validate(encoder.model, encoder.tokenizer, images, captions)
    encoder.model.eval()
    assert scores == {
        f"val_R@{k}": pytest.approx((better < k).float().mean().item()) for k in (1, 5)
    }


def test_the_rate_warms_up_and_falls(
    tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def recording(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
        )
        return optimizer

    monkeypatch.setattr(module, "_optimizer", recording)
    pretrain(tmp_path, **{**SETTINGS, "learning_rate": 0.5, "steps": 2})
    assert rates == pytest.approx([0.5 / 200, 0.5 * 2 / 200])


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch": 0}, {"batch": 13}, {"reuse": 0}, {"seed": -1}, {"learning_rate": 0.0}],
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} {wrong[name]}"):
        pretrain(tmp_path, **{**SETTINGS, **wrong})
    assert not list(tmp_path.iterdir())
