"""The paper's claims, tested on outcomes that are made so that the answer is known."""

import re

import numpy as np
import pytest
import scipy.stats

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
from figures.comparisons import holm
from figures.label_share import MEASURES
from figures.measures import IN_DOMAIN, ZERO_SHOT
from figures.paper import paper_values
from figures.study_comparisons import share_comparisons
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell
from tests.figures import made
from tests.figures.made import (
    BY_NAME,
    DRAWS,
    SWEPT,
    as_ranks,
    first,
    hits,
    of,
    swept_hits,
    together,
)

ALPHAS = (0, 0.2, 0.3, 0.4, 1)


def sweep(hits_of, *, items=60, alphas=ALPHAS, **options):
    return swept_hits(lambda *cell: hits_of(*cell)[:items], items=items, alphas=alphas, **options)


def better_fused(data_set, alpha, draw):
    """The fused model has 50 of 60, both ends 20, everywhere."""
    return first(20 if alpha in (0, 1) else 50, 60)


def rows_of(table):
    return {row["name"]: row for row in table.to_dict("records")}


def judged(*outcomes):
    return rows_of(claims_table(*outcomes))


# A sweep without the alpha of fusion: it only says how many clips its students had.
STUDENTS = sweep(better_fused, measures=SWEPT[-1:], alphas=(0, 1))
CLAIMS = read_claims()


@pytest.fixture(scope="module")
def clear():
    return claims_table(sweep(better_fused))


# The claims as data


def test_claims_are_complete_and_distinct():
    assert len({claim.name for claim in CLAIMS}) == len({one.claim for one in CLAIMS}) == 33
    assert len(CLAIMS) == 33
    fusion = {
        (claim.settings["scope"], claim.settings["versus"])
        for claim in CLAIMS
        if claim.test == "fusion"
    }
    scopes = {"in_domain", "zero_shot", *(measure.data_set for measure in ZERO_SHOT.measures)}
    assert fusion == {(scope, end) for scope in scopes for end in ("teacher", "student")}
    assert {claim.kind for claim in CLAIMS} == set(KINDS)
    places = {f"{one}_{what}" for one in ("in_domain", "zero_shot") for what in ("best", "close")}
    constants = {claim.name for claim in CLAIMS if claim.kind == "constant"}
    assert constants == places | {"best_size"}


def test_the_side_claimed_is_that_of_the_papers_own_numbers(clear):
    values = paper_values()
    for claim in CLAIMS:
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
    found = {name: row["paper"] for name, row in rows_of(clear).items()}
    assert found["ucf101_teacher"] == "−1.2 points (73.3 − 74.5)"
    # (53.7 + 59.8 + 15.5 + 21.8 + 73.3) / 5 and the same of CLIP.
    assert found["overall_teacher"] == "+2.0 points (44.8 − 42.8)"
    assert found["zero_shot_best"] == "best at α = 0.2"


# Fusion


def test_verdicts_of_fusion(clear):
    found = rows_of(clear)
    fusion = {claim.name: claim for claim in CLAIMS if claim.test == "fusion"}
    assert len(fusion) == 14
    for name, claim in fusion.items():
        expected = HOLDS if claim.settings["expected"] == "higher" else FAILS
        assert found[name]["verdict"] == expected, name
        assert found[name]["measured"] == pytest.approx(50)
        assert found[name]["draws"] == 3
    assert [name for name in fusion if found[name]["verdict"] == FAILS] == ["ucf101_teacher"]
    assert found["msrvtt_teacher"]["n"] == 60 and found["overall_teacher"]["n"] == 300


def test_p_values_are_corrected_for_all_claims_that_have_one(clear):
    np.testing.assert_allclose(clear["p_holm"], holm(clear["p_value"].to_numpy()))
    assert clear["p_value"].notna().sum() == 16  # of fusion, the rank curve's and the classes'
    assert clear.loc[clear["p_value"].isna(), "p_holm"].isna().all()


def test_students_that_disagree_decide_nothing():
    # Two draws gain much, one loses.
    right = {1: 55, 2: 55, 3: 5}
    outcomes = sweep(
        lambda _, alpha, draw: first(right[draw] if 0 < alpha < 1 else 20, 60),
        measures=SWEPT[-1:],
    )
    found = judged(outcomes)["ucf101_student"]
    assert found["p_holm"] > 0.05 and found["ci_low"] < 0 < found["measured"]
    assert found["verdict"] == UNDECIDED


