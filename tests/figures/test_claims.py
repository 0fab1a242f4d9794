"""The paper's claims, tested on outcomes that are made so that the answer is known."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from figures.alpha_curve import IN_DOMAIN, ZERO_SHOT
from figures.claims import (
    CANNOT,
    CONSISTENT,
    FAILS,
    HOLDS,
    KINDS,
    NOT_MEASURED,
    UNDECIDED,
    VERDICTS,
    claims_printed,
    claims_table,
    claims_text,
    read_claims,
)
from figures.comparisons import fusion_comparisons
from figures.label_share import MEASURES
from figures.paper import paper_values
from figures.study_comparisons import share_comparisons
from figures.subset_size import IN_DOMAIN_R1
from fitclip_kit.store.results import Cell, typed

SWEPT = [*IN_DOMAIN.measures, *ZERO_SHOT.measures]
ALPHAS = (0, 0.2, 0.3, 0.4, 1)
FLIPS = 2000


def cell(measure, ranks, alpha, seed, *, share=0.9999, size=20, labels="a"):
    key = Cell(
        alpha=alpha, labelled_share=share, labelled_clips=size, draw=seed, data_set=measure.data_set
    )
    table = pd.DataFrame({"item": [f"clip{place:04d}" for place in range(len(ranks))]})
    table["rank"] = np.asarray(ranks, dtype=float)
    return typed(table.assign(direction=measure.direction, label=labels, **vars(key)))


def as_ranks(hits, measure):
    return np.where(hits, float(measure.k), measure.k + 3.0)


def sweep(hits_of, *, measures=SWEPT, alphas=ALPHAS, draws=(0, 1, 2), items=60, **training):
    """Outcomes with hits_of(data set, alpha, draw) -> [items] of whether it is a hit."""
    return pd.concat(
        [
            cell(
                measure,
                as_ranks(hits_of(measure.data_set, alpha, draw)[:items], measure),
                alpha,
                draw,
                **training,
            )
            for measure in measures
            for alpha in alphas
            for draw in ((-1,) if alpha == 0 else draws)
        ],
        ignore_index=True,
    )


def first(count, items=60):
    return np.arange(items) < count


def better_fused(data_set, alpha, draw):
    """The fused model has 50 of 60, both ends 20, everywhere."""
    return first(20 if alpha in (0, 1) else 50)


def rows_of(table):
    return {row["name"]: row for row in table.to_dict("records")}


def judged(*outcomes, **settings):
    return rows_of(claims_table(*outcomes, **{"n_resamples": FLIPS, **settings}))


# A sweep without the alpha of fusion: it only says how many clips its students had.
STUDENTS = sweep(better_fused, measures=SWEPT[-1:], alphas=(0, 1))


@pytest.fixture(scope="module")
def clear():
    return claims_table(sweep(better_fused), n_resamples=FLIPS)


# The claims as data


def test_claims_are_complete_and_distinct():
    claims = read_claims()
    names = [claim.name for claim in claims]
    assert len(set(names)) == len(names) == 33
    assert len({claim.claim for claim in claims}) == 33
    assert not [claim.claim for claim in claims if claim.claim.endswith(".")]
    fusion = {
        (claim.settings["scope"], claim.settings["versus"])
        for claim in claims
        if claim.test == "fusion"
    }
    scopes = {"in_domain", "zero_shot", *(one.data_set for one in ZERO_SHOT.measures)}
    assert fusion == {(scope, end) for scope in scopes for end in ("teacher", "student")}


def test_constants_are_told_from_phenomena():
    kinds = {claim.name: claim.kind for claim in read_claims()}
    assert set(kinds.values()) == set(KINDS)
    constants = {name for name, kind in kinds.items() if kind == "constant"}
    places = {
        f"{scope}_{what}" for scope in ("in_domain", "zero_shot") for what in ("best", "close")
    }
    assert constants == places | {"best_size"}


def test_the_side_claimed_is_that_of_the_papers_own_numbers(clear):
    values = paper_values()
    for claim in read_claims():
        if isinstance(claim.paper, str):
            continue
        sides = []
        for model in (claim.paper["of"], claim.paper["minus"]):
            rows = values[values["model"] == model]
            rows = rows[rows["metric"].isin(["R@5", "top1"])].drop_duplicates("data_set")
            chosen = claim.paper.get("data_sets", [one.data_set for one in ZERO_SHOT.measures])
            sides.append(rows.set_index("data_set")["value"][list(chosen)].mean())
        difference = sides[0] - sides[1]
        if "margin" in claim.settings:
            assert abs(difference) <= claim.settings["margin"]
        else:
            assert claim.settings["expected"] == ("higher" if difference > 0 else "lower")
        printed = rows_of(clear)[claim.name]["paper"]
        assert printed == f"{difference:+.1f}".replace("-", "−") + (
            f" points ({sides[0]:.1f} − {sides[1]:.1f})"
        )


def test_evidence_read_off_the_page(clear):
    found = rows_of(clear)
    assert found["msrvtt_teacher"]["paper"] == "+4.7 points (59.8 − 55.1)"
    assert found["ucf101_teacher"]["paper"] == "−1.2 points (73.3 − 74.5)"
    assert found["pseudo_labels_didemo"]["paper"] == "−1.7 points (53.7 − 55.4)"
    # (53.7 + 59.8 + 15.5 + 21.8 + 73.3) / 5 and the same of CLIP.
    assert found["overall_teacher"]["paper"] == "+2.0 points (44.8 − 42.8)"
    assert found["zero_shot_best"]["paper"] == "best at α = 0.2"


# Fusion


def test_verdicts_of_fusion(clear):
    found = rows_of(clear)
    fusion = {claim.name: claim for claim in read_claims() if claim.test == "fusion"}
    assert len(fusion) == 14
    for name, claim in fusion.items():
        expected = HOLDS if claim.settings["expected"] == "higher" else FAILS
        assert found[name]["verdict"] == expected, name
        assert found[name]["measured"] == pytest.approx(50)
        assert found[name]["draws"] == 3
    assert [name for name in fusion if found[name]["verdict"] == FAILS] == ["ucf101_teacher"]
    assert found["msrvtt_teacher"]["n"] == 60 and found["overall_teacher"]["n"] == 300


def test_numbers_are_those_of_the_fusion_comparisons():
    rng = np.random.default_rng(0)
    outcomes = sweep(lambda data_set, alpha, draw: rng.random(60) < 0.3 + 0.4 * alpha)
    found = judged(outcomes, n_resamples=300, seed=5)
    table = fusion_comparisons(outcomes, n_resamples=300, seed=5)
    rows = table.set_index(["scope", "versus"]).to_dict("index")
    claims = [claim for claim in read_claims() if claim.test == "fusion"]
    assert len(claims) == len(rows)
    for claim in claims:
        row = rows[claim.settings["scope"], claim.settings["versus"]]
        one = found[claim.name]
        for name, other in {
            "measured": "difference",
            "ci_low": "ci_low",
            "ci_high": "ci_high",
        }.items():
            assert one[name] == pytest.approx(100 * row[other])
        assert one["p_value"] == row["p_value"]


def test_p_values_are_corrected_for_all_claims_that_have_one(clear):
    tested = clear[clear["p_value"].notna()].sort_values("p_value", kind="stable")
    factors = np.arange(len(tested), 0, -1)
    expected = np.minimum(np.maximum.accumulate(tested["p_value"] * factors), 1)
    np.testing.assert_allclose(tested["p_holm"], expected)
    assert len(tested) == 16  # of fusion, the rank curve's and the classes'
    assert clear.loc[clear["p_value"].isna(), "p_holm"].isna().all()


def test_students_that_disagree_decide_nothing():
    # Two draws gain much, one loses.
    outcomes = sweep(
        lambda data_set, alpha, draw: first(
            {0: 55, 1: 55, 2: 5}[draw] if alpha not in (0, 1) else 20
        ),
        measures=SWEPT[-1:],
    )
    one = judged(outcomes)["ucf101_student"]
    assert one["p_holm"] > 0.05 and one["ci_low"] < 0 < one["measured"]
    assert one["verdict"] == UNDECIDED


@pytest.mark.parametrize(
    "there",
    [
        *[[one.data_set] for one in SWEPT],
        ["webvid_val", "msrvtt"],
        ["msrvtt", "ucf101"],
        ["webvid_val", "mit", "youcook2"],
        ["didemo", "msrvtt", "youcook2", "ucf101"],
        [one.data_set for one in ZERO_SHOT.measures],
    ],
    ids=" ".join,
)
def test_any_data_sets_leave_the_claims_on_others_open(there):
    measures = [one for one in SWEPT if one.data_set in there]
    table = claims_table(sweep(better_fused, measures=measures), n_resamples=50)
    found = rows_of(table)
    whole = set(there) >= {one.data_set for one in ZERO_SHOT.measures}
    for claim in read_claims():
        scope = claim.settings.get("scope", claim.settings.get("data_set"))
        scope = {"classes_differ": "mit"}.get(claim.name, scope)
        needed = {"in_domain": "webvid_val"}.get(scope, scope)
        open_here = needed not in there and not (whole and needed == "zero_shot")
        one = found[claim.name]
        if claim.test == "untested":
            assert one["verdict"] == CANNOT
        elif claim.name.startswith("pseudo_labels") or open_here:  # there is no such study here
            assert one["verdict"] == NOT_MEASURED, claim.name
            assert np.isnan([one[name] for name in ("measured", "ci_low", "p_value")]).all()
        else:
            assert one["verdict"] != NOT_MEASURED, claim.name
            assert claim.test == "class_spread" or not np.isnan(one["measured"])
    assert claims_text(table) and len(claims_printed(table)) == 33


def test_the_mean_of_some_data_sets_is_not_the_papers_mean_of_five():
    models = references({"webvid": 20, "cc3m_webvid": 50, "cc3m_webvid_coco": 50})
    models = models[models["data_set"] != "didemo"]
    measures = [one for one in SWEPT if one.data_set != "didemo"]
    study = shares({one.data_set: (20, 50) for one in MEASURES[:2]}, MEASURES[:2])
    found = judged(sweep(better_fused, measures=measures), study, None, models, n_resamples=50)
    of_five = [claim for claim in read_claims() if claim.settings.get("scope") == "zero_shot"]
    of_five += [claim for claim in read_claims() if claim.test == "references"]
    assert len(of_five) == 6
    assert {found[claim.name]["verdict"] for claim in of_five} == {NOT_MEASURED}
    studied = {f"pseudo_labels_{one.data_set}" for one in MEASURES[:2]}
    for claim in read_claims():
        if claim.name.startswith("pseudo_labels"):
            assert (found[claim.name]["verdict"] == NOT_MEASURED) == (claim.name not in studied)


def test_an_unmeasured_alpha_leaves_fusion_open():
    table = claims_table(sweep(better_fused, alphas=(0, 0.2, 0.3, 1)), n_resamples=50)
    verdicts = table.set_index("name")["verdict"]
    claims = read_claims()
    assert set(verdicts[[one.name for one in claims if one.test == "fusion"]]) == {NOT_MEASURED}
    assert verdicts["in_domain_best"] != NOT_MEASURED  # of other alphas, which are there


def test_without_students_nothing_is_measured():
    table = claims_table(sweep(better_fused, alphas=(0,)))
    untested = {claim.name for claim in read_claims() if claim.test == "untested"}
    verdicts = table.set_index("name")["verdict"]
    assert set(verdicts[verdicts != NOT_MEASURED].index) == untested
    assert set(verdicts[list(untested)]) == {CANNOT}
    assert "**Phenomena: cannot be decided here**\n\n- Trained on the whole" in claims_text(table)
    assert "the study stops at subsets" in claims_text(table)


def test_an_unfinished_sweep_is_refused_and_not_taken_for_unmeasured():
    outcomes = sweep(better_fused)
    hole = (outcomes["alpha"] == 0.4) & (outcomes["draw"] == 2) & (outcomes["data_set"] == "mit")
    with pytest.raises(ValueError, match="finish the sweep"):
        claims_table(outcomes[~hole], n_resamples=50)


# The best alpha


def peak(counts):
    return lambda data_set, alpha, draw: first(counts[alpha])


@pytest.mark.parametrize(
    ("at_03", "at_02", "at_04", "verdict", "measured", "left"),
    [
        (55, 20, 25, HOLDS, 50, "0.3"),
        (20, 55, 25, FAILS, -175 / 3, "0.2"),
        (50, 51, 20, CONSISTENT, -5 / 3, "0.2, 0.3"),
        (50, 49, 20, CONSISTENT, 5 / 3, "0.2, 0.3"),
        (40, 40, 20, CONSISTENT, 0, "0.2, 0.3"),
        (15, 15, 15, UNDECIDED, 0, "0, 0.2, 0.3, 0.4, 1"),
    ],
)
def test_the_best_alpha(at_03, at_02, at_04, verdict, measured, left):
    ends = (15, 15) if verdict == UNDECIDED else (15, 10)
    counts = {0: ends[0], 0.2: at_02, 0.3: at_03, 0.4: at_04, 1: ends[1]}
    found = judged(sweep(peak(counts), measures=IN_DOMAIN.measures))
    one = found["in_domain_best"]
    assert one["verdict"] == verdict
    assert one["measured"] == pytest.approx(measured, abs=1e-9)
    assert one["ci_low"] <= one["measured"] <= one["ci_high"] or verdict == FAILS
    assert one["ci_low"] <= 0 <= one["ci_high"]
    assert np.isnan(one["p_value"]) and one["decided_by"].startswith("Hsu's comparisons")
    best = max((count, -alpha) for alpha, count in counts.items())[1]
    assert one["found"] == (f"not shown worse than the best: α = {left}; highest: α = {-best:g}")


@pytest.mark.parametrize(
    ("heights", "verdict"),
    [
        ({0: 0.0, 0.2: 0.34, 0.3: 0.35, 0.4: 0.34, 1: -0.1}, CONSISTENT),
        ({0: 0.0, 0.2: 0.5, 0.3: 0.2, 0.4: 0.3, 1: -0.1}, FAILS),
    ],
)
def test_the_best_of_near_neighbours_is_consistent_and_a_far_one_refuted(heights, verdict):
    """On 1,000 clips an alpha is not told from neighbours that differ by tenths of a point."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=1000)
    noise = {draw: 0.1 * rng.normal(size=1000) for draw in (0, 1, 2)}

    def hits(data_set, alpha, draw):
        return difficulty + (0 if alpha == 0 else alpha * noise[draw]) < heights[alpha]

    one = judged(sweep(hits, measures=IN_DOMAIN.measures, items=1000))["in_domain_best"]
    assert one["verdict"] == verdict


