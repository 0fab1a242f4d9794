"""calibrate: what it promises of the model, and its arithmetic under a made-up clock."""

import json
from dataclasses import asdict

import open_clip
import pytest
import torch

from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import calibration
from fitclip_kit.engine.calibration import LEAST_TIMINGS, TEXT_WORDS, Calibration, Rate, calibrate

SIZE = 16
CPU = torch.device("cpu")


def make_encoder(width: int = 12, layers: int = 1) -> ClipEncoder:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=width,
        vision_cfg={
            "image_size": SIZE,
            "layers": layers,
            "width": 16,
            "patch_size": 8,
            "head_width": 8,
        },
        text_cfg={
            "context_length": 6,
            "vocab_size": 128,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    )

    def tokenizer(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[*map(ord, text.ljust(5)[-5:]), 127] for text in texts])

    half = (0.5, 0.5, 0.5)
    return ClipEncoder(model, tokenizer, image_size=SIZE, mean=half, std=half, name="toy")


def quick(encoder: ClipEncoder, n_frames: int = 2) -> Calibration:
    return calibrate(encoder, seconds=0.02, n_frames=n_frames)


def test_model_and_random_state_are_left_as_they_were() -> None:
    encoder = make_encoder()
    before = encoder.state()
    torch.manual_seed(3)
    expected = torch.random.get_rng_state()
    quick(encoder)
    assert torch.equal(torch.random.get_rng_state(), expected)
    after = encoder.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not encoder.model.training
    assert all(one.grad is None for one in encoder.model.parameters())


def test_what_is_reported() -> None:
    encoder = make_encoder()
    measured = quick(encoder)
    assert (measured.model, measured.image_size, measured.n_frames) == ("toy", SIZE, 2)
    assert measured.parameters == sum(value.numel() for value in encoder.state().values())
    assert "CPU" in measured.device and measured.peak_bytes is None
    assert measured.optimiser_seconds > 0
    for rate in (measured.images, measured.texts, measured.training):
        assert 0 < rate.slowest <= rate.per_second <= rate.fastest
        assert rate.timings >= LEAST_TIMINGS and rate.batch >= 1
    assert json.loads(json.dumps(asdict(measured)))["images"]["batch"] == measured.images.batch


def test_given_texts_are_timed_each_once_and_in_mixed_order() -> None:
    encoder = make_encoder()
    assert quick(encoder).text_words == TEXT_WORDS
    given = calibrate(encoder, seconds=0.02, texts=["a dog runs", "a dog runs", "a"])
    assert given.text_words == 2 and given.texts.batch <= 2 and given.training.batch <= 2
    texts = [f"{'word ' * (number // 50)}{number}" for number in range(2000)]
    mixed = calibration._mixed([*texts, *texts], seed=0)
    assert len(mixed) == len(set(mixed)) == 1024 and set(mixed) < set(texts)
    assert mixed[:100] != sorted(mixed[:100], key=len), "not the shortest first"
    with pytest.raises(ValueError, match="no text to time"):
        calibrate(encoder, texts=[])


def test_memory_for_the_backward_pass_grows_with_frames_and_holds_no_weights() -> None:
    two, four, six = (quick(make_encoder(), n).activation_bytes for n in (2, 4, 6))
    assert four - two == six - four > 0
    # A block keeps, for each frame, more than its attention's and its MLP's inputs and outputs.
    deeper = quick(make_encoder(layers=2), 2).activation_bytes - two
    tokens, width = (SIZE // 8) ** 2 + 1, 16
    assert deeper >= 2 * tokens * width * (1 + 3 + 1 + 1 + 4 + 4) * 4
    wider = quick(make_encoder(width=8192), 2).activation_bytes - two
    assert 0 < wider < width * 8192 * 4, "not even one of the two towers' projections"


def test_captions_are_distinct_and_as_long_as_said() -> None:
    captions = calibration._captions(500, seed=1)
    assert len(set(captions)) == 500
    assert {len(caption.split()) for caption in captions} == {TEXT_WORDS}
    assert captions == calibration._captions(500, seed=1) != calibration._captions(500, seed=2)


class Clock:
    """A clock that only `work` moves: `fixed` seconds a call and `each` for each of n."""

    def __init__(self, fixed: float, each: float) -> None:
        self.now, self.fixed, self.each, self.calls = 0.0, fixed, each, list[int]()

    def work(self, n: int) -> None:
        self.calls.append(n)
        self.now += self.fixed + self.each * n


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    clock = Clock(*request.param)
    monkeypatch.setattr(calibration, "perf_counter", lambda: clock.now)
    return clock


@pytest.mark.parametrize("clock", [(1.0, 1.0)], indirect=True)
def test_a_slow_device_gets_one_warm_up_and_three_timings(clock: Clock) -> None:
    rate = calibration._rate(clock.work, 64, 0.5, CPU)
    assert clock.calls == [1] * (1 + LEAST_TIMINGS)
    assert rate == Rate(0.5, 0.5, 0.5, LEAST_TIMINGS, 1)


@pytest.mark.parametrize("clock", [(0.125, 0.0)], indirect=True)
def test_a_device_that_batches_well_gets_the_largest_batch(clock: Clock) -> None:
    rate = calibration._rate(clock.work, 8, 10.0, CPU)
    assert clock.calls[:8] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert rate.batch == 8 and rate.per_second == 8 / 0.125
    assert 10.0 - 0.125 <= clock.now <= 10.0, "all of the time is used, and no more"


@pytest.mark.parametrize("clock", [(0.0, 1.0)], indirect=True)
def test_the_batch_grows_only_while_its_timings_fit(clock: Clock) -> None:
    rate = calibration._rate(clock.work, 64, 20.0, CPU)
    assert rate.batch == 2, "a warm-up and three timings of 4 clips would end after 22 seconds"
    assert rate.per_second == 1.0 and clock.now <= 20.0


@pytest.mark.parametrize("clock", [(1.0, 0.0)], indirect=True)
def test_median_and_ends_of_uneven_timings(clock: Clock) -> None:
    def uneven(n: int) -> None:
        clock.work(n)
        clock.now += {2: 0.0, 3: 3.0}.get(len(clock.calls), 1.0)

    rate = calibration._rate(uneven, 1, 0.1, CPU)
    assert rate == Rate(1 / 2, 1 / 4, 1.0, 3, 1)


@pytest.mark.parametrize(("seconds", "n_frames"), [(0.0, 4), (-1.0, 4), (float("nan"), 4), (1, 0)])
def test_bad_numbers_are_refused(seconds: float, n_frames: int) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        calibrate(make_encoder(), seconds=seconds, n_frames=n_frames)