@pytest.mark.parametrize(
    "there",
    [["webvid_val"], ["mit"], ["didemo", "msrvtt", "youcook2", "ucf101"], [*BY_NAME][1:]],
    ids=" ".join,
)
def test_any_data_sets_leave_the_claims_on_others_open(there):
    table = claims_table(sweep(better_fused, measures=[BY_NAME[name] for name in there]))
    found = rows_of(table)
    of_all = "zero_shot" if set(there) >= {one.data_set for one in ZERO_SHOT.measures} else ""
    for claim in CLAIMS:
        scope = claim.settings.get("scope", claim.settings.get("data_set"))
        scope = {"in_domain": "webvid_val"}.get(scope, scope)
        scope = "mit" if claim.test == "class_spread" else scope
        row = found[claim.name]
        if claim.test == "untested":
            assert row["verdict"] == CANNOT
        elif claim.name.startswith("pseudo_labels") or scope not in (*there, of_all):
            assert row["verdict"] == NOT_MEASURED, claim.name
            assert np.isnan([row[name] for name in ("measured", "ci_low", "p_value")]).all()
        else:
            assert row["verdict"] != NOT_MEASURED, claim.name
            assert claim.test == "class_spread" or not np.isnan(row["measured"])
    assert claims_text(table) and len(claims_printed(table)) == 33


def test_the_mean_of_some_data_sets_is_not_the_papers_mean_of_five():
    models = references({"webvid": 20, "cc3m_webvid": 50, "cc3m_webvid_coco": 50})
    models = models[models["data_set"] != "didemo"]
    measures = [measure for measure in SWEPT if measure.data_set != "didemo"]
    study = shares({measure.data_set: (20, 50) for measure in MEASURES[:2]})
    found = judged(sweep(better_fused, measures=measures), study, None, models)
    of_five = [claim for claim in CLAIMS if claim.settings.get("scope") == "zero_shot"]
    of_five += [claim for claim in CLAIMS if claim.test == "references"]
    assert len(of_five) == 6
    assert {found[claim.name]["verdict"] for claim in of_five} == {NOT_MEASURED}
    studied = {f"pseudo_labels_{measure.data_set}" for measure in MEASURES[:2]}
    for claim in CLAIMS:
        if claim.name.startswith("pseudo_labels"):
            assert (found[claim.name]["verdict"] == NOT_MEASURED) == (claim.name not in studied)


def test_what_was_not_swept_is_open_and_what_was_swept_in_part_refused():
    table = claims_table(sweep(better_fused, alphas=(0, 0.2, 0.3, 1)))
    verdicts = table.set_index("name")["verdict"]
    fusion = [claim.name for claim in CLAIMS if claim.test == "fusion"]
    assert set(verdicts[fusion]) == {NOT_MEASURED}
    assert verdicts["in_domain_best"] != NOT_MEASURED  # of other alphas, which are there
    table = claims_table(sweep(better_fused, alphas=(0,)))
    untested = {claim.name for claim in CLAIMS if claim.test == "untested"}
    verdicts = table.set_index("name")["verdict"]
    assert set(verdicts[verdicts != NOT_MEASURED].index) == untested
    assert set(verdicts[list(untested)]) == {CANNOT}
    assert "**Phenomena: cannot be decided here**\n\n- Trained on the whole" in claims_text(table)
    outcomes = sweep(better_fused)
    hole = (outcomes["alpha"] == 0.4) & (outcomes["draw"] == 2) & (outcomes["data_set"] == "mit")
    with pytest.raises(ValueError, match="finish the sweep"):
        claims_table(outcomes[~hole.fillna(False)])


# The best alpha