@pytest.mark.parametrize(
    ("others", "at_04", "verdict", "measured"),
    [
        (20, 50, HOLDS, 0),  # it is the best
        (50, 20, FAILS, 50),
        (50, 48, CANNOT, 10 / 3),  # of 60 items, no difference could be shown to be so small
        (50, 50, UNDECIDED, 0),  # nothing differs, which says little of 60 items
    ],
)
def test_an_alpha_close_to_the_best(others, at_04, verdict, measured):
    counts = {0: 15, 0.2: others, 0.3: others, 0.4: at_04, 1: 10}
    one = judged(sweep(peak(counts), measures=IN_DOMAIN.measures))["in_domain_close"]
    assert one["verdict"] == verdict
    assert one["measured"] == pytest.approx(measured, abs=1e-9)
    assert 0 <= one["ci_low"] <= one["measured"] <= one["ci_high"]
    assert one["level"] == pytest.approx(0.9)
    assert "1 point" in one["decided_by"]
    assert ("a margin of 1 cannot be shown" in one["found"]) == (verdict in (CANNOT, FAILS))


@pytest.mark.parametrize(("behind", "verdict"), [(10, HOLDS), (50, UNDECIDED), (200, FAILS)])
def test_close_comes_out_either_way_on_enough_items(behind, verdict):
    items = 5000  # of which 50 are a point
    counts = {0: 500, 0.2: 4000, 0.3: 2500, 0.4: 4000 - behind, 1: 500}
    outcomes = sweep(
        lambda data_set, alpha, draw: first(counts[alpha], items),
        measures=IN_DOMAIN.measures,
        items=items,
    )
    assert judged(outcomes)["in_domain_close"]["verdict"] == verdict


