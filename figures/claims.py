"""The paper's claims, each tested on what was measured here; the claims are in claims.yaml."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from figures.alpha_curve import IN_DOMAIN, ZERO_SHOT, Measure, Panel, PanelHits
from figures.comparisons import decision, fusion_comparisons, holm
from figures.label_share import MEASURES
from figures.paper import paper_values
from figures.per_class import per_class_table
from figures.rank_curves import curve_order, model_ranks
from figures.study_comparisons import share_comparisons, size_comparisons
from figures.subset_size import IN_DOMAIN_R1, check_same_draws, study_hits
from fitclip_core.results import CLASSIFICATION, SHARES, sweep_rows
from fitclip_core.statistics import Band, paired_difference, simultaneous_band

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
UNDECIDED: Final = "undecided"
NOT_MEASURED: Final = "not measured"
VERDICTS: Final = (HOLDS, FAILS, UNDECIDED, NOT_MEASURED)

_COLUMNS: Final = [
    *("name", "claim", "where", "paper", "measured", "ci_low", "ci_high", "unit", "p_value"),
    *("p_holm", "n", "draws", "verdict", "found", "decided_by", "level"),
]
_POINTS: Final = "points"
_SHARE: Final = 1e-4  # of the pseudo-label loss, in the paper's claims
_PANELS: Final = {panel.name: panel for panel in (IN_DOMAIN, ZERO_SHOT)}


@dataclass(frozen=True)
class Claim:
    """One claim: in words, where the paper makes it, its evidence, and the test with its settings.

    `paper` is the evidence in words, or the paper's rows to subtract: of, minus, data_sets.
    """

    name: str
    claim: str
    where: str
    paper: str | Mapping[str, Any]
    test: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Finding:
    """What a test found: an estimate with its interval, and the side that the paper is on.

    `settled` is the verdict where it is not, or not only, the p-value and interval that decide.
    """

    measured: float
    ci_low: float
    ci_high: float
    n: int
    draws: int
    p_value: float = math.nan
    expected: str = ""
    settled: str = ""
    unit: str = _POINTS
    found: str = ""


def read_claims() -> list[Claim]:
    """The paper's claims in the order of the supplement.

    Source: supplement, sections 2 to 8.
    """
    content = yaml.safe_load((files("figures") / "claims.yaml").read_text(encoding="utf-8"))
    return [Claim(**one) for one in content]


def claims_table(
    sweep: pd.DataFrame,
    label_share: pd.DataFrame | None = None,
    subset_size: pd.DataFrame | None = None,
    references: pd.DataFrame | None = None,
    *,
    alpha: float = 0.4,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every claim of the paper beside what was measured here, and whether it holds on this data.

    sweep, label_share, subset_size, references: outcomes of the sweep over alpha, of the two
    studies, and of reference models; what is None or was not measured leaves its claims open. The
    number of clips that stands for the paper's 4,500 is that of the sweep's students.

    One row a claim. Columns: name, claim, where, paper (its evidence), measured, ci_low, ci_high
    (in `unit`: percentage points, or percent of the rank), p_value, p_holm (corrected for all
    claims that have one), n (items), draws, verdict, found (what else the test shows), decided_by,
    level. What was not measured is NaN. Fusion, label shares and subset sizes are tested as in
    `fusion_comparisons`, `share_comparisons` and `size_comparisons`, on the same numbers.

    The verdict is "holds" or "does not hold" when the difference is on the paper's or the other
    side by p_holm and interval (`comparisons.decision`), or by what `decided_by` says; else
    "undecided", and "not measured".

    Raises: ValueError when outcomes are incomplete or mixed, as the functions above say.
    Source: supplement, sections 2 to 8; Holm (1979) for the correction.
    """
    data = _Data(sweep, label_share, subset_size, references, alpha, level, n_resamples, seed)
    claims = read_claims()
    found = [_TESTS[claim.test].test(data, **claim.settings) for claim in claims]
    p_values = np.array([math.nan if one is None else one.p_value for one in found])
    tested = ~np.isnan(p_values)
    corrected = np.full(len(p_values), math.nan)
    corrected[tested] = holm(p_values[tested])
    numbers = {
        (row["data_set"], row["metric"], row["model"]): row["value"]
        for row in paper_values().to_dict("records")
    }
    rows = []
    for claim, finding, p_holm in zip(claims, found, corrected, strict=True):
        row = {name: getattr(claim, name) for name in ("name", "claim", "where")}
        row |= {
            "paper": _evidence(claim.paper, numbers),
            "verdict": NOT_MEASURED,
            "unit": "",
            "found": "",
        }
        row |= {"p_holm": p_holm, "level": level}
        row["decided_by"] = _TESTS[claim.test].decided_by.format(**claim.settings)
        if finding is not None:
            row |= vars(finding) | {"verdict": _verdict(finding, p_holm, level)}
        elif "reason" in claim.settings:
            row["found"] = claim.settings["reason"]
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=_COLUMNS)
    return table.astype({"n": "Int64", "draws": "Int64"})


