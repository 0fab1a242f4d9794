"""The paper's claims, each tested on what was measured here; the claims are in claims.yaml."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from figures.comparisons import LEVEL, decision, difference, fusion_comparisons, holm, p_in_words
from figures.hits import PanelHits, as_hits, sweep_ranks
from figures.inference import heterogeneity_p_value, qualitative_interaction_p_value
from figures.label_share import MEASURES, share_hits
from figures.measures import PANELS, SIZE_MEASURE, ZERO_SHOT, Measure, Panel
from figures.outcomes import ranks_of, sweep_rows
from figures.paper import paper_values
from figures.per_class import item_labels, per_class_table
from figures.rank_curves import curve_order
from figures.study_comparisons import share_comparisons, size_hits
from figures.subset_size import subset_hits
from figures.whole_curve import best_table
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import CLASSIFICATION

HOLDS: Final = "holds"
CONSISTENT: Final = "consistent"
FAILS: Final = "does not hold"
UNDECIDED: Final = "undecided"
CANNOT: Final = "cannot be decided here"
NOT_MEASURED: Final = "not measured"
VERDICTS: Final = {
    HOLDS: "Hold on this data",
    CONSISTENT: "Consistent with this data, which single out no value",
    FAILS: "Do not hold on this data",
    UNDECIDED: "Undecided",
    CANNOT: "Cannot be decided here",
    NOT_MEASURED: "Not measured here",
}
# What the paper shows to happen, and the values that it found best for its own data and models.
KINDS: Final = {"phenomenon": "Phenomena", "constant": "Constants"}

_COLUMNS: Final = [
    *("name", "kind", "claim", "where", "paper", "measured", "ci_low", "ci_high", "unit"),
    *("p_value", "p_holm", "n", "draws", "verdict", "found", "decided_by", "level"),
]
_POINTS: Final = "points"
_SHARE: Final = 1e-4  # of the pseudo-label loss, in the paper's claims
_EACH_END: Final = round(2 * LEVEL - 1, 12)  # of intervals each of whose ends is a bound with LEVEL
_CLASSES: Final = Measure("mit", CLASSIFICATION, 1)  # of figure 1


_Row = dict[Any, Any]  # of the columns that a test fills; its verdict is empty if p_value decides


@dataclass(frozen=True)
class Claim:
    """One claim: in words, where the paper makes it, its evidence, and the test with its settings.

    `kind` is one of KINDS. `paper` is the evidence in words, or the paper's rows to subtract: of,
    minus, data_sets.
    """

    name: str
    kind: str
    claim: str
    where: str
    paper: str | Mapping[str, Any]
    test: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_claims() -> list[Claim]:
    """The paper's claims in the order of the supplement, sections 2 to 8."""
    return [Claim(**claim) for claim in _file()["claims"]]


def _file() -> dict[str, Any]:
    return dict(yaml.safe_load((files("figures") / "claims.yaml").read_text(encoding="utf-8")))


def claims_table(
    sweep: pd.DataFrame,
    label_share: pd.DataFrame | None = None,
    subset_size: pd.DataFrame | None = None,
    references: pd.DataFrame | None = None,
    *,
    alpha: float = 0.4,
) -> pd.DataFrame:
    """Every claim of the paper beside what was measured here, and whether it holds on this data.

    Outcomes are those of the sweep over alpha, of the two studies, and of reference models; what is
    None or was not measured leaves its claims open.

    One row a claim, of the columns in _COLUMNS: `paper` is its evidence; measured and the interval
    are in `unit`; p_holm is corrected for all claims with a p_value; `found` is what else the test
    shows; `decided_by` is the verdict's rule (VERDICTS has their words).

    Raises: ValueError when outcomes are incomplete or mixed.
    Source: supplement, sections 2 to 8; Holm (1979) for the correction; Schuirmann (1987) for two
    one-sided tests of a margin; Hsu (1984) for comparisons with the best.
    """
    data = _Data(sweep, label_share, subset_size, references, alpha)
    claims, rules = read_claims(), _file()["decided_by"]
    found = [_TESTS[one.test](data, **one.settings) or {"verdict": NOT_MEASURED} for one in claims]
    p_holm = holm(np.array([row.get("p_value", math.nan) for row in found]))
    keys = ["data_set", "metric", "model"]
    numbers = paper_values().drop_duplicates(keys).set_index(keys)["value"]
    rows = []
    for claim, finding, corrected in zip(claims, found, p_holm, strict=True):
        row = vars(claim) | {"unit": "", "found": "", "level": LEVEL, "p_holm": corrected} | finding
        row["paper"] = _evidence(claim.paper, numbers)
        row["decided_by"] = rules[claim.test].format(**claim.settings)
        row["verdict"] = row["verdict"] or _verdict(row)
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=_COLUMNS)
    return table.astype({"n": "Int64", "draws": "Int64"})