# Studies


def sizes(counts, *, draws=(500, 501, 1000), items=60):
    """Outcomes with counts[size] hits; size 0 is the teacher."""
    return pd.concat(
        [
            cell(
                IN_DOMAIN_R1,
                as_ranks(first(count, items), IN_DOMAIN_R1),
                0.4 if size else 0,
                draw,
                share=1,
                size=size,
            )
            for size, count in counts.items()
            for draw in (draws if size else (-1,))
        ],
        ignore_index=True,
    )


@pytest.mark.parametrize(
    ("counts", "best", "largest", "left"),
    [
        ({0: 10, 10: 20, 20: 50, 40: 15}, HOLDS, HOLDS, "20"),
        ({0: 10, 10: 20, 20: 15, 40: 50}, FAILS, FAILS, "40"),
        ({0: 10, 10: 30, 20: 30, 40: 30}, CONSISTENT, UNDECIDED, "10, 20, 40"),
        ({0: 30, 10: 30, 20: 30, 40: 30}, UNDECIDED, UNDECIDED, "0, 10, 20, 40"),
        ({0: 50, 10: 20, 20: 30, 40: 30}, FAILS, UNDECIDED, "0"),  # the teacher is no subset
        ({0: 10, 10: 50, 20: 20, 40: 15}, FAILS, HOLDS, "10"),  # not the paper's number
    ],
)
def test_subset_sizes(counts, best, largest, left):
    found = judged(STUDENTS, None, sizes(counts))
    one, other = found["best_size"], found["largest_size"]
    assert (one["verdict"], other["verdict"]) == (best, largest)
    rival = max(count for size, count in counts.items() if size != 20)
    assert one["measured"] == pytest.approx(100 * (counts[20] - rival) / 60)
    rival = max(counts[size] for size in (10, 20))
    assert other["measured"] == pytest.approx(100 * (counts[40] - rival) / 60)
    start = f"20 clips stand for 4,500; not shown worse than the best: {left}; highest: "
    assert one["found"].startswith(start)
    assert other["found"].startswith("the largest is 40 clips; not shown worse than the best: ")


