"""Rendered clips, with one flaw of the camera at a time."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.mini_benchmark.scenes import (
    FRAME_SIZE,
    MOTIONS,
    Actor,
    Look,
    Shot,
    place_actors,
    render,
)

CLEAN = Look(
    brightness=(1, 1),
    contrast=(1, 1),
    cast=0,
    noise=(0, 0),
    downscale=(1, 1),
    blur=(0, 0),
    ghosting=(0, 0),
    clutter=(0, 0),
    letterbox=0,
    watermark=0,
    shake=0,
    distractor=0,
)
FOX = Actor("1F98A", "resting", 0.5, 0.5, 0.4, 0.0, 0.0, False)
GREY = (128, 128, 128)


def clip(look: Look = CLEAN, *actors: Actor, n_frames: int = 6) -> np.ndarray:
    return render([Shot(actors, GREY, n_frames)], look, np.random.default_rng(0)).astype(float)


def ink(actor: Actor) -> np.ndarray:
    """Where the actor changes the picture: bool [n, size, size]."""
    return (clip(CLEAN, actor) != clip()).any(-1)


def centre(mask: np.ndarray) -> np.ndarray:
    return np.array([(np.argwhere(frame).mean(0) + 0.5) / FRAME_SIZE for frame in mask])


def test_shots_follow_each_other() -> None:
    shots = [Shot((), colour, n) for colour, n in (((250, 0, 0), 1), ((0, 0, 250), 3))]
    frames = render(shots, CLEAN, np.random.default_rng(0))
    assert (frames.dtype, frames.shape) == (np.uint8, (4, FRAME_SIZE, FRAME_SIZE, 3))
    brightest = frames.mean((1, 2)).argmax(1)
    assert brightest.tolist() == [0, 2, 2, 2]


def test_equal_states_give_equal_clips() -> None:
    look = replace(CLEAN, noise=(1, 9), shake=3, clutter=(0, 5), ghosting=(0, 0.5), watermark=0.5)
    shots = [Shot(place_actors(["1F98A", "1F355"], ["shaking", "bouncing"], seeded(4)), GREY, 5)]
    first, second = (render(shots, look, seeded(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first != render(shots, look, seeded(2))).any()


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_actor_stands_where_it_is_put() -> None:
    for x, y in ((0.3, 0.5), (0.6, 0.4)):
        mask = ink(replace(FOX, x=x, y=y))
        np.testing.assert_allclose(centre(mask), np.tile((y, x), (6, 1)), atol=0.04)
        assert 0.05 < mask.mean() < 0.4**2


def test_motions_move_as_they_say() -> None:
    still = ink(FOX)
    assert (still == still[0]).all()
    drift = centre(ink(replace(FOX, motion="drifting", drift_x=0.3)))
    assert (np.diff(drift[:, 1]) > 0.03).all()
    bounce = centre(ink(replace(FOX, motion="bouncing")))
    assert np.ptp(bounce[:, 0]) > 0.08
    assert np.ptp(bounce[:, 1]) < 0.02
    zoom = ink(replace(FOX, motion="zooming")).mean((1, 2))
    assert (np.diff(zoom) > 0).all()
    for motion in ("shaking", "spinning"):
        mask = ink(replace(FOX, motion=motion))
        assert (mask[2] != mask[3]).any()
        assert np.ptp(centre(mask), axis=0).max() < 0.12


def test_a_flipped_actor_is_mirrored() -> None:
    plain, mirrored = (
        clip(CLEAN, replace(FOX, picture="1F40E", flipped=flipped)) - clip()
        for flipped in (False, True)
    )
    pixels = round(FOX.side * FRAME_SIZE)
    left = (FRAME_SIZE - pixels) // 2
    window = slice(left, left + pixels)
    assert (plain != mirrored).any()
    np.testing.assert_allclose(plain[0, :, window], mirrored[0, :, window][:, ::-1], atol=60)


def test_bars_watermark_noise_and_darkness() -> None:
    plain = clip()
    bars = clip(replace(CLEAN, letterbox=1))
    assert bars[:, [0, 5, -6, -1]].max() == 0
    np.testing.assert_array_equal(bars[:, 14:-14], plain[:, 14:-14])

    marked = clip(replace(CLEAN, watermark=1)) - plain
    rows, columns = np.nonzero(marked[0].any(-1))
    assert (rows.min(), rows.max()) == (44, 51)
    assert set(columns) == set(range(8, 88, 3))
    assert marked.max() == 50

    noise = (clip(replace(CLEAN, noise=(10, 10))) - plain).std((1, 2, 3))
    assert noise == pytest.approx(np.full(6, 10), rel=0.1)
    np.testing.assert_allclose(clip(replace(CLEAN, brightness=(0.5, 0.5))), plain / 2, atol=1)
    flat = clip(replace(CLEAN, contrast=(0.5, 0.5)))
    np.testing.assert_allclose(flat - 128, (plain - 128) / 2, atol=1)


def test_ghosting_keeps_a_share_of_the_frame_before() -> None:
    actor = replace(FOX, motion="zooming")
    plain, ghosted = clip(CLEAN, actor), clip(replace(CLEAN, ghosting=(0.25, 0.25)), actor)
    np.testing.assert_array_equal(ghosted[0], plain[0])
    np.testing.assert_allclose(ghosted[1:], 0.75 * plain[1:] + 0.25 * plain[:-1], atol=1)


def test_coarse_and_blurred_pictures_lose_detail() -> None:
    def detail(frames: np.ndarray) -> float:
        return np.abs(np.diff(frames, axis=2)).max()

    plain = detail(clip(CLEAN, FOX))
    assert detail(clip(replace(CLEAN, downscale=(3, 3)), FOX)) < 0.7 * plain
    assert detail(clip(replace(CLEAN, blur=(2, 2)), FOX)) < 0.7 * plain


def test_a_clip_needs_frames() -> None:
    for shots in ([], [Shot((), GREY, 2), Shot((), GREY, 0)]):
        with pytest.raises(ValueError, match="at least one shot"):
            render(shots, CLEAN, seeded(0))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_actors_are_placed_inside_the_frame(count: int) -> None:
    for seed in range(20):
        actors = place_actors(["1F98A"] * count, MOTIONS[:count], seeded(seed))
        assert [actor.motion for actor in actors] == list(MOTIONS[:count])
        for actor in actors:
            assert 0.1 < actor.x < 0.9
            assert 0.1 < actor.y < 0.9
            assert 0.3 < actor.side < 1


def test_wrong_motions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 pictures and motions \['resting'\]"):
        place_actors(["1F98A", "1F355"], ["resting"], seeded(0))
    with pytest.raises(ValueError, match=r"motions .*'flying'.* one of drifting"):
        place_actors(["1F98A"], ["flying"], seeded(0))