def claims_text(table: pd.DataFrame) -> str:
    """What `claims_table` found, as Markdown: phenomena, then constants, by verdict."""
    parts = []
    for kind, verdict in itertools.product(KINDS, VERDICTS):
        rows = table[(table["kind"] == kind) & (table["verdict"] == verdict)].to_dict("records")
        if rows:
            words = VERDICTS[verdict]
            title = f"**{KINDS[kind]}: {words[0].lower()}{words[1:]}**\n"
            parts.append("\n".join([title, *(f"- {_sentence(row)}" for row in rows)]))
    one_draw = (table["draws"].dropna() <= 1).all()
    over = "items (one draw: nothing is known of others)" if one_draw else "items and draws"
    parts.append(
        f"In brackets are {LEVEL:.0%} intervals over {over}, or of the level named; p-values are "
        "of the intervals' own t tests (for classes: given these students), Holm-corrected for "
        f"{table['p_holm'].notna().sum()} claims. Undecided is what these data do not settle, "
        "consistent what they leave beside other values; what cannot be decided, no outcome of "
        "this size, or no study of the kit, could show. The table's decided_by has the rules."
    )
    return "\n\n".join(parts)


def claims_printed(table: pd.DataFrame) -> pd.DataFrame:
    """`claims_table` as texts to print, phenomena first; without a unit they are points."""
    rows = [
        {
            "Claim": row["claim"],
            "Kind": row["kind"],
            "Where": row["where"],
            "Paper": row["paper"].replace(f" {_POINTS} (", " ("),
            "Here": _measured(row).removesuffix(f" {_POINTS}"),
            f"{LEVEL:.0%} interval": _interval(row),
            "p": "–"
            if math.isnan(row["p_holm"])
            else p_in_words(row["p_holm"]).removeprefix("p ").removeprefix("= "),
            "Verdict": row["verdict"],
        }
        for kind in KINDS
        for row in table[table["kind"] == kind].to_dict("records")
    ]
    return pd.DataFrame(rows).set_index("Claim")


@dataclass(frozen=True)
class _Data:
    """The outcomes that claims are tested on; each comparison is made once."""

    sweep: pd.DataFrame
    label_share: pd.DataFrame | None
    subset_size: pd.DataFrame | None
    references: pd.DataFrame | None
    alpha: float

    def swept(self, measures: Sequence[Measure], *alphas: float) -> bool:
        """Whether the sweep has the teacher, the student and these alphas on the data sets."""
        return _covers(self.sweep, measures, [0.0, 1.0, *alphas])

    @cached_property
    def fusion(self) -> dict[tuple[str, str], _Row]:
        """`fusion_comparisons` of the panels and data sets that were measured, by scope and end."""
        every = [*PANELS, *(Panel(one.data_set, (one,)) for one in ZERO_SHOT.measures)]
        panels = [panel for panel in every if self.swept(panel.measures, self.alpha)]
        if not panels:
            return {}
        rows = fusion_comparisons(self.sweep, self.alpha, panels).to_dict("records")
        return {(row["scope"], row["versus"]): row for row in rows}

    @cached_property
    def shared(self) -> list[Measure]:
        """What the study of label shares measured with labels alone and with the paper's share."""
        if (study := self.label_share) is None:
            return []
        trained = study["labelled_share"].astype(float)
        both = [study[np.isclose(trained, 1 - share, atol=1e-9)] for share in (0, _SHARE)]
        return [one for one in MEASURES if all(_covers(side, [one], [self.alpha]) for side in both)]

    @cached_property
    def shares(self) -> dict[str, _Row]:
        """`share_comparisons` of the data sets that were measured, by scope."""
        if self.label_share is None or not self.shared:
            return {}
        table = share_comparisons(self.label_share, _SHARE, self.alpha, measures=self.shared)
        return {row["scope"]: row for row in table.to_dict("records")}

    @cached_property
    def alphas(self) -> dict[str, pd.DataFrame]:
        """Each alpha against the best, by panel, of those that were measured whole."""
        panels = [panel for panel in PANELS if self.swept(panel.measures)]
        hits = {panel.name: PanelHits(self.sweep, panel.measures) for panel in panels}
        return {
            name: best_table({alpha: one.at(alpha) for alpha in one.alphas})
            for name, one in hits.items()
        }

    @cached_property
    def reference_size(self) -> int:
        """The labelled clips of the sweep's students, which stand for the paper's 4,500."""
        return int(sweep_rows(self.sweep)["labelled_clips"].max())

    @cached_property
    def sizes(self) -> dict[float, list[np.ndarray]]:
        """Hits [draws, items] by number of clips, 0 the teacher; {} without the sweep's number."""
        study = self.subset_size
        if study is None or not _covers(study, [SIZE_MEASURE], [self.alpha]):
            return {}
        sizes = size_hits(subset_hits(study, self.alpha, SIZE_MEASURE))
        known = self.reference_size in sizes and len(sizes) > 2
        return {size: [hits] for size, hits in sizes.items()} if known else {}

    def classes(self, rows: pd.DataFrame) -> list[np.ndarray] | None:
        """Hits of teacher and fused model on Moments in Time, [draws, items] each, if measured."""
        if not self.swept([_CLASSES], self.alpha):
            return None
        ranks = sweep_ranks(rows, _CLASSES.data_set, CLASSIFICATION, [0.0, self.alpha])
        return [as_hits(array, _CLASSES) for array in ranks.arrays]


