"""Figures, tables and tests of a sweep over some of the paper's data sets, against plain counts."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from figures import alpha_curve, beyond, comparisons, label_share, subset_size, whole_curve
from figures.alpha_curve import PANELS
from figures.paper import paper_values
from figures.table_formats import headline_numbers
from fitclip_kit.store.results import CLASSIFICATION, Cell, typed

ALPHAS, DRAWS, ITEMS = (0.0, 0.4, 1.0), (1, 2), 12
SHOWN = {"webvid_val": 5, "didemo": 5, "msrvtt": 5, "youcook2": 5, "mit": 1, "ucf101": 1}
ALL = tuple(SHOWN)
ACTIONS = ("mit", "ucf101")
SUBSETS = {
    "all": ALL,
    "as the sources file advises": ("webvid_val", "msrvtt"),
    "without the domain": ("ucf101", "msrvtt"),
    "one zero-shot set": ("didemo",),
    "actions alone": ("ucf101", "mit"),
    "the domain alone": ("webvid_val",),
    "with one's own": ("webvid_val", "mine", "mit", "youcook2"),
}
subsets = pytest.mark.parametrize("data_sets", SUBSETS.values(), ids=SUBSETS)


def sweep(data_sets: tuple[str, ...], seed: int = 0) -> pd.DataFrame:
    """Ranks drawn at random for the teacher and two students at two alphas."""
    rng = np.random.default_rng(seed)
    tables = []
    for name, alpha in itertools.product(data_sets, ALPHAS):
        kinds = (CLASSIFICATION,) if name in ACTIONS else ("text_to_video", "video_to_text")
        for draw, direction in itertools.product(DRAWS if alpha else (-1,), kinds):
            key = Cell(alpha=alpha, labelled_share=1, labelled_clips=9, draw=draw, data_set=name)
            ranks = rng.integers(1, 11, ITEMS).astype(float)
            table = pd.DataFrame({"item": [f"clip{i:02d}" for i in range(ITEMS)], "rank": ranks})
            table["label"] = [f"class {i % 4}" for i in range(ITEMS)]
            tables.append(table.assign(direction=direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def share(outcomes: pd.DataFrame, data_set: str, alpha: float) -> float:
    """The mean over draws of the shown share, counted row by row."""
    direction = CLASSIFICATION if data_set in ACTIONS else "text_to_video"
    columns = [outcomes[name].tolist() for name in ("data_set", "direction", "alpha", "rank")]
    found = [
        rank <= SHOWN[data_set]
        for *where, rank in zip(*columns, strict=True)
        if where == [data_set, direction, alpha]
    ]
    return sum(found) / len(found)


def expected(data_sets: tuple[str, ...]) -> dict[str, list[str]]:
    """Panel -> its data sets, in the paper's order."""
    there = [name for name in ALL if name in data_sets]
    panels = {"in_domain": there[:1] if "webvid_val" in there else []}
    panels["zero_shot"] = [name for name in there if name != "webvid_val"]
    return {name: sets for name, sets in panels.items() if sets}


@subsets
def test_curves_are_the_means_of_what_is_there(data_sets: tuple[str, ...]) -> None:
    outcomes = sweep(data_sets)
    table = alpha_curve.alpha_table(outcomes, n_resamples=20)
    panels = expected(data_sets)
    assert list(dict.fromkeys(table["panel"])) == list(panels)
    for row in table.to_dict("records"):
        sets = panels[row["panel"]]
        mean = np.mean([share(outcomes, name, row["alpha"]) for name in sets])
        assert row["value"] == pytest.approx(mean)
        assert row["n"] == ITEMS * len(sets)


@subsets
def test_figure_3_says_of_how_many_sets_it_is(data_sets: tuple[str, ...]) -> None:
    panels = expected(data_sets)
    outcomes = sweep(data_sets)
    figure = alpha_curve.alpha_curve(outcomes, n_resamples=20)
    legends = [legend for ax in figure.axes if (legend := ax.get_legend())]
    titles = [legend.get_title().get_text() for legend in legends]
    if len(panels) == 2:
        titles = [title.partition(") ")[2] for title in titles]
    names = {"in_domain": "In-domain", "zero_shot": "Zero-shot"}
    assert titles == [
        f"{names[panel]} ({sets[0]})"
        if len(sets) == 1
        else f"{names[panel]}, mean of {len(sets)} data sets"
        for panel, sets in panels.items()
    ]
    kinds = {
        ax.get_ylabel(): {name in ACTIONS for name in sets}
        for ax, sets in zip(figure.axes, panels.values(), strict=True)
    }
    for label, actions in kinds.items():
        assert ("top-1" in label.lower(), "R@5" in label) == (True in actions, False in actions)


@subsets
def test_comparisons_are_of_what_is_there(data_sets: tuple[str, ...]) -> None:
    outcomes = sweep(data_sets)
    panels = expected(data_sets)
    scopes = panels | {name: [name] for sets in panels.values() if len(sets) > 1 for name in sets}
    table = comparisons.fusion_comparisons(outcomes, 0.4, n_resamples=50)
    assert list(dict.fromkeys(table["scope"])) == list(scopes)
    for row in table.to_dict("records"):
        end = {"teacher": 0.0, "student": 1.0}[row["versus"]]
        gains = [
            share(outcomes, name, 0.4) - share(outcomes, name, end) for name in scopes[row["scope"]]
        ]
        assert row["difference"] == pytest.approx(np.mean(gains), abs=1e-12)
    assert f"for {2 * len(scopes)} comparisons" in comparisons.verdict(table)