def test_subset_sizes_without_the_sweeps_own_stay_open():
    found = judged(STUDENTS, None, sizes({0: 10, 10: 20, 40: 30}), n_resamples=50)
    assert found["best_size"]["verdict"] == found["largest_size"]["verdict"] == NOT_MEASURED
    found = judged(STUDENTS, None, sizes({0: 10, 10: 20, 20: 30}), n_resamples=50)
    assert found["largest_size"]["verdict"] == NOT_MEASURED
    assert found["best_size"]["verdict"] != NOT_MEASURED


def test_subset_sizes_with_other_draws_are_refused():
    mixed = pd.concat([sizes({0: 9, 10: 9, 20: 9}), sizes({40: 9}, draws=(500,))])
    with pytest.raises(ValueError, match="students of size"):
        claims_table(STUDENTS, None, mixed, n_resamples=50)


def shares(counts, measures=MEASURES, items=60):
    """Outcomes with counts[data set] = (hits with labels alone, hits with pseudo-labels)."""
    return pd.concat(
        [
            cell(measure, as_ranks(first(hits, items), measure), 0.4, draw, share=share)
            for measure in measures
            for share, hits in zip((1, 0.9999), counts[measure.data_set], strict=True)
            for draw in (0, 1, 2)
        ]
        + [cell(measure, as_ranks(first(9, items), measure), 0, -1) for measure in measures],
        ignore_index=True,
    )


