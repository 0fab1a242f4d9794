"""Texts from profiles, annotations and file names stay texts: in notebooks, pages and tables.

What is made with a hostile text has to have the elements and attributes of what is made with a
harmless one. The slider's own tests put such texts on its pages.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mistune
import nbformat
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from markdown_it import MarkdownIt
from papermill.parameterize import parameterize_notebook

from figures import table_formats
from figures.beyond import classes_in_words
from fitclip_kit.engine import report, run
from fitclip_kit.engine.settings import (
    ParameterError,
    declared_parameters,
    merge_profile,
    read_profile,
)
from fitclip_kit.slider import serve
from fitclip_kit.weights.export import write_card
from tests.small_project import fitclip, make_project, write_notebook

MARK = "pwned"  # the file that code in a text would leave
CODE = f"open({MARK!r}, 'w')"
LITERALS = (
    *(f"'; {CODE}; '", f'"; {CODE}; "', f"'''; {CODE}; '''", f'"""\n{CODE}\n"""', f"\n{CODE}\n"),
    *(f"{{{CODE}}}", f"f'{{{CODE}}}'", f"__import__('os').system('touch {MARK}')", f"${{{CODE}}}"),
    *(f"\\'; {CODE} #", f'\\"; {CODE} #', f"\\\n{CODE}", "\\", "\\\\", '\\"', f"#\r{CODE}"),
    *(f"\u2028{CODE}", f"\u2029{CODE}", f"\x0c{CODE}", f"\x0b{CODE}", f"\x85{CODE}", f"\x1c{CODE}"),
    *(f"\n!touch {MARK}", f"\n%%bash\ntouch {MARK}", f"%run {MARK}", "open?", "open??", "?open"),
    *(f"{{{{ {CODE} }}}}", f"{{% raw %}}{CODE}", "%s %(x)s %d", "{0.__class__}", "{pm[run_uuid]}"),
    *("\0", "\ud800", "\U000e0001", "\u202e", "\x1b]0;x\x07", "", " ", "None", "nan", "1e999"),
    *("\N{FULLWIDTH APOSTROPHE}", "é", "e\u0301", "x" * 10_000, "café # help", "a = 1", "=1"),
)
NUMBERS = (0.1, -0.0, 5e-324, 1.7976931348623157e308, -1e-9, 1e22)


# Parameters


def assigned(source: str) -> dict[str, Any]:
    """What a cell assigns that only assigns literals."""
    found = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def through_papermill(values: dict[str, Any]) -> nbformat.NotebookNode:
    """A notebook with the parameters cell that the runner's papermill puts there."""
    cell = nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})
    return parameterize_notebook(notebook, values, kernel_name="python3", language="python")