@subsets
def test_bands_and_choices_are_of_what_is_there(data_sets: tuple[str, ...]) -> None:
    outcomes, panels = sweep(data_sets), expected(data_sets)
    bands = whole_curve.band_table(outcomes, n_resamples=20)
    assert list(dict.fromkeys(bands["panel"])) == list(panels)
    figure = whole_curve.band_curve(bands, alpha_curve.panels_of(data_sets))
    assert len(figure.axes) == len(panels)
    chosen = whole_curve.selection_table(outcomes, n_resamples=20)
    others = panels.get("zero_shot", [])
    rows = [*(["in_domain"] if "in_domain" in panels else []), *(others if others[1:] else [])]
    assert chosen["scope"].tolist() == rows
    words = whole_curve.selection_in_words(chosen)
    assert ("nothing to choose" in words) == (not rows)
    if len(others) == 2:
        assert set(chosen["chosen_on"][-2:]) == {"the other zero-shot set"}


@subsets
def test_both_directions_are_of_the_retrieval_sets_that_are_there(
    data_sets: tuple[str, ...],
) -> None:
    outcomes = sweep(data_sets)
    if not any(name not in ACTIONS for sets in expected(data_sets).values() for name in sets):
        with pytest.raises(ValueError, match="no retrieval"):
            beyond.direction_comparisons(outcomes, n_resamples=20)
        return
    table = beyond.direction_comparisons(outcomes, n_resamples=20)
    named = set(table["scope"]) - {"in_domain", "zero_shot", "zero_shot_retrieval"}
    assert named <= set(data_sets) - {*ACTIONS, "mine"}
    assert len(beyond.difference_plot(table).axes) == 1


def test_all_of_the_papers_data_sets_make_the_papers_panels() -> None:
    assert alpha_curve.panels_of(ALL[::-1]) == PANELS
    assert [panel.title for panel in PANELS] == [
        "In-domain (webvid_val)",
        "Zero-shot, mean of 5 data sets",
    ]
    assert [panel.axis for panel in PANELS] == [
        "Text-to-video R@5 (%)",
        "Mean of R@5 and top-1 (%)",
    ]
    assert alpha_curve.left_out(ALL) == label_share.left_out(ALL[1:]) == []
    assert beyond.left_out(ALL, ("msrvtt", "mit")) == subset_size.left_out("webvid_val") == []


def test_no_known_data_set_is_refused() -> None:
    assert alpha_curve.panels_of(["mine"]) == ()
    with pytest.raises(ValueError, match="outcomes of mine make no panel; measure one of webvid"):
        alpha_curve.alpha_table(sweep(("mine",)))
    with pytest.raises(ValueError, match="none of the paper's"):
        subset_size.measure_of("mine")


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
def test_a_figure_of_one_set_takes_the_next_of_its_kind(
    preferred: str, data_sets: tuple[str, ...], shown: str | None
) -> None:
    assert alpha_curve.shown_on(preferred, data_sets) == shown


def test_the_studies_are_of_what_is_there() -> None:
    def names(*data_sets: str) -> list[str]:
        return [one.data_set for one in label_share.measures_of(data_sets)]

    assert names(*ALL) == ["mit", "ucf101", "msrvtt", "youcook2", "didemo"]
    assert names("webvid_val", "didemo", "ucf101", "mine") == ["ucf101", "didemo"]
    assert names("webvid_val", "mine") == ["webvid_val"]
    measure = subset_size.measure_of("ucf101")
    assert (measure.direction, measure.k) == (CLASSIFICATION, 1)
    assert subset_size.measure_of("webvid_val") == subset_size.IN_DOMAIN_R1


def test_one_set_has_no_mean_beside_it() -> None:
    tables = [sweep(("didemo",))]
    tables.append(tables[0].assign(labelled_share=tables[0]["labelled_share"] * 0.9999))
    outcomes = pd.concat(tables).drop_duplicates()
    measures = label_share.measures_of(["didemo"])
    table = label_share.share_table(outcomes, measures=measures, n_resamples=20)
    assert set(table["scope"]) == {"didemo"}
    assert len(label_share.label_share(outcomes, measures=measures, n_resamples=20).axes) == 1


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
def test_what_is_left_out_is_said(
    data_sets: tuple[str, ...], said: list[str], unsaid: list[str]
) -> None:
    lines = alpha_curve.left_out(data_sets) + beyond.left_out(data_sets, ("msrvtt", "mit"))
    text = "\n".join(lines)
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text
    assert "there is no webvid_val" in subset_size.left_out("msrvtt")[0]
    assert "left out of this study" in label_share.left_out(["webvid_val", "didemo"])[-1]


def test_the_headline_has_the_sets_that_were_measured() -> None:
    rows = paper_values().rename(columns={"value": "paper"})
    found = rows.assign(value=rows["paper"] + 1, ci_low=0.0, ci_high=1.0, n=10, clips=10)
    found.loc[~found["data_set"].isin(["msrvtt", "ucf101"]), "value"] = np.nan
    assert headline_numbers(found).index.tolist() == ["MSR-VTT, R@5", "UCF101, Top 1"]