def _fusion(data: _Data, scope: str, versus: str, expected: str) -> _Row | None:
    return _of_row(data.fusion.get((scope, versus)), expected)


def _pseudo_labels(data: _Data, data_set: str, expected: str) -> _Row | None:
    return _of_row(data.shares.get(data_set), expected)


def _pseudo_labels_similar(data: _Data, data_set: str, margin: float) -> _Row | None:
    """Two one-sided tests: an interval of level 1 - 2 * 0.05 within the margin."""
    if data.label_share is None or data_set not in data.shares:
        return None
    measures = [measure for measure in data.shared if measure.data_set == data_set]
    hits = share_hits(data.label_share, data.alpha, measures)[data_set].hits
    alone, mixed = hits[0], hits[round(_SHARE, 9)]
    found = paired_difference(alone, mixed, level=_EACH_END)
    ends = 100 * np.array([found.estimate, found.low, found.high])
    within = _within(margin, ends[1], ends[2], (ends[2] - ends[1]) / 2)
    return _row(ends, found.n, len(mixed[0]), **within)


def _best_alpha(data: _Data, scope: str, best: float) -> _Row | None:
    return _of_best(data.alphas.get(scope), best, "α = ")


def _close_alpha(data: _Data, scope: str, margin: float) -> _Row | None:
    """What the alpha chosen beforehand loses to the best of all, against a margin."""
    table = data.alphas.get(scope)
    if table is None or (row := _row_of(table, data.alpha)) is None:
        return None
    ends = [100 * np.maximum(-row[name], 0) for name in ("lead", "ci_high", "ci_low")]
    within = _within(margin, ends[1], ends[2], 100 * row["reach"])
    words = [f"highest in hindsight: α = {_highest(table)}", within["found"]]
    return _row(ends, row["n"], row["draws"], **within | {"found": "; ".join(filter(None, words))})


def _best_size(data: _Data) -> _Row | None:
    """The sweep's number of labelled clips against every other and the teacher."""
    if not data.sizes:
        return None
    stands = f"{data.reference_size:,} clips stand for 4,500; "
    return _of_best(best_table(data.sizes), data.reference_size, found=stands)


def _largest_size(data: _Data) -> _Row | None:
    """The largest subset against every smaller one, where it is above the sweep's."""
    subsets = {size: hits for size, hits in data.sizes.items() if size > 0}
    largest = max(subsets, default=0)
    if not subsets or largest <= data.reference_size:
        return None
    found = _of_best(best_table(subsets), largest, found=f"the largest is {largest:,} clips; ")
    words = {FAILS: HOLDS, HOLDS: FAILS}  # being the best is what refutes this claim
    return found and found | {"verdict": words.get(found["verdict"], UNDECIDED)}


