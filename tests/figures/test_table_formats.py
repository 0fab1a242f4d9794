"""Tables to print, read back from each format."""

import html
import itertools
import re

import mistune
import numpy as np
import pandas as pd
import pytest

from figures import table_formats as formats
from figures.paper import DATASET_TABLES, RESULT_TABLES, paper_table, paper_values

HOSTILE = "a|b *c* <script>alert(1)</script> [x](javascript:y) 5% of $x_1 & #2 {~^\\}`"


def beside(shift=1.0):
    """Values that all lie `shift` above the paper's, each with an interval of 2 to either side."""
    rows = paper_values().rename(columns={"value": "paper"})
    value = rows["paper"] + shift
    ends = {"ci_low": value - 2, "ci_high": value + 2}
    counts = {"n": 987, "clips": 1000}
    types = dict.fromkeys(counts, "Int64")
    return rows.assign(value=value, **ends, **counts).astype(types)


def blank(table):
    """The same with nothing measured."""
    return table.assign(**dict.fromkeys(["value", "ci_low", "ci_high", "n", "clips"], pd.NA))


@pytest.mark.parametrize("name", RESULT_TABLES)
def test_each_column_has_the_measured_value_and_the_papers(name):
    table, paper = formats.result_table(name, beside()), paper_table(name).astype(float)
    depth = table.columns.nlevels
    assert depth == paper.columns.nlevels + 1
    sides = table.columns.get_level_values(depth - 1)
    assert list(sides) == ["here", "paper"] * paper.shape[1]
    there = table.loc[:, sides == "paper"].to_numpy()
    np.testing.assert_array_equal(there, paper.to_numpy())
    np.testing.assert_allclose(table.loc[:, sides == "here"].to_numpy() - there, 1)
    assert table.index.tolist() == paper.index.tolist()
    # Printed cells read back as the numbers.
    numbers = formats.result_table(name, beside(0.0))
    back = formats.printed(numbers).map(lambda text: float(text.replace("−", "-")))
    np.testing.assert_allclose(back.to_numpy(), numbers.to_numpy(), atol=1e-9)
    texts = formats.printed(formats.result_table(name, blank(beside())))
    for column in texts.columns:
        assert {column[-1] == "here"} == {text == "–" for text in texts[column]}


def test_printed_as_the_paper_prints():
    texts = formats.printed(formats.result_table("5b", beside(0.25)))
    rows = ["Teacher (CLIP)", "Student", "FitCLIP", "Δ", "Error rate reduction (%)"]
    assert texts.index.tolist() == rows
    assert texts[("MdR", "paper")].tolist() == ["94", "159", "75", "+19", "+20.2"]
    assert texts[("MdR", "here")].tolist() == ["94.2", "159.2", "75.2", "+19.2", "+20.4"]
    assert texts[("R@1", "paper")].tolist() == ["5.3", "2.9", "5.8", "+0.5", "+0.5"]
    texts = formats.printed(formats.result_table("5a", beside()))
    assert texts[("MdR", "paper")].tolist() == ["4", "4", "3", "+1", "+25.0"]
    texts = formats.printed(formats.result_table("4b", beside(1.18)))
    assert texts[("Top 1", "paper")].tolist()[3:] == ["−1.2", "−4.7"]
    assert texts[("Top 1", "here")].tolist()[3:] == ["+0.0", "−3.5"]  # -0.02: no minus before 0.0


def test_counts_of_this_run_stand_beside_the_papers():
    here = {"MSR-VTT": {"samples": 1000}, "MiT": {"samples": 72, "classes": 40}}
    table = formats.printed(formats.data_set_table("1b", here))
    counts = [(name, side) for name in ("classes", "samples") for side in ("here", "paper")]
    assert list(table.columns) == counts
    rows = [["40", "339", "72", "33,900"], ["–", "101", "–", "1,794"]]
    assert table.to_numpy().tolist() == rows
    table = formats.printed(formats.data_set_table("1a", here))
    assert table.columns.get_level_values(1).tolist() == ["", "", "here", "paper"]
    assert table.to_numpy().tolist()[2] == ["images", "clean", "–", "37,500,000"]


def test_data_sets_and_tables_that_the_paper_lacks_are_refused():
    with pytest.raises(ValueError, match=r"no data set \['msrvtt'\]; it has"):
        formats.data_set_table("1b", {"msrvtt": {"samples": 3}})
    with pytest.raises(ValueError, match="'5a' is none of data sets"):
        formats.data_set_table("5a", {})
    with pytest.raises(ValueError, match="no table '7'"):
        formats.result_table("7", beside())