def test_label_shares():
    counts = {
        **{"youcook2": (20, 50), "ucf101": (50, 20), "msrvtt": (30, 30)},
        **{"didemo": (50, 20), "mit": (30, 30)},
    }
    study = shares(counts)
    found = judged(STUDENTS, study)
    verdicts = {name: found[f"pseudo_labels_{name}"]["verdict"] for name in counts}
    assert verdicts == {
        **{"youcook2": HOLDS, "ucf101": FAILS, "msrvtt": UNDECIDED},
        **{"didemo": HOLDS, "mit": UNDECIDED},
    }
    rows = share_comparisons(study, n_resamples=FLIPS).set_index("scope")
    for name, (alone, both) in counts.items():
        one = found[f"pseudo_labels_{name}"]
        assert one["measured"] == pytest.approx(100 * (both - alone) / 60)
        if name != "msrvtt":
            assert one["p_value"] == rows.loc[name, "p_value"]
    assert np.isnan(found["pseudo_labels_msrvtt"]["p_value"])


@pytest.mark.parametrize(
    ("hits", "items", "verdict"),
    [
        ((20, 50), 60, FAILS),
        ((30, 32), 60, CANNOT),
        ((30, 30), 60, UNDECIDED),  # nothing differs, which says little of 60 items
        ((500, 501), 2000, HOLDS),
        ((500, 520), 2000, UNDECIDED),
        ((500, 560), 2000, FAILS),
    ],
)
def test_similar_means_within_a_margin(hits, items, verdict):
    measures = [one for one in MEASURES if one.data_set == "msrvtt"]
    study = shares({"msrvtt": hits}, measures, items)
    found = judged(STUDENTS, study, n_resamples=100)
    one = found["pseudo_labels_msrvtt"]
    assert one["verdict"] == verdict
    assert found["pseudo_labels_mit"]["verdict"] == NOT_MEASURED
    # Two one-sided tests at 5%: the interval of level 90%.
    table = share_comparisons(study, measures=measures, n_resamples=100, level=0.9)
    ends = 100 * table[["ci_low", "ci_high"]].to_numpy()[0]
    assert [one["ci_low"], one["ci_high"]] == pytest.approx(ends.tolist())
    assert one["level"] == pytest.approx(0.9)
    if verdict == CANNOT:
        least = f"{(ends[1] - ends[0]) / 2:.2f}"
        assert one["found"] == (
            f"a margin of 1 cannot be shown at this size, none below {least} can"
        )