def _rank_curve(data: _Data, data_set: str, at_most: float) -> _Row | None:
    """Logarithms of ranks are compared by text; the sorted curves, with a band for all cutoffs."""
    measure = Measure(data_set, "text_to_video", 1)
    if not data.swept([measure], data.alpha):
        return None
    ranks = sweep_ranks(data.sweep, data_set, measure.direction, [0.0, data.alpha]).arrays
    found = paired_difference(*map(np.log, ranks))
    order = curve_order(data.sweep, data.alpha, data_set=data_set)
    verdict = ""
    if order["lower"] > at_most / 100 * order["cutoffs"]:
        verdict = FAILS
    elif found.estimate < 0 and order["above"] > at_most / 100:
        verdict = UNDECIDED
    return _row(
        100 * np.expm1([found.estimate, found.low, found.high]),
        found.n,
        len(ranks[1]),
        p_value=found.p_value,
        expected="lower",
        verdict=verdict,
        unit="% of the rank",
        found=f"of the curve's positions {order['below']:.1%} are below the teacher's, "
        f"{order['equal']:.1%} on it, {order['above']:.1%} above it",
    )


def _classes(data: _Data, classes: Sequence[str], expected: str) -> _Row | None:
    """Fused minus teacher on the clips of some classes of Moments in Time."""
    rows = data.sweep[data.sweep["data_set"] == _CLASSES.data_set]
    chosen = rows[rows["label"].isin(classes)]
    if set(chosen["label"]) != set(classes) or (sides := data.classes(chosen)) is None:
        return None
    return _of_row(difference(*([side] for side in sides)), expected)


def _class_spread(data: _Data) -> _Row | None:
    """Item differences are averaged over draws: the tests are about these students."""
    if (sides := data.classes(data.sweep)) is None:
        return None
    labels = item_labels(data.sweep, _CLASSES.data_set).sort_index().to_numpy(str)
    differences = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    differ = p_in_words(heterogeneity_p_value(differences, labels))
    # Each class by itself at 5%: that all gain is shown only if each of them does.
    table = per_class_table(data.sweep, data.alpha, level=_EACH_END)
    one_sign = (table["ci_low"] > 0).all() or (table["ci_high"] < 0).all()
    higher, lower = ((sign * table["difference"] > 1e-12).sum() for sign in (1, -1))
    return _row(
        [math.nan] * 3,
        len(differences),
        len(sides[1]),
        p_value=qualitative_interaction_p_value(differences, labels),
        verdict=FAILS if one_sign else "",
        unit="",
        found=f"of {len(table)} classes {higher} are higher here and {lower} lower; that classes "
        f"differ: {differ}, by permutation of the labels",
    )


def _references(data: _Data, of: str, minus: str, expected: str) -> _Row | None:
    """Two reference models' difference on the mean of the five data sets."""
    if (every := data.references) is None:
        return None
    sides = [every[every["model"] == model] for model in (minus, of)]
    measures = ZERO_SHOT.measures
    if any({one.data_set for one in measures} - set(rows["data_set"]) for rows in sides):
        return None
    pairs = [[ranks_of(rows, one.data_set, one.direction) for one in measures] for rows in sides]
    if not all(first.items.equals(second.items) for first, second in zip(*pairs, strict=True)):
        raise ValueError(
            f"{of} and {minus} were not measured on the same clips; measure them again with the "
            "same frames"
        )
    hits = [
        [as_hits(ranks.at(0.0), one) for ranks, one in zip(side, measures, strict=True)]
        for side in pairs
    ]
    return _of_row(difference(*hits), expected)


def _untested(data: _Data, reason: str) -> _Row:
    return {"verdict": CANNOT, "found": reason}


_TESTS: Final[dict[str, Callable[..., _Row | None]]] = {
    test.__name__.removeprefix("_"): test
    for test in (
        *(_fusion, _classes, _class_spread, _rank_curve, _references, _untested),
        *(_best_alpha, _close_alpha, _best_size, _largest_size),
        *(_pseudo_labels, _pseudo_labels_similar),
    )
}


def _covers(outcomes: pd.DataFrame, measures: Sequence[Measure], alphas: Sequence[float]) -> bool:
    """Whether the outcomes have all of these alphas on each of the data sets."""
    rows = sweep_rows(outcomes)
    there = rows.groupby(["data_set", "direction"], observed=True)["alpha"].unique().to_dict()
    return all(
        np.isclose(there.get((measure.data_set, measure.direction), []), alpha, atol=1e-9).any()
        for measure, alpha in itertools.product(measures, alphas)
    )