def peak(counts, items=60):
    return lambda data_set, alpha, draw: first(counts[alpha], items)


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
    found = judged(sweep(peak(counts), measures=IN_DOMAIN.measures))["in_domain_best"]
    assert found["verdict"] == verdict
    assert found["measured"] == pytest.approx(measured, abs=1e-9)
    assert found["ci_low"] <= found["measured"] <= found["ci_high"] or verdict == FAILS
    assert found["ci_low"] <= 0 <= found["ci_high"]
    assert np.isnan(found["p_value"]) and found["decided_by"].startswith("Hsu's comparisons")
    best = max((count, -alpha) for alpha, count in counts.items())[1]
    assert found["found"] == f"not shown worse than the best: α = {left}; highest: α = {-best:g}"


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
    found = judged(sweep(peak(counts), measures=IN_DOMAIN.measures))["in_domain_close"]
    assert found["verdict"] == verdict
    assert found["measured"] == pytest.approx(measured, abs=1e-9)
    assert 0 <= found["ci_low"] <= found["measured"] <= found["ci_high"]
    assert found["level"] == pytest.approx(0.9) and "1 point" in found["decided_by"]
    assert ("a margin of 1 cannot be shown" in found["found"]) == (verdict in (CANNOT, FAILS))


@pytest.mark.parametrize(("behind", "verdict"), [(10, HOLDS), (50, UNDECIDED), (200, FAILS)])
def test_close_comes_out_either_way_on_enough_items(behind, verdict):
    counts = {0: 500, 0.2: 4000, 0.3: 2500, 0.4: 4000 - behind, 1: 500}  # 50 are a point
    outcomes = sweep(peak(counts, 5000), measures=IN_DOMAIN.measures, items=5000)
    assert judged(outcomes)["in_domain_close"]["verdict"] == verdict


# Studies


