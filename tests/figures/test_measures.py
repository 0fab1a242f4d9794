"""Which panels and studies some data sets make, and what is said of those that lack."""

import pandas as pd
import pytest

from figures import measures
from figures.measures import IN_DOMAIN, PANELS, SIZE_MEASURE, ZERO_SHOT, Measure, panels_of
from fitclip_kit.store.results import CLASSIFICATION

ALL = ("webvid_val", "didemo", "msrvtt", "youcook2", "mit", "ucf101")


def test_the_panels_are_the_papers():
    assert IN_DOMAIN.measures == (Measure("webvid_val", "text_to_video", 5),)
    assert {measure.data_set: measure.name for measure in ZERO_SHOT.measures} == {
        **dict.fromkeys(("didemo", "msrvtt", "youcook2"), "text-to-video R@5"),
        **dict.fromkeys(("mit", "ucf101"), "top-1"),
    }
    assert panels_of(ALL[::-1]) == PANELS
    titles = ["In-domain (webvid_val)", "Zero-shot, mean of 5 data sets"]
    assert [panel.title for panel in PANELS] == titles
    words = [measures.measures_in_words(panel.measures) for panel in PANELS]
    assert words == ["Text-to-video R@5", "Mean of R@5 and top-1"]
    names = [measures.measure_name(panel.measures) for panel in PANELS]
    assert names[0] == "webvid_val text-to-video R@5"
    assert names[1] == "mean of text-to-video R@5 and top-1 over 5 data sets"
    assert list(measures.scopes_of(PANELS)) == ["in_domain", "zero_shot", *ALL[1:]]


@pytest.mark.parametrize(
    ("data_sets", "panels"),
    [
        (("webvid_val", "msrvtt"), {"in_domain": ["webvid_val"], "zero_shot": ["msrvtt"]}),
        (("ucf101", "msrvtt", "mine"), {"zero_shot": ["msrvtt", "ucf101"]}),
        (("webvid_val",), {"in_domain": ["webvid_val"]}),
        (("mine",), {}),
    ],
)
def test_panels_are_of_the_data_sets_that_are_there(data_sets, panels):
    found = panels_of(data_sets)
    there = {panel.name: [one.data_set for one in panel.measures] for panel in found}
    assert there == panels
    outcomes = pd.DataFrame({"data_set": pd.Categorical([*data_sets, *data_sets])})
    if panels:
        assert measures.panels_in(outcomes) == found
        listed = [name for sets in panels.values() if len(sets) > 1 for name in sets]
        assert list(measures.scopes_of(found)) == [*panels, *listed]
    else:
        with pytest.raises(ValueError, match="of mine make no panel; measure one of webvid_val"):
            measures.panels_in(outcomes)


@pytest.mark.parametrize(
    ("preferred", "data_sets", "shown"),
    [
        ("mit", ("ucf101", "mit"), "mit"),
        ("mit", ("ucf101", "msrvtt"), "ucf101"),
        ("mit", ("webvid_val", "msrvtt", "mine"), None),
        ("msrvtt", ("webvid_val", "youcook2"), "youcook2"),
        ("msrvtt", ("webvid_val", "mit"), "webvid_val"),
        ("msrvtt", ("mit", "ucf101"), None),
    ],
)
def test_a_figure_of_one_set_takes_the_next_of_its_kind(preferred, data_sets, shown):
    assert measures.shown_on(preferred, data_sets) == shown


def test_the_studies_are_of_what_is_there():
    def names(*data_sets):
        return [measure.data_set for measure in measures.share_measures(data_sets)]

    assert names(*ALL) == ["mit", "ucf101", "msrvtt", "youcook2", "didemo"]
    assert set(measures.share_measures()) == set(ZERO_SHOT.measures)
    assert names("webvid_val", "didemo", "ucf101", "mine") == ["ucf101", "didemo"]
    assert names("webvid_val", "mine") == ["webvid_val"]
    assert measures.size_measure("ucf101") == Measure("ucf101", CLASSIFICATION, 1)
    assert measures.size_measure("webvid_val") == SIZE_MEASURE
    with pytest.raises(ValueError, match="none of the paper's"):
        measures.size_measure("mine")
    assert "as in the paper" in measures.size_study_in_words(SIZE_MEASURE)


@pytest.mark.parametrize(
    ("data_sets", "said", "unsaid"),
    [
        (
            ("webvid_val", "msrvtt"),
            ["didemo, youcook2, mit, ucf101", "of 1 (msrvtt)", "Figure 1 is left out", "for each"],
            ["webvid_val is not", "Figure 2"],
        ),
        (
            ("mit", "ucf101", "mine"),
            ["webvid_val is not measured", "of 2 (mit, ucf101)", "Figure 2 is left out", "mine: "],
            ["Figure 1"],
        ),
        (
            ("youcook2", "ucf101"),
            ["Figure 1 is of ucf101", "Figure 2 is of youcook2", "is left out (not measured: msr"],
            ["chosen on no other"],
        ),
        (("webvid_val",), ["No zero-shot data set is measured"], ["chosen on no other"]),
        (("didemo",), ["chosen on no other, and the section is left out"], []),
    ],
)
def test_what_is_left_out_is_said(data_sets, said, unsaid):
    lines = measures.left_out(data_sets)
    lines += measures.left_out_of_figures(data_sets, ("msrvtt", "mit"))
    text = "\n".join(lines)
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


def test_what_the_studies_lack_is_said_and_nothing_of_the_papers_data_sets():
    assert measures.left_out(ALL) == measures.left_out_of_shares(ALL[1:]) == []
    assert measures.left_out_of_figures(ALL, ("msrvtt", "mit")) == []
    assert measures.left_out_of_sizes("webvid_val") == []
    assert "there is no webvid_val" in measures.left_out_of_sizes("msrvtt")[0]
    assert "left out of this study" in measures.left_out_of_shares(["webvid_val", "didemo"])[-1]