def test_a_study_without_the_papers_share_stays_open():
    measures = [one for one in MEASURES if one.data_set in ("mit", "ucf101")]
    study = shares({"mit": (20, 50), "ucf101": (20, 50)}, measures)
    other = np.isclose(study["labelled_share"], 0.9999) & (study["data_set"] == "mit")
    study.loc[other, "labelled_share"] = 0.999
    found = judged(STUDENTS, study)
    assert found["pseudo_labels_mit"]["verdict"] == NOT_MEASURED
    assert found["pseudo_labels_ucf101"]["verdict"] == HOLDS


# Ranks, classes, references


def ranked(teacher, fused):
    """A sweep on MSR-VTT with these ranks of the teacher, and of fusion and student."""
    (measure,) = (one for one in SWEPT if one.data_set == "msrvtt")
    cells = [cell(measure, teacher, 0, -1)]
    cells += [cell(measure, fused, alpha, draw) for alpha in (0.4, 1) for draw in (0, 1, 2)]
    return pd.concat(cells, ignore_index=True)


RANKS = np.arange(1, 61) * 8.0


def test_half_the_rank_everywhere_is_virtually_all():
    one = judged(ranked(RANKS, RANKS / 2))["rank_curve"]
    assert one["verdict"] == HOLDS
    assert (one["measured"], one["unit"]) == (pytest.approx(-50), "% of the rank")
    assert one["found"].startswith("of the curve's positions 100.0% are below")


def test_twice_the_rank_is_refuted():
    assert judged(ranked(RANKS, RANKS * 2))["rank_curve"]["verdict"] == FAILS


def test_curves_that_cross_are_refuted_although_ranks_are_better_on_average():
    fused = np.where(RANKS < 240, 1, RANKS * 1.7)
    one = judged(ranked(RANKS, fused))["rank_curve"]
    assert one["p_holm"] < 0.05 and one["ci_high"] < 0
    assert one["verdict"] == FAILS


def test_curves_that_cross_a_little_are_undecided():
    fused = np.where(RANKS < 430, RANKS / 2, RANKS + 8)  # above at a tenth of the positions
    one = judged(ranked(RANKS, fused))["rank_curve"]
    assert one["p_holm"] < 0.05 and one["ci_high"] < 0
    assert one["verdict"] == UNDECIDED