def sizes(counts, *, nested=(1,)):
    """Outcomes with counts[size] hits; size 0 is the teacher."""
    draws = {"independent": (1, 2), "nested": nested}
    wanted = [size for size in counts if size]
    return made.sizes(
        lambda size, *_: first(counts.get(size, 9), 60), wanted, draws, alphas=(0.4,), items=60
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
    of_20, of_40 = found["best_size"], found["largest_size"]
    assert (of_20["verdict"], of_40["verdict"]) == (best, largest)
    rival = max(count for size, count in counts.items() if size != 20)
    assert of_20["measured"] == pytest.approx(100 * (counts[20] - rival) / 60)
    rival = max(counts[size] for size in (10, 20))
    assert of_40["measured"] == pytest.approx(100 * (counts[40] - rival) / 60)
    start = f"20 clips stand for 4,500; not shown worse than the best: {left}; highest: "
    assert of_20["found"].startswith(start)
    assert of_40["found"].startswith("the largest is 40 clips; not shown worse than the best: ")


def test_subset_sizes_without_the_sweeps_own_stay_open_and_other_draws_are_refused():
    found = judged(STUDENTS, None, sizes({0: 10, 10: 20, 40: 30}))
    assert found["best_size"]["verdict"] == found["largest_size"]["verdict"] == NOT_MEASURED
    found = judged(STUDENTS, None, sizes({0: 10, 10: 20, 20: 30}))
    assert found["largest_size"]["verdict"] == NOT_MEASURED
    assert found["best_size"]["verdict"] != NOT_MEASURED
    other = sizes({40: 9}, nested=()).iloc[60:]
    with pytest.raises(ValueError, match="students of size"):
        claims_table(STUDENTS, None, together([sizes({0: 9, 10: 9, 20: 9}), other]))


def shares(counts, items=60):
    """Outcomes with counts[data set] = (hits with labels alone, hits with pseudo-labels)."""

    def ranks_of(data_set, share, draw):
        right = 9 if share is None else counts[data_set][share > 0]
        return as_ranks(first(right, items), BY_NAME[data_set])

    measures = [BY_NAME[name] for name in counts]
    return made.shares(ranks_of, draws=DRAWS, measures=measures, items=items)


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
    rows = share_comparisons(study).set_index("scope")
    for name, (alone, both) in counts.items():
        row = found[f"pseudo_labels_{name}"]
        assert row["measured"] == pytest.approx(100 * (both - alone) / 60)
        assert name == "msrvtt" or row["p_value"] == rows.loc[name, "p_value"]
    assert np.isnan(found["pseudo_labels_msrvtt"]["p_value"])
    # A study without the paper's share leaves the data set's claim open.
    other = np.isclose(study["labelled_share"], 0.9999) & (study["data_set"] == "youcook2")
    study.loc[other, "labelled_share"] = 0.999
    found = judged(STUDENTS, study)
    assert found["pseudo_labels_youcook2"]["verdict"] == NOT_MEASURED
    assert found["pseudo_labels_ucf101"]["verdict"] == FAILS


@pytest.mark.parametrize(
    ("right", "items", "verdict"),
    [
        ((20, 50), 60, FAILS),
        ((50, 20), 60, FAILS),
        ((30, 32), 60, CANNOT),
        ((30, 30), 60, UNDECIDED),  # nothing differs, which says little of 60 items
        ((500, 501), 2000, HOLDS),
        ((500, 520), 2000, UNDECIDED),
        ((500, 560), 2000, FAILS),
    ],
)
def test_similar_means_within_a_margin(right, items, verdict):
    measure = BY_NAME["msrvtt"]
    study = shares({"msrvtt": right}, items)
    found = judged(STUDENTS, study)
    row = found["pseudo_labels_msrvtt"]
    assert row["verdict"] == verdict
    assert found["pseudo_labels_mit"]["verdict"] == NOT_MEASURED
    # Two one-sided tests at 5%: the interval of level 90%.
    sides = (hits(study, measure, [1, 2, 3], labelled_share=share) for share in (1, 0.9999))
    pair = paired_difference(*sides, level=0.9)
    ends = [100 * pair.low, 100 * pair.high]
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(ends)
    assert row["level"] == pytest.approx(0.9) and (row["n"], row["draws"]) == (items, 3)
    if verdict == CANNOT:
        least = f"none below {(ends[1] - ends[0]) / 2:.2f} can"
        assert row["found"] == f"a margin of 1 cannot be shown at this size, {least}"


# Ranks, classes, references


RANKS = np.arange(1, 61) * 8.0


@pytest.mark.parametrize(
    ("fused", "verdict"),
    [
        (RANKS / 2, HOLDS),
        (RANKS * 2, FAILS),
        (np.where(RANKS < 240, 1, RANKS * 1.7), FAILS),  # although better on average
        (np.where(RANKS < 430, RANKS / 2, RANKS + 8), UNDECIDED),  # a tenth of it is above
    ],
)
def test_rank_curves(fused, verdict):
    outcomes = made.sweep(
        lambda _, alpha, __: fused if alpha else RANKS, measures=[BY_NAME["msrvtt"]], items=60
    )
    row = judged(outcomes)["rank_curve"]
    assert row["verdict"] == verdict
    if verdict == HOLDS:
        assert (row["measured"], row["unit"]) == (pytest.approx(-50), "% of the rank")
        assert row["found"].startswith("of the curve's positions 100.0% are below")
        assert (row["n"], row["draws"]) == (60, 3)
    elif fused[0] < RANKS[0]:
        assert row["p_holm"] < 0.05 and row["ci_high"] < 0


def actions(right):
    """A sweep on Moments in Time: right[class] = hits (teacher's, fused) of 20."""
    sides = [np.concatenate([first(pair[side], 20) for pair in right.values()]) for side in (0, 1)]
    return swept_hits(
        lambda _, alpha, __: sides[alpha > 0],
        measures=[BY_NAME["mit"]],
        items=20 * len(right),
        labels=np.repeat(list(right), 20),
    )


def test_classes_that_the_paper_names():
    right = {"preaching": (2, 18), "taping": (2, 18), "tapping": (10, 10), "other": (9, 9)}
    found = judged(actions(right))
    row = found["abstract_classes"]
    assert row["verdict"] == HOLDS and row["n"] == 60
    assert row["measured"] == pytest.approx(100 * 32 / 60)
    assert found["common_classes"]["verdict"] == NOT_MEASURED
    found = judged(actions(dict.fromkeys(("bicycling", "boxing", "skating"), (2, 18))))
    assert found["common_classes"]["verdict"] == FAILS
    assert found["abstract_classes"]["verdict"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("right", "verdict", "signs"),
    [
        (((19, 1), (1, 19), (9, 9)), HOLDS, (1, 1)),
        (((1, 19), (1, 19), (2, 19)), FAILS, (3, 0)),
        (((19, 1), (19, 1), (18, 0)), FAILS, (0, 3)),
        (((1, 19), (1, 19), (9, 9)), UNDECIDED, (2, 0)),
        (((9, 9), (9, 9), (9, 9)), UNDECIDED, (0, 0)),
        (((9, 11), (11, 9), (9, 9)), UNDECIDED, (1, 1)),
    ],
)
def test_classes_that_differ(right, verdict, signs):
    row = judged(actions(dict(zip("abc", right, strict=True))))["classes_differ"]
    assert row["verdict"] == verdict
    assert row["found"].startswith(
        f"of 3 classes {signs[0]} are higher here and {signs[1]} lower; that classes differ: p "
    )
    # The same, class by class: sums of differences over the roots of their sums of squares.
    squares = {sign: sum(abs(b - a) for a, b in right if (b - a) * sign > 0) for sign in (1, -1)}
    known = sum(a != b for a, b in right)
    least = min(squares.values())
    expected = 1.0
    if least:
        freedoms = np.arange(1, known)
        weights = scipy.stats.binom.pmf(freedoms, known - 1, 0.5)
        expected = float(weights @ scipy.stats.chi2.sf(least, freedoms))
    assert row["p_value"] == pytest.approx(expected)


def test_small_classes_of_both_signs_are_told_together():
    """Thirty classes of twenty clips, none of which could be told by itself."""
    for loss, verdict in ((6, HOLDS), (10, UNDECIDED)):
        right = {f"c{place:02d}": (10, 14 if place % 2 else loss) for place in range(30)}
        row = judged(actions(right))["classes_differ"]
        assert row["verdict"] == verdict
        assert "that classes differ: p < 0.001, by permutation" in row["found"]
        assert (row["p_value"] == 1) == (loss == 10)


def references(counts):
    return together(
        of(
            Cell(measure.data_set, model=f"frozen_in_time_{model}"),
            as_ranks(first(count, 60), measure),
            measure.direction,
        )
        for model, count in counts.items()
        for measure in ZERO_SHOT.measures
    )


def test_reference_models():
    models = references({"webvid": 20, "cc3m_webvid": 50, "cc3m_webvid_coco": 50})
    found = judged(STUDENTS, None, None, models)
    higher, equal = found["frozen_in_time_webvid"], found["frozen_in_time_cc3m_webvid"]
    assert (higher["verdict"], equal["verdict"]) == (HOLDS, UNDECIDED)
    assert (higher["measured"], equal["measured"]) == (pytest.approx(50), 0)
    assert (higher["n"], higher["draws"]) == (300, 1)
    found = judged(STUDENTS, None, None, models[models["model"] != "frozen_in_time_webvid"])
    assert found["frozen_in_time_webvid"]["verdict"] == NOT_MEASURED
    assert found["frozen_in_time_cc3m_webvid"]["verdict"] != NOT_MEASURED
    moved = models.copy()
    moved.loc[0, "item"] = "another"
    with pytest.raises(ValueError, match="not measured on the same clips"):
        claims_table(STUDENTS, None, None, moved)


# In words


def test_one_item_settles_nothing():
    table = claims_table(sweep(better_fused, items=1))
    tested = table[~table["name"].isin(["whole_set", "large_shares"])]
    assert set(tested["verdict"]) == {UNDECIDED, NOT_MEASURED}


def test_text_lists_every_claim_once_under_its_kind_and_verdict(clear):
    text = claims_text(clear)
    parts = re.split(r"\*\*(Phenomena|Constants): (.+?)\*\*", text)
    heads, lists = list(zip(parts[1::3], parts[2::3], strict=True)), parts[3::3]
    shown = {
        claim: head
        for head, part in zip(heads, lists, strict=True)
        for claim in clear["claim"]
        if f"- {claim} (" in part
    }
    for row in clear.to_dict("records"):
        words = VERDICTS[row["verdict"]]
        assert shown[row["claim"]] == (KINDS[row["kind"]], f"{words[0].lower()}{words[1:]}")
    assert "+50.0 points [+37.0, +63.0], p " in text
    assert "Holm-corrected for 16 claims" in text and "items and draws" in text
    single = claims_text(claims_table(sweep(better_fused, draws=(1,), items=5)))
    assert "one draw: nothing is known of others" in single
    assert "nan" not in text + claims_printed(clear).to_string()


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
    assert "% of the rank" in texts["Here"].to_string()
