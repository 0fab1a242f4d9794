"""The committed outcomes of the default run rebuild its figure 3, without any training."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from figures.alpha_curve import alpha_curve, alpha_table
from figures.comparisons import fusion_comparisons

GALLERY = Path(__file__).parents[2] / "figures" / "gallery"


def test_figure_3_is_rebuilt_from_the_committed_outcomes() -> None:
    outcomes = pd.read_parquet(GALLERY / "outcomes.parquet")

    table = alpha_table(outcomes)
    figure = alpha_curve(outcomes)

    assert len(figure.axes) == 2
    in_domain = table[table["panel"] == "in_domain"]
    ranks = outcomes[outcomes["data_set"] == "webvid_val"]
    ranks = ranks[ranks["direction"] == "text_to_video"]
    for alpha, value in zip(in_domain["alpha"], in_domain["value"], strict=True):
        hits = ranks.loc[np.isclose(ranks["alpha"], alpha), "rank"] <= 5
        assert np.isclose(value, hits.mean())


def test_the_readme_shows_the_default_runs_table_of_claims_and_pictures_that_are_there() -> None:
    readme = (GALLERY.parents[1] / "README.md").read_text(encoding="utf-8")
    _, table, _ = (GALLERY / "claims.md").read_text(encoding="utf-8").strip().split("\n\n")
    assert table in readme
    pictures = re.findall(r"\]\(figures/gallery/([^)]+)\)", readme)
    assert pictures and [one for one in pictures if not (GALLERY / one).is_file()] == []


def test_the_readmes_headline_is_of_the_committed_outcomes() -> None:
    readme = (GALLERY.parents[1] / "README.md").read_text(encoding="utf-8")
    headline = readme.partition("| percent, ")[2].partition("\n\n")[0].splitlines()
    tests = fusion_comparisons(pd.read_parquet(GALLERY / "outcomes.parquet"))
    for row in tests.to_dict("records"):
        ends = (100 * row[name] for name in ("difference", "ci_low", "ci_high"))
        cell = "{:+.1f} [{:+.1f}, {:+.1f}] {}".format(*ends, row["verdict"])
        name = {"in_domain": "in-domain", "zero_shot": "zero-shot"}.get(row["scope"])
        starts = f"| {name}" if name else f"| `{row['scope']}`"
        [line] = [one for one in headline if one.startswith(starts)]
        assert line.split(" | ")[4 + (row["versus"] == "student")].removesuffix(" |") == cell