def actions(labels, hits):
    """A sweep on Moments in Time: hits (teacher's, fused) of a class."""
    (measure,) = (one for one in SWEPT if one.data_set == "mit")
    sides = [np.concatenate([first(hits[one][side], 20) for one in labels]) for side in (0, 1)]
    names = np.repeat(labels, 20)
    cells = [cell(measure, as_ranks(sides[0], measure), 0, -1, labels=names)]
    for alpha in (0.4, 1):
        for draw in (0, 1, 2):
            cells.append(cell(measure, as_ranks(sides[1], measure), alpha, draw, labels=names))
    return pd.concat(cells, ignore_index=True)


def test_classes_that_the_paper_names():
    hits = {"preaching": (2, 18), "taping": (2, 18), "tapping": (10, 10), "other": (9, 9)}
    found = judged(actions(list(hits), hits))
    one = found["abstract_classes"]
    assert one["verdict"] == HOLDS and one["n"] == 60
    assert one["measured"] == pytest.approx(100 * 32 / 60)
    assert found["common_classes"]["verdict"] == NOT_MEASURED
    hits = {"bicycling": (2, 18), "boxing": (2, 18), "skating": (2, 18)}
    found = judged(actions(list(hits), hits))
    assert found["common_classes"]["verdict"] == FAILS
    assert found["abstract_classes"]["verdict"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("hits", "verdict", "signs"),
    [
        (((19, 1), (1, 19), (9, 9)), HOLDS, (1, 1)),
        (((1, 19), (1, 19), (2, 19)), FAILS, (3, 0)),
        (((19, 1), (19, 1), (18, 0)), FAILS, (0, 3)),
        (((1, 19), (1, 19), (9, 9)), UNDECIDED, (2, 0)),
        (((9, 9), (9, 9), (9, 9)), UNDECIDED, (0, 0)),
        (((9, 11), (11, 9), (9, 9)), UNDECIDED, (1, 1)),
    ],
)
def test_classes_that_differ(hits, verdict, signs):
    names = ["a", "b", "c"]
    one = judged(actions(names, dict(zip(names, hits, strict=True))))["classes_differ"]
    assert one["verdict"] == verdict
    assert one["found"].startswith(
        f"of 3 classes {signs[0]} are higher here and {signs[1]} lower; that classes differ: p "
    )
    # The same, class by class: sums of differences over the roots of their sums of squares.
    squares = {sign: sum(abs(b - a) for a, b in hits if (b - a) * sign > 0) for sign in (1, -1)}
    known = sum(a != b for a, b in hits)
    least = min(squares.values())
    expected = 1.0
    if least:
        freedoms = np.arange(1, known)
        weights = scipy.stats.binom.pmf(freedoms, known - 1, 0.5)
        expected = float(weights @ scipy.stats.chi2.sf(least, freedoms))
    assert one["p_value"] == pytest.approx(expected)


def test_small_classes_of_both_signs_are_told_together():
    """Thirty classes of twenty clips, none of which could be told by itself, and their mirror."""
    names = [f"c{place:02d}" for place in range(30)]
    both = {name: (10, 14) if place % 2 else (10, 6) for place, name in enumerate(names)}
    table = claims_table(actions(names, both), n_resamples=FLIPS)
    one = rows_of(table)["classes_differ"]
    assert one["verdict"] == HOLDS and one["p_holm"] < 0.05
    assert "that classes differ: p < 0.001, by permutation" in one["found"]
    assert f"(section 2, figure 1): p {'< 0.001' if one['p_holm'] < 0.001 else '= '}" in (
        claims_text(table)
    )
    gain = {name: (10, 14) if place % 2 else (10, 10) for place, name in enumerate(names)}
    one = judged(actions(names, gain))["classes_differ"]
    assert one["verdict"] == UNDECIDED and one["p_value"] == 1
    assert "that classes differ: p < 0.001" in one["found"]


