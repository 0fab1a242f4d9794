"""Tables with the paper's values beside the measured ones, as numbers and as texts to print."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.io.formats.style import Styler

from figures.comparisons import LEVEL
from figures.measures import ZERO_SHOT
from figures.paper import DATASET_TABLES, DELTA, FUSED, REDUCTION, TITLES, layout, paper_table
from figures.provenance import line as provenance_line
from figures.provenance import with_commit
from fitclip_kit.store.files import atomic_path, write_text
from fitclip_kit.store.results import CLASSIFICATION

HERE: Final = "here"
PAPER: Final = "paper"
BLANK: Final = "–"

_COUNTS: Final = ("samples", "classes")
_PRINTED: Final = {"top1": "Top 1", "top5": "Top 5"}
_HEADLINE: Final = {"Teacher": "Teacher (CLIP)", "Student": "Student", FUSED: FUSED, "Gain": DELTA}
# Its columns -> the model and the column of `beside_paper`.
_HEADLINE_COLUMNS: Final = {
    (title, side): (model, column)
    for title, model in _HEADLINE.items()
    for side, column in {PAPER: "paper", HERE: "value", "low": "ci_low", "high": "ci_high"}.items()
    if side in (PAPER, HERE) or model in (FUSED, DELTA)
} | {("Clips", HERE): (FUSED, "n"), ("Clips", "asked for"): (FUSED, "clips")}
_RIVALS: Final = ["WiSE-FT", FUSED]  # of table 6, where the paper sets the better one in bold
_CAPTIONS: Final = {
    "1a": "data sets for pretraining",
    "1b": "data sets of zero-shot action recognition",
    "1c": "data sets of zero-shot text-to-video retrieval",
    "2": "zero-shot action recognition, Frozen in Time by pretraining data",
    "3": "zero-shot text-to-video retrieval, Frozen in Time by pretraining data",
    "4": "zero-shot action recognition, teacher, student and their fusion",
    "5": "zero-shot text-to-video retrieval, teacher, student and their fusion",
    "6": "labels alone (WiSE-FT) and with pseudo-labels (FitCLIP), the better one in bold",
}
_LATEX: Final = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"Δ": r"$\Delta$", "α": r"$\alpha$", "λ": r"$\lambda$", "·": r"$\cdot$"}
    | {"−": "$-$", "–": "--", "<": "$<$", ">": "$>$"}
)
_LONG_TABLE: Final = 25  # rows from which a LaTeX table goes over several pages, in small letters
_WIDE_TABLE: Final = 12  # columns from which it is in small letters
_LONG_TEXT: Final = 20  # letters from which its columns have several lines
# Of underscores those that could begin or end a stressed word, of ampersands those of entities.
_MARKDOWN: Final = re.compile(r"([\\`*|<$~]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")
_FORMULA: Final = re.compile(r"\s*[=+\-@＝＋－＠]")  # what spreadsheets compute; they skip spaces
# A number, maybe with others beside.
_SIGNED: Final = re.compile(r"[-+][\d.,]+(?: \([^A-Za-z]*\))?")


def result_table(table: str, beside: pd.DataFrame) -> pd.DataFrame:
    """One of tables 2 to 6 in percent (MdR: ranks), each column split into "here" and "paper".

    beside: what `paper_tables.beside_paper` gives. Raises: ValueError for another table.
    """
    sides = {HERE: layout(beside, table, "value"), PAPER: paper_table(table).astype(float)}
    both = {
        (*_levels(column), side): numbers[column]
        for column in sides[PAPER].columns
        for side, numbers in sides.items()
    }
    return pd.DataFrame(both).rename_axis(None)


def data_set_table(table: str, here: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """One of tables 1a to 1c, the counts split into "here" and "paper".

    here: the paper's name of a data set, such as "MSR-VTT" -> its samples and classes in this run.

    Raises: ValueError for another table, or a data set that is in none of them.
    """
    if table not in DATASET_TABLES:
        raise ValueError(f"table {table!r} is none of data sets; give one of {DATASET_TABLES}")
    known = {name for one in DATASET_TABLES for name in paper_table(one).index}
    if unknown := sorted(set(here) - known):
        raise ValueError(f"the paper has no data set {unknown}; it has {sorted(known)}")
    paper = paper_table(table)
    columns: dict[tuple[str, str], Any] = {}
    for name in paper.columns:
        if name in _COUNTS:
            counts = [here.get(data_set, {}).get(name) for data_set in paper.index]
            columns[name, HERE] = pd.array(counts, "Int64")
        columns[name, PAPER if name in _COUNTS else ""] = paper[name]
    return pd.DataFrame(columns, index=paper.index).rename_axis(None)


def headline_numbers(beside: pd.DataFrame) -> pd.DataFrame:
    """The zero-shot data sets' R@5 or top-1: teacher, student, fusion, its gain over the teacher.

    beside: what `paper_tables.beside_paper` gives. Data sets without a measured number are left
    out, unless there is none with one. Columns: of _HEADLINE_COLUMNS, in percent.

    Source: supplement, tables 4 and 5.
    """
    rows = beside[beside["table"] != "6"].set_index(["data_set", "metric", "model"]).sort_index()
    measured = set(rows.index[rows["value"].notna()].get_level_values("data_set"))
    measures = [one for one in ZERO_SHOT.measures if one.data_set in measured]
    table = {}
    for measure in measures or ZERO_SHOT.measures:
        metric = "top1" if measure.direction == CLASSIFICATION else "R@5"
        of_set: Any = rows.loc[(measure.data_set, metric)]
        numbers = {name: of_set.loc[place] for name, place in _HEADLINE_COLUMNS.items()}
        table[f"{TITLES[measure.data_set]}, {_PRINTED.get(metric, metric)}"] = numbers
    found = pd.DataFrame.from_dict(table, orient="index").rename_axis("Data set")
    found.columns = pd.MultiIndex.from_tuples([*found.columns])
    return found.astype(dict.fromkeys(found[["Clips"]].columns, "Int64"))


def headline_printed(numbers: pd.DataFrame) -> pd.DataFrame:
    """The texts of `headline_numbers`, each interval in one column."""
    texts: dict[tuple[str, str], list[str]] = {}
    for title, model in _HEADLINE.items():
        sides = {
            side: [_number(model, "", value) for value in numbers[title, side]]
            for side in numbers[title]
        }
        texts |= {(title, side): sides[side] for side in (PAPER, HERE)}
        if "low" in sides:
            texts[title, f"{LEVEL:.0%} interval"] = [
                BLANK if low == BLANK else f"[{low}, {high}]"
                for low, high in zip(sides["low"], sides["high"], strict=True)
            ]
    clips = numbers["Clips"].itertuples(index=False, name=None)
    texts["Clips", HERE] = [BLANK if pd.isna(n) else _covered(n, n, of) for n, of in clips]
    return pd.DataFrame(texts, index=numbers.index)


def printed(numbers: pd.DataFrame) -> pd.DataFrame:
    """The texts of a `result_table` or `data_set_table`; "–" where there is no number.

    Gains and error-rate reductions have their sign; positive is better.
    """
    texts = {
        column: [_number(str(row), column[-2], value) for row, value in numbers[column].items()]
        for column in numbers.columns
    }
    table = pd.DataFrame(texts)
    table.columns = pd.MultiIndex.from_tuples(
        [tuple(_PRINTED.get(name, name) for name in column) for column in numbers.columns]
    )
    return table.set_axis(["Δ" if row == DELTA else str(row) for row in numbers.index])


def better(numbers: pd.DataFrame) -> pd.DataFrame:
    """Which cells of a table 6 are set in bold: the better of WiSE-FT and FitCLIP, as printed.

    numbers: `result_table("6", ...)`. Equal values are both in bold; where one is missing, none is.
    """
    bold = pd.DataFrame(False, index=numbers.index, columns=numbers.columns)
    rivals = numbers.loc[_RIVALS].round(1)
    bold.loc[_RIVALS] = rivals.eq(rivals.max()) & rivals.notna().all()
    return bold


def caption_of(table: str, beside: pd.DataFrame) -> str:
    """What one of the paper's tables shows, and how many clips `beside_paper` covers of it."""
    rows = beside[beside["table"] == table]
    data_sets = rows["data_set"].unique()
    what = _CAPTIONS.get(table) or _CAPTIONS[table[0]]
    of = f"{TITLES[data_sets[0]]}, " if len(data_sets) == 1 else ""
    caption = f"The paper's table {table}: {of}{what}"
    covered = {
        str(data_set): _covered(part["n"].min(), part["n"].max(), part["clips"].max())
        for data_set, part in rows[rows["n"].notna()].groupby("data_set", sort=False)
    }
    if not covered:
        return caption
    if len(data_sets) == 1:
        return f"{caption} ({covered[data_sets[0]]} clips)"
    listed = ", ".join(f"{TITLES[name]} {clips}" for name, clips in covered.items())
    return f"{caption} (clips: {listed})"