def claims_text(table: pd.DataFrame) -> str:
    """What `claims_table` found, as Markdown: which claims hold, which do not, which are open.

    Raises: ValueError when the table is empty.
    """
    if table.empty:
        raise ValueError("no claims to put in words; claims_table makes them")
    titles = {
        HOLDS: "Hold on this data",
        FAILS: "Do not hold on this data",
        UNDECIDED: "Undecided",
        NOT_MEASURED: "Not measured here",
    }
    parts = []
    for verdict, title in titles.items():
        rows = table[table["verdict"] == verdict].to_dict("records")
        lines = [f"- {_sentence(row)}" for row in rows] or ["- none"]
        parts.append(f"**{title}: {len(rows)} of {len(table)} claims**\n\n" + "\n".join(lines))
    tested, level = int(table["p_holm"].notna().sum()), table["level"].iloc[0]
    several = (table["draws"] > 1).any()
    over = "items and draws" if several else "items (one draw: nothing is known of others)"
    parts.append(
        f"In brackets are {level:.0%} intervals over {over}; p-values are of paired tests, "
        f"Holm-corrected for {tested} claims. A claim holds when both leave no doubt of the sign; "
        "the table's column decided_by says how those without a p-value are decided. Undecided "
        "means that these data do not settle it."
    )
    return "\n\n".join(parts)


def claims_printed(table: pd.DataFrame) -> pd.DataFrame:
    """`claims_table` as texts to print: where, paper, here, interval, p and verdict by claim.

    Differences are in percentage points where they have no unit.
    """
    records = table.to_dict("records")
    texts = {
        "Claim": [row["claim"] for row in records],
        "Where": [row["where"] for row in records],
        "Paper": [row["paper"].replace(f" {_POINTS} (", " (") for row in records],
        "Here": [_measured(row).removesuffix(f" {_POINTS}") for row in records],
        f"{table['level'].iloc[0]:.0%} interval": [_interval(row) for row in records],
        "p": [_p(row["p_holm"]).removeprefix("= ") for row in records],
        "Verdict": [row["verdict"] for row in records],
    }
    return pd.DataFrame(texts).set_index("Claim")