def _of_best(
    table: pd.DataFrame | None, value: float, prefix: str = "", found: str = ""
) -> _Row | None:
    """That a value is the best: refuted if shown worse, proven if no other is left."""
    if table is None or (row := _row_of(table, value)) is None:
        return None
    left = table["left"]
    verdict = HOLDS if left.sum() == 1 else UNDECIDED if left.all() else CONSISTENT
    names = ", ".join(f"{one:,g}" for one in table.loc[left, "value"])
    found += f"not shown worse than the best: {prefix}{names}; highest: {prefix}{_highest(table)}"
    # Hsu's interval, for all values together, ends at 0 for those that are shown worse.
    ends = 100 * np.array([row["lead"], row["ci_low"], np.maximum(row["ci_high"], 0)])
    verdict = verdict if row["left"] else FAILS
    return _row(ends, row["n"], row["draws"], verdict=verdict, found=found)


def _row_of(table: pd.DataFrame, value: float) -> dict[Any, Any] | None:
    rows = table[np.isclose(table["value"], value, atol=1e-9)].to_dict("records")
    return rows[0] if rows else None


def _highest(table: pd.DataFrame) -> str:
    # Rounded, so that equal shares do not differ by the order of a sum.
    return f"{table['value'].iloc[table['lead'].round(12).argmax()]:,g}"


def _within(margin: float, low: float, high: float, reach: float) -> _Row:
    """Whether a difference stays within a margin, and why that cannot be shown; all in points.

    reach: half the interval's width, from the estimate to the end that decides.
    """
    found = f"a margin of {margin:g} cannot be shown at this size, none below {reach:.2f} can"
    found = found if reach >= margin else ""
    verdict = CANNOT if found else UNDECIDED
    if low > margin or high < -margin:
        verdict = FAILS
    elif reach > 0 and -margin <= low <= high <= margin:
        verdict, found = HOLDS, ""
    return {"verdict": verdict, "found": found, "level": _EACH_END}


def _of_row(row: Mapping[Any, Any] | None, expected: str) -> _Row | None:
    """What a comparison's row, whose differences are fractions, finds; the paper's side of it."""
    if row is None:
        return None
    ends = [100 * row[name] for name in ("difference", "ci_low", "ci_high")]
    return _row(ends, row["n"], row["draws"], p_value=row["p_value"], expected=expected)


def _row(ends: Sequence[float] | np.ndarray, n: int, draws: int, **rest: Any) -> _Row:
    """What was found: an estimate with the ends of its interval."""
    found = dict(zip(("measured", "ci_low", "ci_high"), map(float, ends), strict=True))
    return found | {"n": n, "draws": draws, "unit": _POINTS, "verdict": ""} | rest


def _verdict(row: _Row) -> str:
    if math.isnan(row["measured"]):
        return HOLDS if row["p_holm"] <= 1 - LEVEL else UNDECIDED
    side = decision(row)
    if side == "undecided":
        return UNDECIDED
    return HOLDS if side == row["expected"] else FAILS


def _evidence(paper: str | Mapping[str, Any], numbers: pd.Series) -> str:
    """The evidence in words; of two of the paper's rows, their difference and both."""
    if isinstance(paper, str):
        return paper
    metrics = {
        measure.data_set: "top1" if measure.direction == CLASSIFICATION else "R@5"
        for measure in ZERO_SHOT.measures
    }
    chosen = paper.get("data_sets", metrics)
    of, minus = (
        float(np.mean([numbers[name, metrics[name], paper[side]] for name in chosen]))
        for side in ("of", "minus")
    )
    return f"{_signed(of - minus)} {_POINTS} ({of:.1f} − {minus:.1f})"


def _sentence(row: Mapping[Any, Any]) -> str:
    numbers = [] if math.isnan(row["measured"]) else [f"{_measured(row)} {_interval(row)}"]
    numbers += [] if math.isnan(row["p_holm"]) else [p_in_words(row["p_holm"])]
    named = f"{row['claim']} ({row['where']})" + (f": {', '.join(numbers)}" if numbers else "")
    return named + (f"; {row['found']}" if row["found"] else "")


def _measured(row: Mapping[Any, Any]) -> str:
    return "–" if math.isnan(row["measured"]) else f"{_signed(row['measured'])} {row['unit']}"


def _interval(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["ci_low"]):
        return "–"
    level = "" if row["level"] == LEVEL else f" ({row['level']:.0%})"
    return f"[{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]{level}"


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "−")