def markdown(
    texts: pd.DataFrame, caption: str, provenance: str, bold: pd.DataFrame | None = None
) -> str:
    """A table of texts as Markdown (with the tables of GitHub's), its first column the index."""
    table = _escaped(texts, bold, escape_markdown, "**{}**")
    right = (_is_number(texts[column]) for column in texts.columns)
    lines = [
        [_joined(column) for column in table.columns],
        ["---", *("---:" if number else "---" for number in right)],
        *table.to_numpy().tolist(),
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{escape_markdown(caption)}\n\n{body}\n\n{escape_markdown(provenance)}\n"


def latex(
    texts: pd.DataFrame, caption: str, provenance: str, bold: pd.DataFrame | None = None
) -> str:
    """A table of texts as LaTeX (packages booktabs and, for long ones, longtable).

    The caption ends with the provenance.
    """
    table = _escaped(texts, bold, _escape_latex, r"\textbf{{{}}}")
    # After the end of a row or a rule, a bracket or a star would be an option of theirs.
    heads = [f"{{}}{text}" if text[:1] in ("[", "*") else text for text in table.iloc[:, 0]]
    table.isetitem(0, heads)
    long = len(table) >= _LONG_TABLE
    columns = [pd.Series(map(str, texts.index)), *(texts[name] for name in texts)]
    body = _styled(table).to_latex(
        column_format="".join(
            _latex_column(column, width=(0.12 if place else 0.24) if long else None)
            for place, column in enumerate(columns)
        ),
        hrules=True,
        multicol_align="c",
        sparse_columns=True,
        environment="longtable" if long else "table",
        position_float=None if long else "centering",
        caption=f"{_escape_latex(caption)} ({_escape_latex(provenance)}).",
    )
    small = r"\footnotesize\setlength{\tabcolsep}{3pt}" + "\n"
    if long:
        return f"% packages: booktabs, longtable\n{{{small}{body}}}\n"
    start = small if len(columns) >= _WIDE_TABLE else ""
    return "% packages: booktabs\n" + body.replace(r"\begin{tabular}", start + r"\begin{tabular}")


def page(
    texts: pd.DataFrame, caption: str, provenance: str, bold: pd.DataFrame | None = None
) -> str:
    """A table of texts as a piece of HTML: caption, table and provenance."""
    table = _styled(_escaped(texts, bold, html.escape, "<b>{}</b>"))
    body = table.to_html(
        exclude_styles=True, sparse_columns=True, table_attributes='class="paper-table"'
    )
    footer = f"<p><small>{html.escape(provenance)}</small></p>"
    return f"<p>{html.escape(caption)}</p>\n{body}{footer}\n"


def write(
    stem: Path,
    numbers: pd.DataFrame,
    texts: pd.DataFrame,
    caption: str,
    provenance: Mapping[str, str],
    bold: pd.DataFrame | None = None,
) -> list[Path]:
    """Write `stem`.csv (the numbers), .md, .tex and .html (the texts) atomically, to these paths.

    In the CSV, a text that a spreadsheet would compute has a `'` before it.

    Raises: ValueError when the provenance is empty.
    """
    line = provenance_line(with_commit(provenance))
    formats = {"md": markdown, "tex": latex, "html": page}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", *formats)]
    names = [_no_formula(_joined(column)) for column in numbers]
    flat = numbers.set_axis(names, axis=1).apply(
        lambda column: column if is_numeric_dtype(column) else column.map(_no_formula)
    )
    named = not isinstance(numbers.index, pd.RangeIndex)
    if named:
        flat = flat.rename(index=_no_formula)
    with atomic_path(paths[0]) as temporary:
        flat.to_csv(temporary, index=named)
    for path, render in zip(paths[1:], formats.values(), strict=True):
        write_text(path, render(texts, caption, line, bold))
    return paths


def _levels(column: Any) -> tuple[str, ...]:
    return column if isinstance(column, tuple) else (str(column),)


def _number(row: str, metric: str, value: Any) -> str:
    if pd.isna(value):
        return BLANK
    if isinstance(value, str):
        return value
    if metric in _COUNTS:
        return f"{value:,}"
    rounded = round(float(value), 1) + 0.0  # no minus before 0.0
    text = f"{rounded:+.1f}" if row in (DELTA, REDUCTION) else f"{rounded:.1f}"
    text = text.replace("-", "−")
    return text.removesuffix(".0") if metric == "MdR" and row != REDUCTION else text


def _covered(least: int, most: int, of: int) -> str:
    """How many clips were measured, where models may differ, of how many."""
    measured = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return measured if least == of else f"{measured} of {of:,}"


def _escaped(
    texts: pd.DataFrame, bold: pd.DataFrame | None, escape: Callable[[str], str], strong: str
) -> pd.DataFrame:
    """The texts with their index as first column, everything escaped, for one format."""
    cells = texts.map(escape)
    if bold is not None:
        cells = cells.mask(bold.to_numpy(), cells.map(strong.format))
    depth = texts.columns.nlevels
    names = [(str(texts.index.name or ""), *[""] * (depth - 1)), *map(_levels, texts.columns)]
    names = [tuple(map(escape, name)) for name in names]
    table = cells.reset_index(drop=True)
    table.insert(0, names[0], [escape(str(name)) for name in texts.index])
    if depth == 1:
        return table.set_axis([name for (name,) in names], axis=1)
    return table.set_axis(pd.MultiIndex.from_tuples(names), axis=1)


def _styled(table: pd.DataFrame) -> Styler:
    """Texts as they are, whatever a user's options of pandas."""
    return Styler(table, escape=None).format(str).hide(axis="index")


def _joined(column: Any) -> str:
    return " ".join(filter(None, _levels(column)))


def _is_number(texts: pd.Series) -> bool:
    return all(re.match(r"[-+−–<\[]|\d", text) for text in texts)


def _latex_column(texts: pd.Series, width: float | None) -> str:
    """How LaTeX sets a column: numbers to the right, long texts within a width, if any is given."""
    if width is not None and max(map(len, texts)) >= _LONG_TEXT:
        return rf"p{{{width}\linewidth}}"
    return "r" if _is_number(texts) else "l"


def escape_markdown(text: str) -> str:
    """A text on one line that Markdown shows as it is."""
    # Brackets are left alone unless they make a link: some readers take \\[ for mathematics.
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _escape_latex(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # alone it would end the row
    return f"'{text}" if _FORMULA.match(text) and not _SIGNED.fullmatch(text) else text