@dataclass(frozen=True)
class _Data:
    """The outcomes that claims are tested on; each comparison is made once."""

    sweep: pd.DataFrame
    label_share: pd.DataFrame | None
    subset_size: pd.DataFrame | None
    references: pd.DataFrame | None
    alpha: float
    level: float
    n_resamples: int
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"level": self.level, "n_resamples": self.n_resamples, "seed": self.seed}

    def swept(self, measures: Sequence[Measure], *alphas: float) -> bool:
        """Whether the sweep has the teacher, the student and these alphas on the data sets."""
        return _covers(self.sweep, measures, [0.0, 1.0, *alphas])

    @cached_property
    def fusion(self) -> dict[tuple[str, str], dict[Any, Any]]:
        """`fusion_comparisons` of the data sets that were measured, by scope and end."""
        panels = [one for one in _PANELS.values() if self.swept(one.measures, self.alpha)]
        if ZERO_SHOT not in panels:
            panels += [
                Panel(one.data_set, "", "", (one,))
                for one in ZERO_SHOT.measures
                if self.swept([one], self.alpha)
            ]
        if not panels:
            return {}
        table = fusion_comparisons(self.sweep, self.alpha, panels=panels, **self.settings)
        return {(row["scope"], row["versus"]): row for row in table.to_dict("records")}

    @cached_property
    def shares(self) -> dict[str, dict[Any, Any]]:
        """`share_comparisons` of the data sets that were measured, by scope."""
        study = self.label_share
        if study is None:
            return {}
        # Both of the shares that are compared, each by itself.
        both = [study[np.isclose(study["label_share"], 1 - one, atol=1e-9)] for one in (0, _SHARE)]
        there = [
            measure
            for measure in MEASURES
            if all(_covers(side, [measure], [self.alpha]) for side in both)
        ]
        if not there:
            return {}
        table = share_comparisons(study, _SHARE, self.alpha, measures=there, **self.settings)
        return {row["scope"]: row for row in table.to_dict("records")}

    @cached_property
    def reference_size(self) -> int:
        """The labelled clips of the sweep's students, which stand for the paper's 4,500."""
        return int(sweep_rows(self.sweep)["subset_size"].max())

    @cached_property
    def sizes(self) -> dict[int, np.ndarray]:
        """Hits by number of labelled clips, 0 being the teacher: [draws, items] each.

        Empty when the study was not measured, or lacks the sweep's number.
        """
        study = self.subset_size
        if study is None or not _covers(study, [IN_DOMAIN_R1], [self.alpha]):
            return {}
        teacher, found = study_hits(
            study,
            self.alpha,
            IN_DOMAIN_R1,
            by=lambda students: students["subset_size"],
            fixed="label_share",
        )
        check_same_draws({n: hits.columns for n, hits in found.items()}, "students of size")
        if self.reference_size not in found or len(found) < 2:
            return {}
        return {0: teacher.to_numpy().T} | {n: hits.to_numpy().T for n, hits in found.items()}


def _fusion(data: _Data, scope: str, versus: str, expected: str) -> _Finding | None:
    row = data.fusion.get((scope, versus))
    return None if row is None else _of_row(row, expected=expected)


def _pseudo_labels(data: _Data, data_set: str, expected: str) -> _Finding | None:
    row = data.shares.get(data_set)
    return None if row is None else _of_row(row, expected=expected)


def _pseudo_labels_similar(data: _Data, data_set: str, margin: float) -> _Finding | None:
    row = data.shares.get(data_set)
    if row is None:
        return None
    low, high = 100 * row["ci_low"], 100 * row["ci_high"]
    settled = UNDECIDED
    if low > margin or high < -margin:
        settled = FAILS
    elif -margin <= low < high <= margin:
        settled = HOLDS
    return _of_row(row, p_value=math.nan, settled=settled)


def _best_alpha(data: _Data, scope: str, best: float) -> _Finding | None:
    """Every other alpha minus this one, with a band for all together."""
    panel = _PANELS[scope]
    if not data.swept(panel.measures, best):
        return None
    hits = PanelHits(data.sweep, panel.measures)
    others = [one for place, one in enumerate(hits.alphas) if place != hits.place(best)]
    highest = max(hits.alphas, key=lambda one: round(hits.draw_means(one).mean(), 12))
    band = _gaps(data, [hits.at(one) for one in others], hits.at(best))
    return _of_best(band, len(hits.draws), f"best in hindsight: α = {highest:g}")