def test_bold_in_table_6_is_the_papers_and_equal_values_are_both_bold():
    numbers = formats.result_table("6", beside())
    bold = formats.better(numbers)
    titles = bold.columns.get_level_values(0)
    shown = {
        title: set(bold.index[values])
        for title, values in zip(titles, bold.to_numpy().T, strict=True)
    }
    # As the page has it; "here" is the paper's plus one, so the same.
    assert shown == {
        **{"UCF101": {"FitCLIP"}, "MiT": {"WiSE-FT"}, "MSR-VTT": {"WiSE-FT"}},
        **{"YouCook2": {"FitCLIP"}, "DiDeMo": {"WiSE-FT"}},
    }
    assert bold.to_numpy().sum() == 10
    first, second = numbers.columns[0], numbers.columns[2]
    numbers.loc[["WiSE-FT", "FitCLIP"], [first]] = [[50.04], [49.96]]  # both print as 50.0
    numbers.loc["WiSE-FT", [second]] = np.nan
    bold = formats.better(numbers)
    assert bold.loc[["WiSE-FT", "FitCLIP"], [first]].all(axis=None)
    assert not bold[second].any()


def test_headline_by_hand():
    numbers = formats.headline_numbers(beside())
    assert numbers.index.tolist() == [
        *("DiDeMo, R@5", "MSR-VTT, R@5", "YouCook2, R@5", "MiT, Top 1", "UCF101, Top 1")
    ]
    texts = formats.headline_printed(numbers)
    assert texts.loc["MSR-VTT, R@5"].to_dict() == {
        ("Teacher", "paper"): "55.1",
        ("Teacher", "here"): "56.1",
        ("Student", "paper"): "52.6",
        ("Student", "here"): "53.6",
        ("FitCLIP", "paper"): "59.8",
        ("FitCLIP", "here"): "60.8",
        ("FitCLIP", "95% interval"): "[58.8, 62.8]",
        ("Gain", "paper"): "+4.7",
        ("Gain", "here"): "+5.7",
        ("Gain", "95% interval"): "[+3.7, +7.7]",
        ("Clips", "here"): "987 of 1,000",
    }
    assert texts.loc["UCF101, Top 1", ("Gain", "paper")] == "−1.2"
    two = beside()
    two.loc[~two["data_set"].isin(["msrvtt", "ucf101"]), "value"] = np.nan
    names = ["MSR-VTT, R@5", "UCF101, Top 1"]
    assert formats.headline_numbers(two).index.tolist() == names
    nothing = formats.headline_printed(formats.headline_numbers(blank(beside())))
    for column in nothing.columns:
        assert (column[1] == "paper") == bool((nothing[column] != "–").any())


def test_captions_name_table_and_data_set_and_count_the_clips():
    nothing = blank(beside())
    captions = {formats.caption_of(name, nothing) for name in (*DATASET_TABLES, *RESULT_TABLES)}
    assert len(captions) == 14
    start = "The paper's table 4b: UCF101, zero-shot action"
    assert formats.caption_of("4b", nothing).startswith(start)
    assert formats.caption_of("6", nothing).endswith("the better one in bold")
    table = beside()
    assert formats.caption_of("5a", table).endswith("their fusion (987 of 1,000 clips)")
    table["n"] = pd.array([1000] * len(table), "Int64")
    assert formats.caption_of("5a", table).endswith("their fusion (1,000 clips)")
    table.loc[(table["table"] == "5a") & (table["model"] == "Student"), "n"] = 980
    assert formats.caption_of("5a", table).endswith("(980 to 1,000 of 1,000 clips)")
    table.loc[table["data_set"].isin(["didemo", "mit", "youcook2"]), "n"] = pd.NA
    assert formats.caption_of("6", table).endswith("in bold (clips: UCF101 1,000, MSR-VTT 1,000)")


# The formats, read back


def small(depth, cell=HOSTILE):
    names = [f"{cell}{place}" for place in range(2)]
    columns = pd.Index(names)
    if depth > 1:
        columns = pd.MultiIndex.from_product([[f"{cell}top"], names])
    table = pd.DataFrame([[cell, "1.0"], ["–", "−2.5"]], columns=columns, index=[cell, "b"])
    return table.rename_axis("Row")


def cells_of(page):
    """Texts of the cells of an HTML page's tables, without what marks them up."""
    plain = re.sub(r"</?(?:strong|b)>", "", page)
    found = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", plain, re.DOTALL)
    assert not [cell for cell in found if "<" in cell]
    return [html.unescape(cell) for cell in found]