def arrived(way: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a kernel is given that runs the stored notebook's parameters cell as it stands."""
    stored = nbformat.reads(nbformat.writes(WAYS[way](values)), as_version=4)
    cells = [cell.source for cell in stored.cells if cell.cell_type == "code"]
    source = cells[1 if way == "papermill" else 0]
    assert TransformerManager().transform_cell(source).rstrip() == source.rstrip(), "magic"
    return assigned(source)


WAYS = {"papermill": through_papermill, "page": serve.page_notebook}


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_arrives_as_the_literal(way: str) -> None:
    values: dict[str, Any] = {f"text{place}": text for place, text in enumerate(LITERALS)}
    values |= {f"number{place}": number for place, number in enumerate(NUMBERS)}
    values |= {"texts": list(LITERALS), "numbers": list(NUMBERS), "on": True, "nested": [["'"]]}
    assert repr(arrived(way, values)) == repr(values)


@pytest.mark.parametrize("way", WAYS)
@given(value=st.text() | st.lists(st.text()) | st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=40, deadline=None)
def test_any_parameter_arrives_as_the_literal(way: str, value: Any) -> None:
    assert arrived(way, {"value": value}) == {"value": value}


RUNNABLE = (
    *(CODE, f"a = {CODE}", f"a = [{CODE}]", f"a = f'{{{CODE}}}'", f"a = '' if {CODE} else ''"),
    *(f"a = (lambda: {CODE})()", f"a = [x for x in {CODE}]", f"a = 1; {CODE}", f"(a := {CODE})"),
    *(f"a: {CODE} = 1", f"a = 1\n{CODE}", f"def a(x={CODE}): pass", f"@{CODE}\nclass a: pass"),
    *(f"import {MARK}", f"a = __import__('os').system('touch {MARK}')", f"a[{CODE}] = 1"),
    *(f"assert {CODE}", f"if {CODE}: a = 1", f"for a in {CODE}: pass", f"with {CODE} as a: pass"),
    *(f"!touch {MARK}", f"%run {MARK}", f"%%bash\ntouch {MARK}", f"a = !touch {MARK}", "a = ?x"),
    *(f"a = '''\n'''; {CODE}", f"a = 1 # \x0c\n{CODE}", f"del {MARK}", f"a = -{CODE}", "a = {**b}"),
    *("a = {[1]: 2}", "a = '\0'", "a = '\ud800'", "a = " + "-" * 20_000 + "1", "a = 1e999"),
    *("a = " + "'x' + " * 20_000 + "'y'", "a = " + "(" * 500, "a = " + "9" * 5000, "a = 1j"),
)


@pytest.mark.parametrize("place", range(len(RUNNABLE)))
def test_a_parameters_cell_is_read_and_not_run(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError) as refused:
        declared_parameters(RUNNABLE[place])
    assert len(str(refused.value)) < 300
    assert list(tmp_path.iterdir()) == []


@given(st.text() | st.text("a='\"\\\n[]#1.-{}() "))
@settings(max_examples=200)
def test_any_parameters_cell_is_literals_or_refused(source: str) -> None:
    try:
        declared = declared_parameters(source)
    except ParameterError:
        return
    assert repr(assigned(source)) == repr(declared)


TAGS = (
    *("!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!!python/x"),
    *("!!python/object/new:os.system ['touch pwned']", "!!python/module:os", "!local x", "!<x> y"),
    *("!!timestamp soon", "!!bool perhaps", "!!int many", "!!float much", "!!binary '@'", "'1'"),
    *("2024-99-99", "9" * 5000, ".nan", "-.inf", "1.0e+999", "0x" + "f" * 5000, "=", "!!null x"),
    *("[" * 3000, "{" * 3000, "*nowhere", "&a [*a]", "{? [a] : 1}", "{<<: {a: 1}}", "\0", "'"),
    *("2001-12-14 21:59:43.10 -25:99", "[[[[[1]]]]]", "{a: 1}", "~", "yes", "!!set x"),
)


@pytest.mark.parametrize("tag", TAGS, ids=range(len(TAGS)))
def test_yaml_makes_no_objects(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a profile holds where a number belongs, it is refused in words, or is a number."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "profile.yaml"
    file.write_text(f"common: {{value: {tag}}}\n")
    with pytest.raises(ParameterError) as refused:
        merge_profile(read_profile(file), {"01_one": {"value": 0.5}})
    assert len(str(refused.value)) < 1000
    assert list(tmp_path.iterdir()) == [file]


def test_a_small_profile_cannot_become_a_large_message(tmp_path: Path) -> None:
    """Ten aliases of ten aliases of ...: a thousand million texts in 40 lines."""
    levels = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    lines = ["common:", "  x0: &x0 laugh", *(f"  {level}" for level in levels), "  value: *x8"]
    file = tmp_path / "profile.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(
        ParameterError, match="01_one: value: wants a valid number, found "
    ) as refused:
        merge_profile(read_profile(file), {"01_one": {"value": 0.5}})
    assert len(str(refused.value)) < 2000


ARRIVED = """
import json
from pathlib import Path
from fitclip_kit.store.files import write_manifest, write_json
folder = Path(run_dir) / "STEM"
write_json(folder / "arrived.json", [run_dir, text, texts])
made = {"parameters": {}, "inputs": {}, "code": "", "outputs": [Path("arrived.json")]}
_ = write_manifest(folder, kind="STEM", **made)
"""


def test_hostile_values_run_nothing_on_their_way_to_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a profile's YAML, the runner, papermill, the kernel."""
    monkeypatch.setattr(run, "PACKAGES", ("fitclip_kit.store",))
    texts = [text for text in LITERALS if text != "\ud800"]  # no YAML file holds half a letter
    values = {"text": "".join(texts), "texts": texts}
    project = make_project(tmp_path, yaml.safe_dump({"01_one": values}, allow_unicode=False))
    declared = 'run_dir = ""  # folder\ntext = "x"  # a text\ntexts = ["x"]  # texts'
    write_notebook(project, "01_one", ARRIVED, parameters=declared)
    runs = tmp_path / f'{{run_dir}} {{}} it\'s "{CODE.replace("/", "")}" #'
    notebooks = project / "notebooks"
    assert fitclip(notebooks, "run", "--profile", "tiny", "--runs-dir", str(runs)) == 0
    content = json.loads((runs / "tiny" / "01_one" / "arrived.json").read_text())
    assert content == [os.path.relpath(runs / "tiny", notebooks), values["text"], texts]
    assert not list(tmp_path.rglob(MARK))


# Pages and tables

SCRIPT = "window.pwned=1"
TEXTS = (
    *(f"<script>{SCRIPT}</script>", f"<ScRiPt\n>{SCRIPT}</sCrIpT\n>", f"<script/x>{SCRIPT}<"),
    *(f'"><img src=x onerror="{SCRIPT}">', f"'><img src=x onerror='{SCRIPT}'>"),
    *(f"<svg onload={SCRIPT}>", f'" onmouseover="{SCRIPT}" x="', f"` onclick=`{SCRIPT}`"),
    *(f"</script><script>{SCRIPT}</script>", f"</style><script>{SCRIPT}</script>", "</svg></text>"),
    *(f"</title></textarea><script>{SCRIPT}//", "</td></tr></table><plaintext>", "</caption><b>"),
    *("<!-- no end", "--><b>", "]]><b>", "<![CDATA[<b>", "<?xml ?><b>", "<!doctype x>", "</b"),
    *(f"<a href=javascript:{SCRIPT}>x</a>", f"javascript:{SCRIPT}", f"<iframe srcdoc='{SCRIPT}'>"),
    *("<base href=//evil.example>", "<meta http-equiv=refresh content='0;url=//evil.example'>"),
    *("<link rel=stylesheet href=//evil.example>", "<style>*{display:none}</style>", "<form>"),
    *(f"${{{SCRIPT}}}", f"{{{{{SCRIPT}}}}}", "{% include '/etc/passwd' %}", "\\u003cscript\\u003e"),
    *("&lt;script&gt;", "&#60;b&#62;", "&amp;lt;", "\u2028<b>\u2029", "\uff1cb\uff1e", "\u202e<b>"),
    *(f"[x](javascript:{SCRIPT})", "![x](//evil.example/x.png)", "[x](<//evil.example>)", "[x][y]"),
    *("<//evil.example>", "<x@evil.example>", "`<b>`", "``` <b>", "**<b>**", "_<b>_", "~~x~~"),
    *("|<b>|", "\\<b>", "\\\\<b>", "\\`<b>\\`", "*x*", "$<b>$", "$$x$$", "\\(x\\)", "\\[x\\]"),
)
PLAIN = "plain words"


class Elements(HTMLParser):
    """The elements, in order, with the names of their attributes, and all that is not text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []
        self.said: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        aligned = ("style", "text-align:right"), ("style", "text-align: right;")
        names = sorted(one[0] for one in attrs if one not in aligned)
        self.found.append(" ".join([tag, *names]))
        taken = {"href", "src", "action", "srcset", "data", "style"}
        self.addresses += [value or "" for name, value in attrs if name in taken]

    def handle_endtag(self, tag: str) -> None:
        self.found.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append("markup")

    handle_decl = unknown_decl = handle_pi = handle_comment  # type: ignore[assignment]


def adds_nothing(make: Callable[[str], str], text: str) -> Elements:
    """What is made with the text has the elements of what is made with plain words."""
    with_text, without = Elements(make(text)), Elements(make(PLAIN))
    assert with_text.found == without.found
    for address in with_text.addresses:
        assert address.startswith(("data:image/", "#")) or address in without.addresses
    return with_text


# The report


def shown(kind: str, content: Any) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", {kind: content, "text/plain": "words"})


def outputs(text: str) -> list[nbformat.NotebookNode]:
    failed = {"ename": text, "evalue": text, "traceback": [text]}
    return [
        shown("text/markdown", f"It says {text} here."),
        shown("text/html", pd.DataFrame({text: [text]}, [text]).to_html()),
        shown("text/html", f"<table><tr><td>{text}</td></tr></table>"),
        shown("text/plain", text),
        shown("text/latex", text),
        shown("image/svg+xml", f"<svg>{text}</svg>"),
        nbformat.v4.new_output("display_data", {"application/json": {text: text}}),
        shown("application/vnd.jupyter.widget-view+json", {"model_id": text}),
        shown("application/javascript", text),
        nbformat.v4.new_output("stream", name="stdout", text=text),
        nbformat.v4.new_output("stream", name="stderr", text=text),
        nbformat.v4.new_output("error", **failed),
    ]


def of_the_report(text: str) -> str:
    cell = nbformat.v4.new_code_cell(f"x = {text!r}  # {text}", outputs=outputs(text))
    said = nbformat.v4.new_markdown_cell(f"# {text}\n\nwords {text} words")
    notebook = nbformat.v4.new_notebook(cells=[said, cell])
    notebook.metadata["title"] = text
    return report.render(report.join({"report": notebook}))


@pytest.mark.parametrize("text", [one for one in TEXTS if "<" in one and "\\" not in one])
def test_the_report_runs_and_loads_nothing(text: str) -> None:
    """Markdown and sanitised tables may gain marked-up words; nothing that acts."""
    page = of_the_report(text)
    found, plain = Elements(page), Elements(of_the_report(PLAIN))
    assert "".join(found.said).count(text) >= 3, "of the code, its output and its errors"
    harmless = {"b", "p", "em", "strong", "code", "pre", "span", "div", "blockquote", "table"}
    harmless |= {"tbody", "tr", "td", "a", "a href"}  # a link is followed by who clicks on it
    gained = {one for one in set(found.found) - set(plain.found) if one.lstrip("/") not in harmless}
    assert not gained
    for address in found.addresses:
        assert address in plain.addresses or not re.match(
            r"(?i)\s*(javascript|data:text|vb)", address
        )
    assert report.external_loads(page) == []


# Tables in other formats

MARKDOWN: dict[str, Callable[[str], Any]] = {
    "mistune": mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "math"]),
    "markdown-it": MarkdownIt("gfm-like", {"html": True, "linkify": False}).render,
}


def markdown_table(text: str) -> str:
    texts = pd.DataFrame({text: [text], "n": ["1.0"]}, index=pd.Index([text], name=text))
    bold = pd.DataFrame([[False, True]], texts.index, texts.columns)
    return table_formats.markdown(texts, f"A table of {text}", f"results {text}", bold)


def card(text: str) -> str:
    """A card with the text wherever a caller can put one; without its front matter."""
    one_line = " ".join(text.split())
    given: dict[str, Any] = dict.fromkeys(("title", "license", "base_model"), one_line)
    results = pd.DataFrame({text: [text], "n": [1]})
    with TemporaryDirectory() as folder:
        path = write_card(folder, **given, protocol={text: [text]}, results=results, tags=[text])
        written = path.read_text(encoding="utf-8")
    first, front, body = re.split(r"^---$", written, maxsplit=2, flags=re.MULTILINE)
    assert first == ""
    read = yaml.safe_load(front)
    assert [read["license"], read["base_model"], read["tags"][-1]] == [one_line, one_line, text]
    assert len(read) == 5
    return body


def words_on_classes(text: str) -> str:
    row = {"class": text, "n": 9, "alpha": 0.4, "difference": 0.2, "level": 0.95, "draws": 1}
    return classes_in_words(pd.DataFrame([row | {"verdict": "higher"}]))


FRONT_MATTER = (
    *("---", "x\n---\nlicense: other", "- x", "x: y", "{a: b}", "!!python/name:os.system", "&a *b"),
    *("# x", "yes", "null", "'", "%x", "...", "|", ">", "@x", "x #y"),
)


@pytest.mark.parametrize("reader", MARKDOWN)
@pytest.mark.parametrize("make", [markdown_table, card, words_on_classes])
def test_markdown_holds_texts_as_texts(reader: str, make: Callable[[str], str]) -> None:
    for text in (*TEXTS, *FRONT_MATTER):
        found = adds_nothing(lambda one: str(MARKDOWN[reader](make(one))), text)
        if make is markdown_table:
            assert " ".join(text.split()) in "".join(found.said)


COMMANDS = (
    *(r"\input{/etc/passwd}", r"\write18{touch pwned}", r"\def\x{", "^^5cinput x", "% gone", "}}"),
    *("$x$", "a & b", "#1", "~", "_", "^", "{", "\\", "\\\\", r"\\[5cm] x", "[5cm] x", "*x"),
    *("x\n\ny", r"\end{tabular}", r"\verb|x|", "\\\u2028input", "\\textbackslash", "--", "a\r\nb"),
)


@pytest.mark.parametrize("text", [*COMMANDS, *TEXTS])
def test_latex_tables_hold_texts_as_texts(text: str) -> None:
    """No command, group, column or row comes from a text, and no optional argument before one."""
    hostile, plain = (
        table_formats.latex(pd.DataFrame({one: [one], "n": ["1"]}, index=[one]), one, one)
        for one in (text, PLAIN)
    )
    known = {*re.findall(r"\\(?:[a-zA-Z]+|.)", plain, re.DOTALL)}
    letters = {"\\textbackslash", "\\textasciitilde", "\\textasciicircum", "\\cdot", "\\alpha"}
    found = {*re.findall(r"\\(?:[a-zA-Z]+|.)", hostile, re.DOTALL)}
    assert found <= known | letters | {f"\\{one}" for one in "&%$#_{}"}
    bare = re.sub(r"\\\\|\\[&%$#_{}]", "", hostile)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert [line.count("&") for line in bare.splitlines()] == [
        line.count("&") for line in re.sub(r"\\[&%$#_{}]", "", plain).splitlines()
    ]
    assert bare.count("%") == 1 and "^" not in bare and "~" not in bare
    assert not re.search(r"(?:\\\\|rule)\s*[\[*]", hostile)


FORMULAS = (
    *("=1+1", '=HYPERLINK("http://evil.example","x")', "=cmd|' /C calc'!A0", "+cmd|' /C calc'!A0"),
    *("-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "+A1", "-A1", " =1", "＝1"),
)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_tables_csv_holds_no_formula(text: str, tmp_path: Path) -> None:
    numbers = pd.DataFrame(
        {"text": [text, "+1.9 (21.8 − 19.9)"], text: [-1.5, 2]}, index=[text, "−2"]
    )
    texts = numbers.astype(str)
    path, *_ = table_formats.write(tmp_path / "t", numbers, texts, "c", {"results": "0"})
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    for cell in cells:
        starts = cell.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠")
        assert not starts or re.fullmatch(r"[-+][\d.]+( \([\d. −]+\))?", cell), cell
    assert sum(text.strip() in cell for cell in cells) == 3
    assert {"-1.5", "2.0", "+1.9 (21.8 − 19.9)", "−2"} <= set(cells)