def _close_alpha(data: _Data, scope: str, margin: float) -> _Finding | None:
    """The best of all alphas minus the one chosen beforehand, against a margin."""
    panel = _PANELS[scope]
    if not data.swept(panel.measures, data.alpha):
        return None
    hits = PanelHits(data.sweep, panel.measures)
    chosen = hits.place(data.alpha)
    others = [one for place, one in enumerate(hits.alphas) if place != chosen]
    band = _gaps(data, [hits.at(one) for one in others], hits.at(data.alpha))
    # The gap to itself is 0.
    ends = [100 * max(0.0, side.max()) for side in (band.estimate, band.low, band.high)]
    settled = UNDECIDED
    if ends[1] > margin:
        settled = FAILS
    elif ends[2] <= margin and (band.low < band.high).all():
        settled = HOLDS
    highest = max(hits.alphas, key=lambda one: round(hits.draw_means(one).mean(), 12))
    found = f"best in hindsight: α = {highest:g}"
    return _finding(ends, band.n, len(hits.draws), settled=settled, found=found)


def _best_size(data: _Data) -> _Finding | None:
    """Every other number of labelled clips minus the sweep's, with a band for all together."""
    reference, sizes = data.reference_size, data.sizes
    if not sizes:
        return None
    others = [[hits] for n, hits in sizes.items() if n != reference]
    highest = max(sizes, key=lambda n: round(sizes[n].mean(), 12))
    band = _gaps(data, others, [sizes[reference]])
    found = f"{reference:,} clips stand for 4,500; best in hindsight: {highest:,}"
    return _of_best(band, len(sizes[reference]), found)


def _largest_size(data: _Data) -> _Finding | None:
    reference, largest = data.reference_size, max(data.sizes, default=0)
    if data.subset_size is None or largest <= reference:
        return None
    table = size_comparisons(data.subset_size, reference, data.alpha, **data.settings)
    (row,) = table[table["value"] == largest].to_dict("records")
    return _of_row(row, expected="lower", found=f"{largest:,} clips against {reference:,}")


def _rank_curve(data: _Data, data_set: str, at_most: float) -> _Finding | None:
    """Logarithms of ranks are compared by text; the sorted curves, with a band for all cutoffs."""
    measure = Measure(data_set, "text_to_video", 1)
    if not data.swept([measure], data.alpha):
        return None
    where = (data_set, measure.direction)
    teacher, fused = model_ranks(data.sweep, *where, [0.0, data.alpha])
    found = paired_difference(
        np.log(teacher.to_numpy().T),
        np.log(fused.to_numpy().T),
        **data.settings,
    )
    order = curve_order(data.sweep, data.alpha, data_set=data_set, level=data.level, seed=data.seed)
    settled = ""
    if order["lower"] > at_most / 100 * order["cutoffs"]:
        settled = FAILS
    elif found.estimate < 0 and order["above"] > at_most / 100:
        settled = UNDECIDED
    return _finding(
        100 * np.expm1([found.estimate, found.low, found.high]),
        found.n,
        fused.shape[1],
        p_value=found.p_value,
        expected="lower",
        settled=settled,
        unit="% of the rank",
        found=f"of the curve's positions {order['below']:.1%} are below the teacher's, "
        f"{order['equal']:.1%} on it, {order['above']:.1%} above it",
    )


def _classes(data: _Data, classes: Sequence[str], expected: str) -> _Finding | None:
    """Fused minus teacher on the clips of some classes of Moments in Time."""
    if not data.swept([Measure("mit", CLASSIFICATION, 1)], data.alpha):
        return None
    rows = data.sweep[data.sweep["data_set"] == "mit"]
    chosen = rows[rows["label"].isin(classes)]
    if set(chosen["label"]) != set(classes):
        return None
    teacher, fused = (
        (ranks.to_numpy().T <= 1).astype(np.float64)
        for ranks in model_ranks(chosen, "mit", CLASSIFICATION, [0.0, data.alpha])
    )
    found = paired_difference(teacher, fused, **data.settings)
    ends = 100 * np.array([found.estimate, found.low, found.high])
    return _finding(ends, found.n, len(fused), p_value=found.p_value, expected=expected)


