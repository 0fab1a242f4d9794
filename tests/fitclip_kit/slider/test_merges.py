import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitclip_core import merges
from fitclip_kit.slider.merges import MERGES, Fusion, linear_at, merged
from tests.make import tiny_encoder

shares = st.floats(0, 1)
fusions = st.builds(Fusion, st.integers(0, 9), shares, shares, st.sampled_from(MERGES))


@pytest.mark.parametrize(
    ("fusion", "title"),
    [
        (Fusion.at(1, 0.4), "α = 0.4 · student 1"),
        (Fusion.at(1, 0.1 + 0.2), "α = 0.3 · student 1"),
        (Fusion(1, 0.4, 0.7), "vision 0.4, text 0.7 · student 1"),
        (Fusion.at(2, 0.4, "linear in depth"), "linear in depth, α = 0.4 · student 2"),
        (Fusion(3, 0, 1, "fisher"), "fisher, vision 0, text 1 · student 3"),
        (Fusion.at(1, 0.123456789), "α = 0.123456789 · student 1"),
        (Fusion.at(1, -0.0), "α = 0 · student 1"),
    ],
)
def test_titles(fusion, title):
    assert fusion.title == title


@pytest.mark.parametrize(
    ("fusion", "says"),
    [
        *[({"vision": share}, f"vision tower's share is {share}") for share in (-0.1, math.nan)],
        *[({"text": share}, f"text tower's share is {share}") for share in (1.1, math.inf)],
        ({"merge": "median"}, "use one of average, linear in depth, fisher"),
    ],
)
def test_fusions_that_are_none(fusion, says):
    with pytest.raises(ValueError, match=says):
        Fusion(**{"draw": 1, "vision": 0.5, "text": 0.5} | fusion)


@given(fusions)
def test_a_plain_fusion_is_what_the_sweep_has(fusion):
    """Without schedules every parameter has the one alpha; all other fusions differ in some."""
    names = ("visual.proj", "text_projection")
    other = dict.fromkeys(fusion.scheduled, dict.fromkeys(names, 2.0))  # which no alpha is
    found = {merged(fusion, other)(name) for name in names}
    assert fusion.is_plain == (len(found) == 1 and found != {2.0})
    if fusion.is_plain:
        assert found == {fusion.vision}


@pytest.mark.parametrize("layers", [(1, 1), (3, 2)])
def test_merged_takes_each_tower_from_its_own_share(layers):
    state = tiny_encoder(0, layers).state()
    schedules = {alpha: linear_at(alpha, state) for alpha in (0.2, 0.7)}
    share = merged(Fusion(1, 0.7, 0.2, "linear in depth"), schedules)
    for name in state:
        if name != "logit_scale":
            alpha = 0.7 if name.startswith("visual.") else 0.2
            assert share(name) == schedules[alpha][name], name


@pytest.mark.parametrize(
    ("alpha", "first", "last"),
    [(0, 0, 0), (0.4, 0, 0.8), (0.5, 0, 1), (0.75, 0.5, 1), (1, 1, 1)],
)
def test_linear_in_depth_is_alpha_in_the_middle(alpha, first, last):
    state = tiny_encoder(0, layers=(1, 1)).state()
    found = linear_at(alpha, state)
    assert found == merges.linear_in_depth(first, last, state)
    middle = [share for name, share in found.items() if "resblocks" in name]
    assert middle == pytest.approx([alpha] * len(middle))