def references(counts, items=60):
    tables = []
    for model, count in counts.items():
        for measure in ZERO_SHOT.measures:
            key = Cell(model=f"frozen_in_time_{model}", data_set=measure.data_set)
            table = pd.DataFrame({"item": [f"clip{place:04d}" for place in range(items)]})
            table["rank"] = as_ranks(first(count, items), measure)
            tables.append(table.assign(direction=measure.direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def test_reference_models():
    models = references({"webvid": 20, "cc3m_webvid": 50, "cc3m_webvid_coco": 50})
    found = judged(STUDENTS, None, None, models)
    one, other = found["frozen_in_time_webvid"], found["frozen_in_time_cc3m_webvid"]
    assert (one["verdict"], other["verdict"]) == (HOLDS, UNDECIDED)
    assert (one["measured"], other["measured"]) == (pytest.approx(50), 0)
    assert (one["n"], one["draws"]) == (300, 1)
    two = models[models["model"] != "frozen_in_time_webvid"]
    found = judged(STUDENTS, None, None, two, n_resamples=50)
    assert found["frozen_in_time_webvid"]["verdict"] == NOT_MEASURED
    assert found["frozen_in_time_cc3m_webvid"]["verdict"] != NOT_MEASURED
    moved = models.astype({"item": "str"})
    moved.loc[0, "item"] = "another"
    with pytest.raises(ValueError, match="not measured on the same clips"):
        claims_table(STUDENTS, None, None, moved, n_resamples=50)


# In words


def test_one_item_settles_nothing():
    table = claims_table(sweep(better_fused, items=1), n_resamples=50)
    tested = table[~table["name"].isin(["whole_set", "large_shares"])]
    assert set(tested["verdict"]) == {UNDECIDED, NOT_MEASURED}


def test_text_lists_every_claim_once_under_its_kind_and_verdict(clear):
    text = claims_text(clear)
    parts = re.split(r"\*\*(Phenomena|Constants): (.+?)\*\*", text)
    heads, lists = list(zip(parts[1::3], parts[2::3], strict=True)), parts[3::3]
    there = clear[["kind", "verdict"]].drop_duplicates()
    expected = [
        (title, f"{words[0].lower()}{words[1:]}")
        for kind, title in KINDS.items()
        for verdict, words in VERDICTS.items()
        if ((there["kind"] == kind) & (there["verdict"] == verdict)).any()
    ]
    assert heads == expected
    for (title, words), listed in zip(heads, lists, strict=True):
        here = (clear["kind"].map(KINDS) == title) & (
            clear["verdict"].map(VERDICTS).str.lower() == words.lower()
        )
        for claim, shown in zip(clear["claim"], here, strict=True):
            assert (f"- {claim} (" in listed) == shown
    assert "+50.0 points [+37.0, +63.0], p " in text
    assert "Holm-corrected for 16 claims" in text and "items and draws" in text
    assert "nan" not in text


def test_no_text_counts_claims(clear):
    for text in (claims_text(clear), claims_printed(clear).to_string()):
        assert not re.search(r"\d+ (of|claims of) (the )?\d+ claims|\d+ of 33", text)


def test_text_owns_up_to_a_single_draw_and_to_an_empty_list():
    text = claims_text(claims_table(sweep(better_fused, draws=(0,), items=5), n_resamples=50))
    assert "one draw: nothing is known of others" in text
    with pytest.raises(ValueError, match="no claims"):
        claims_text(claims_table(sweep(better_fused, alphas=(0,))).iloc[:0])


def test_printed_table(clear):
    texts = claims_printed(clear)
    assert sorted(texts.index) == sorted(clear["claim"])
    assert texts["Kind"].tolist() == sorted(clear["kind"], reverse=True)  # phenomena first
    rows = texts.to_dict("index")
    p_holm = rows_of(clear)["ucf101_teacher"]["p_holm"]
    assert rows["On UCF101 the fused model is worse than the teacher"] == {
        "Kind": "phenomenon",
        "Where": "table 4b",
        "Paper": "−1.2 (73.3 − 74.5)",
        "Here": "+50.0",
        "95% interval": "[+37.0, +63.0]",
        "p": "< 0.001" if p_holm < 0.001 else f"{p_holm:.3f}",
        "Verdict": FAILS,
    }
    row = rows["Shares above 0.01 tend to be worse"]
    assert list(row.values())[3:] == ["–", "–", "–", CANNOT]
    row = rows["On the mean of the five data sets the α chosen beforehand is close to the best"]
    assert row["95% interval"].endswith("] (90%)")
    assert not [text for row in rows.values() for text in row.values() if "nan" in text]
    assert "% of the rank" in texts["Here"].to_string()