def _class_spread(data: _Data) -> _Finding | None:
    if not data.swept([Measure("mit", CLASSIFICATION, 1)], data.alpha):
        return None
    table = per_class_table(data.sweep, data.alpha, level=data.level)
    counts = table["verdict"].value_counts()
    higher, lower = counts.get("higher", 0), counts.get("lower", 0)
    return _finding(
        (math.nan, math.nan, math.nan),
        int(table["n"].sum()),
        int(table["draws"].iloc[0]),
        settled=HOLDS if higher and lower else UNDECIDED,
        unit="",
        found=f"of {len(table)} classes {higher} are higher and {lower} lower",
    )


def _references(data: _Data, of: str, minus: str, expected: str) -> _Finding | None:
    """Two reference models' difference on the mean of the five data sets."""
    if data.references is None:
        return None
    sides: list[list[np.ndarray]] = []
    items: list[list[pd.Index]] = []
    for model in (minus, of):
        rows = data.references[data.references["model"] == model]
        ranks = [
            rows[(rows["data_set"] == one.data_set) & (rows["direction"] == one.direction)]
            .set_index("item")["rank"]
            .sort_index()
            for one in ZERO_SHOT.measures
        ]
        if any(one.empty for one in ranks):
            return None
        items.append([one.index for one in ranks])
        sides.append(
            [
                (one <= measure.k).to_numpy(np.float64)
                for one, measure in zip(ranks, ZERO_SHOT.measures, strict=True)
            ]
        )
    if not all(one.equals(other) for one, other in zip(*items, strict=True)):
        raise ValueError(
            f"{of} and {minus} were not measured on the same clips; measure them again with the "
            "same frames"
        )
    found = paired_difference(*sides, **data.settings)
    ends = 100 * np.array([found.estimate, found.low, found.high])
    return _finding(ends, found.n, 1, p_value=found.p_value, expected=expected)


def _untested(data: _Data, reason: str) -> None:
    """Of a claim that no study measures; `reason` says why."""


@dataclass(frozen=True)
class _Test:
    test: Callable[..., _Finding | None]
    decided_by: str


PAIRED: Final = "paired test, Holm-corrected, and interval"
_BAND: Final = (
    "band for all together: holds if every other {} is lower, does not hold if one is higher"
)
_TESTS: Final = {
    "fusion": _Test(_fusion, PAIRED),
    "pseudo_labels": _Test(_pseudo_labels, PAIRED),
    "pseudo_labels_similar": _Test(
        _pseudo_labels_similar,
        "interval: holds within {margin} point of 0, does not hold beyond (the margin is ours); an "
        "interval of no width settles nothing",
    ),
    "best_alpha": _Test(_best_alpha, _BAND.format("α")),
    "close_alpha": _Test(
        _close_alpha,
        "band for all α together: holds if none is more than {margin} point better, does not hold "
        "if one is (the margin is ours); outcomes that do not differ at all settle nothing",
    ),
    "best_size": _Test(_best_size, _BAND.format("size")),
    "largest_size": _Test(_largest_size, PAIRED),
    "rank_curve": _Test(
        _rank_curve,
        "paired test of the ranks' logarithms, Holm-corrected, and interval; also, the curve must "
        "be above the teacher's at no more than {at_most}% of positions, and R@k lower at no more "
        "than {at_most}% of cutoffs k by a band for all (the shares are ours)",
    ),
    "classes": _Test(_classes, PAIRED),
    "class_spread": _Test(
        _class_spread,
        "tests of all classes: holds if some are higher and some lower at a false discovery rate "
        "of 5%; cannot be refuted",
    ),
    "references": _Test(_references, PAIRED),
    "untested": _Test(_untested, "not tested"),
}


def _covers(
    outcomes: pd.DataFrame | None, measures: Sequence[Measure], alphas: Sequence[float]
) -> bool:
    """Whether the outcomes have all of these alphas on each of the data sets."""
    if outcomes is None:
        return False
    rows = sweep_rows(outcomes)
    for measure in measures:
        place = (rows["data_set"] == measure.data_set) & (rows["direction"] == measure.direction)
        there = rows.loc[place, "alpha"].unique()
        if not all(np.isclose(there, alpha, atol=1e-9).any() for alpha in alphas):
            return False
    return True