@pytest.mark.parametrize("depth", [1, 2])
def test_markdown_and_html_are_read_back_as_the_same_texts(depth):
    texts = small(depth)
    names = texts.columns if depth == 1 else [" ".join(one) for one in texts.columns]
    body = [HOSTILE, HOSTILE, "1.0", "b", "–", "−2.5"]
    page = mistune.create_markdown(escape=False, plugins=["table"])(
        formats.markdown(texts, HOSTILE, "results 0123 · <b>")
    )
    assert [cell.strip() for cell in cells_of(page)] == ["Row", *names, *body]
    assert f"<p>{html.escape(HOSTILE, quote=False)}</p>" in page
    assert "<script" not in page and "href" not in page
    page = formats.page(texts, HOSTILE, "results 0123 · <b>")
    cells = cells_of(page)
    assert cells[-6:] == body and {"Row", f"{HOSTILE}1"} <= set(cells)
    assert f"<p>{html.escape(HOSTILE)}</p>" in page and "0123 · &lt;b&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize("depth", [1, 2])
def test_latex_is_a_table_whose_special_letters_are_escaped(depth):
    text = formats.latex(small(depth), "Δ at α = 0.4", "results 0123 · a_b")
    assert r"\caption{$\Delta$ at $\alpha$ = 0.4 (results 0123 $\cdot$ a\_b).}" in text
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{llr}"):
        assert text.count(command) == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == depth + 2
    assert rows[-1] == r"b & -- & $-$2.5 \\"
    assert rows[-2].startswith(
        r"a|b *c* $<$script$>$alert(1)$<$/script$>$ [x](javascript:y) 5\% of \$x\_1 \& \#2 "
        r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}` & a|b"
    )
    plain = re.sub(r"\\[%$#&_{}]", "", text)
    assert plain.count("$") % 2 == 0 and plain.count("{") == plain.count("}")
    for line in rows[depth - 1 :]:
        assert re.sub(r"\\&", "", line).count("&") == 2


def test_long_latex_tables_go_over_pages_and_wide_ones_get_small_letters():
    long = pd.DataFrame({"text": ["a rather long text, in words"] * 30, "n": ["1"] * 30})
    text = formats.latex(long, "c", "p")
    assert r"\begin{longtable}{rp{0.12\linewidth}r}" in text and r"\begin{table}" not in text
    assert text.count(r"\footnotesize") == 1 and "longtable" in text.splitlines()[0]
    wide = pd.DataFrame([["1"] * 12], columns=[f"c{place}" for place in range(12)])
    assert r"\footnotesize" in formats.latex(wide, "c", "p")
    assert r"\footnotesize" not in formats.latex(wide.iloc[:, :4], "c", "p")


def test_bold_cells_in_each_format():
    texts = small(1, cell="x")
    bold = pd.DataFrame([[False, True], [False, False]], texts.index, texts.columns)
    assert "| x | **1.0** |" in formats.markdown(texts, "c", "p", bold)
    assert r"x & \textbf{1.0} \\" in formats.latex(texts, "c", "p", bold)
    assert re.search("<td *><b>1.0</b></td>", formats.page(texts, "c", "p", bold))


def test_files_of_a_table(tmp_path):
    numbers = formats.result_table("6", beside())
    provenance = {"results": "0123456789abcdef", "commit": "fedcba9876543210"}
    stem = tmp_path / "new" / "table6"
    texts, bold = formats.printed(numbers), formats.better(numbers)
    paths = formats.write(stem, numbers, texts, "Table", provenance, bold)
    assert [path.name for path in paths] == [
        *("table6.csv", "table6.md", "table6.tex", "table6.html")
    ]
    back = pd.read_csv(paths[0], index_col=0)
    np.testing.assert_allclose(back.to_numpy(), numbers.to_numpy())
    assert back.columns[0] == "UCF101 top1 here"
    for path in paths[1:]:
        text = path.read_text(encoding="utf-8")
        assert "results 0123456789ab" in text and "commit fedcba987654" in text
        assert "0123456789abc" not in text
    with pytest.raises(ValueError, match="written with its provenance"):
        formats.write(stem, numbers, texts, "Table", {})


def test_a_table_without_names_of_rows_has_none_in_its_csv(tmp_path):
    numbers = pd.DataFrame({"value": [1.5, np.nan]})
    texts = pd.DataFrame({"value": ["1.5", "–"]}, index=["a", "b"])
    path, *_ = formats.write(tmp_path / "t", numbers, texts, "c", {"results": "0"})
    assert path.read_text() == 'value\n1.5\n""\n'


def test_a_users_options_of_pandas_change_nothing():
    users = {
        "display.colheader_justify": "left", "display.multi_sparse": False,
        "display.html.use_mathjax": False, "display.max_colwidth": 3, "display.precision": 1,
        "display.max_columns": 1, "styler.sparse.columns": False, "styler.latex.hrules": True,
        "styler.latex.environment": "longtable", "styler.format.escape": "latex",
    }  # fmt: skip
    for depth, form in itertools.product((1, 2), (formats.markdown, formats.latex, formats.page)):
        expected = form(small(depth), "a caption", "x")
        with pd.option_context(users):
            assert form(small(depth), "a caption", "x") == expected