def _gaps(data: _Data, others: Sequence[Sequence[np.ndarray]], one: Sequence[np.ndarray]) -> Band:
    """Hits of others minus one, with a band for all others; hits are [draws, items] a data set."""
    curves = []
    for place, hits in enumerate(one):
        draws = max(len(side[place]) for side in (one, *others))
        gaps = [np.broadcast_to(other[place] - hits, (draws, hits.shape[-1])) for other in others]
        curves.append(np.stack(gaps, axis=-1))
    return simultaneous_band(curves, level=data.level, seed=data.seed)


def _of_best(band: Band, draws: int, found: str) -> _Finding:
    """That no other is as high: one higher refutes it, all lower prove it."""
    settled = UNDECIDED
    if (band.high < 0).all():
        settled = HOLDS
    elif (band.low > 0).any():
        settled = FAILS
    # Against the strongest rival: the best one is as much better as the others are worse.
    place = int(band.estimate.argmax())
    ends = -100 * np.array([band.estimate[place], band.high[place], band.low[place]])
    return _finding(ends, band.n, draws, settled=settled, found=found)


def _of_row(row: Mapping[Any, Any], **rest: Any) -> _Finding:
    """The finding of a comparison's row, whose differences are fractions."""
    ends = [100 * row[name] for name in ("difference", "ci_low", "ci_high")]
    return _finding(ends, row["n"], row["draws"], **{"p_value": row["p_value"], **rest})


def _finding(ends: Sequence[float] | np.ndarray, n: int, draws: int, **rest: Any) -> _Finding:
    """The finding of an estimate and its two ends."""
    measured, low, high = map(float, ends)
    return _Finding(measured=measured, ci_low=low, ci_high=high, n=n, draws=draws, **rest)


def _verdict(finding: _Finding, p_holm: float, level: float) -> str:
    if finding.settled:
        return finding.settled
    ends = {"ci_low": finding.ci_low, "ci_high": finding.ci_high}
    side = decision({"p_holm": p_holm, "level": level} | ends)
    if side == "undecided":
        return UNDECIDED
    return HOLDS if side == finding.expected else FAILS


def _evidence(paper: str | Mapping[str, Any], numbers: Mapping[tuple[str, str, str], float]) -> str:
    """The paper's evidence in words; of two rows, their difference and the two.

    numbers: (data set, metric, the paper's row) -> value.
    """
    if isinstance(paper, str):
        return paper
    metrics = {one.data_set: _metric(one) for one in ZERO_SHOT.measures}
    chosen = paper.get("data_sets", metrics)
    of, minus = (
        float(np.mean([numbers[one, metrics[one], paper[side]] for one in chosen]))
        for side in ("of", "minus")
    )
    return f"{_signed(of - minus)} {_POINTS} ({of:.1f} − {minus:.1f})"


def _metric(measure: Measure) -> str:
    kind = "classification" if measure.direction == CLASSIFICATION else "retrieval"
    return next(name for name, k in SHARES[kind].items() if k == measure.k)


def _sentence(row: Mapping[Any, Any]) -> str:
    parts = [f"{row['claim']} ({row['where']})"]
    if not math.isnan(row["measured"]):
        interval, p = _interval(row), _p(row["p_holm"])
        parts.append(f"{_measured(row)} {interval}" + (f", p {p}" if p != "–" else ""))
    return ": ".join(parts) + (f"; {row['found']}" if row["found"] else "")


def _measured(row: Mapping[Any, Any]) -> str:
    return "–" if math.isnan(row["measured"]) else f"{_signed(row['measured'])} {row['unit']}"


def _interval(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["ci_low"]):
        return "–"
    return f"[{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]"


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "−")


def _p(p_value: float) -> str:
    if math.isnan(p_value):
        return "–"
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
