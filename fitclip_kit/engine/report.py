"""Join the executed notebooks of a run into one page that needs no network.

    python -m fitclip_kit.engine.report --profile mini [--runs-dir runs]

Writes runs/<profile>/report.html and, beside it, explore.html (`fitclip_kit.slider.page`). Exit
status: 0 written, 1 a notebook of the run is missing or not up to date, 2 bad parameters.
"""

from __future__ import annotations

import base64
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import nbformat
from jinja2 import DictLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode

from fitclip_kit.engine.command_line import profile_parser
from fitclip_kit.engine.parameters import ParameterError
from fitclip_kit.engine.run import HERE, Plan, make_plan
from fitclip_kit.engine.stamps import Files, reasons_to_run
from fitclip_kit.slider.page import explore
from fitclip_kit.store.code import code_commit
from fitclip_kit.store.files import read_manifest, write_text

SWEEP: Final = "04_alpha_sweep"
TABLES: Final = "08_supplementary_tables"
# What notebook 08 leaves for the first page: title -> file.
FIRST_PAGE: Final = {
    "Measured beside the paper": "headline.md",
    "Which of the paper's claims hold": "statement.md",
    "Claim by claim": "claims.md",
}
PACKAGES: Final = ("torch", "open_clip_torch", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")
# Nothing may be loaded and no script may run, whatever an output holds.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
_TEMPLATE: Final = f"""
{{%- extends 'index.html.j2' -%}}
{{%- block html_head_js -%}}
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
{{%- endblock html_head_js -%}}
{{%- block html_head_css -%}}
<style>[data-mime-type="application/vnd.jupyter.stderr"] {{ background: none !important; }}</style>
{{%- endblock html_head_css -%}}
{{%- block jupyter_widgets -%}}{{%- endblock jupyter_widgets -%}}
{{%- block html_head_js_mathjax -%}}{{%- endblock html_head_js_mathjax -%}}
{{%- block html_head_js_mermaidjs -%}}{{%- endblock html_head_js_mermaidjs -%}}
"""
# The tables that pandas and matplotlib leave as HTML need no other elements.
_TAGS: Final = ["div", "table", "thead", "tbody", "tr", "th", "td", "p", "b", "br", "small", "span"]
_ATTRIBUTES: Final = {"*": ["class", "colspan", "rowspan", "halign", "valign"]}
_STYLE: Final = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL | re.IGNORECASE)
_LOADS: Final = {"src", "srcset", "poster", "data", "background", "action"}
_CSS_URL: Final = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])(?!data:|#)([^'\")\s]+)")


class ReportError(RuntimeError):
    """A run that no report can be made of; says what is missing."""


def make_report(plan: Plan, profile: str) -> Path:
    """Write the run's notebooks as one page; returns its path.

    The first page has the tables and the statement that notebook 08 made, where it is one of the
    run's notebooks, and a picture of explore.html, which is written too. Each page is replaced
    atomically.

    Raises: ReportError naming each notebook that is missing or not up to date, or saying why the
    stored sweep cannot be shown.
    """
    _refuse_unfinished(plan)
    parts = [
        nbformat.read(plan.files(notebook).executed, as_version=4) for notebook in plan.notebooks
    ]
    stems = [notebook.stem for notebook in plan.notebooks]
    contents = {_anchor(stem): _title(part, stem) for stem, part in zip(stems, parts, strict=True)}
    first = [
        f"# The run `{profile}`\n\n{_provenance(plan, profile)}",
        *_first_page(plan),
        "## Contents\n\n" + "\n".join(f"- [{title}](#{at})" for at, title in contents.items()),
    ]
    front = _markdown_notebook(first)
    front.cells.insert(-1, _explore(plan))
    page = render(join({"report": front} | dict(zip(stems, parts, strict=True))))
    if loaded := external_loads(page):
        raise ReportError(f"the page would load {', '.join(loaded[:5])}; it must need no network")
    path = plan.run_dir / "report.html"
    write_text(path, page)
    return path


def join(parts: Mapping[str, NotebookNode]) -> NotebookNode:
    """Notebooks one after the other as one; a cell's id is its notebook's name and its place."""
    joined = nbformat.v4.new_notebook()
    joined.metadata = NotebookNode(
        {"title": "FitCLIP kit: report", "language_info": {"name": "python"}}
    )
    for stem, notebook in parts.items():
        for place, cell in enumerate(notebook.cells):
            joined.cells.append(NotebookNode({**cell, "id": f"{stem}-{place:02d}"}))
    nbformat.validate(joined)
    return joined


def render(notebook: NotebookNode) -> str:
    """A notebook as a page without scripts: HTML in texts is shown as text, that of outputs is
    reduced to tables, pictures are embedded."""
    exporter = _Exporter(
        extra_loaders=[DictLoader({"report.html.j2": _TEMPLATE})], template_file="report.html.j2"
    )
    exporter.register_preprocessor(_Outputs(), enabled=True)
    page, _ = exporter.from_notebook_node(notebook)
    return str(page)


def external_loads(page: str) -> list[str]:
    """What a page would load from elsewhere, in order: scripts, pictures, styles, fonts, frames."""
    finder = _Loads()
    finder.feed(page)
    finder.close()
    return finder.found


def main(arguments: Sequence[str] | None = None, notebooks_dir: Path = HERE) -> int:
    """The command line; returns the exit status."""
    options = profile_parser("fitclip_kit.engine.report", __doc__).parse_args(arguments)
    try:
        plan = make_plan(notebooks_dir, options.profile, options.runs_dir)
        path = make_report(plan, options.profile)
    except ParameterError as error:
        print(f"No report was made. What is wrong:\n{error}", file=sys.stderr)
        return 2
    except ReportError as error:
        print(f"No report was made: {error}", file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, needs no network)")
    return 0


class _Exporter(HTMLExporter):
    """Shows HTML that is written in Markdown as text; attached pictures are embedded."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        renderer = IPythonRenderer(
            escape=True,
            allow_harmful_protocols=False,
            exclude_anchor_links=True,
            attachments=context.get("cell", {}).get("attachments", {}),
        )
        return str(MarkdownWithMath(renderer=renderer).render(source))


class _Outputs(SanitizeHTML):
    """Reduces the HTML of outputs to tables and leaves Markdown to the exporter."""

    def __init__(self) -> None:
        super().__init__(
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            sanitized_output_types={"text/html"},
            safe_output_keys={"text/plain", "text/markdown", "image/png", "image/jpeg"},
        )

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> Any:
        if cell.cell_type == "markdown":
            return cell, resources
        return super().preprocess_cell(cell, resources, index)

    def sanitize_html_tags(self, html_str: str) -> str:
        return str(super().sanitize_html_tags(_STYLE.sub("", html_str)))


class _Loads(HTMLParser):
    """Collects what a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        names = _LOADS | ({"href"} if tag in ("link", "base", "image", "use") else set())
        self.found += [
            values[name]
            for name in values
            if name in names and not values[name].startswith(("data:", "#"))
        ]
        if tag == "script":
            self.found.append("a script")
        self.found += _CSS_URL.findall(values.get("style", ""))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _CSS_URL.findall(data)


def _refuse_unfinished(plan: Plan) -> None:
    unfinished = [
        f"{notebook.stem}: {reasons[0]}"
        for position, notebook in enumerate(plan.notebooks)
        if (reasons := reasons_to_run(plan.files(notebook), plan.made_from(position)))
    ]
    if unfinished:
        raise ReportError(
            f"{len(unfinished)} of {len(plan.notebooks)} notebooks in {plan.run_dir} are not up to "
            "date; run them first (make reproduce).\n  " + "\n  ".join(unfinished)
        )


def _first_page(plan: Plan) -> list[str]:
    if TABLES not in {notebook.stem for notebook in plan.notebooks}:
        return [f"This run has no notebook {TABLES}, which compares its results with the paper."]
    folder = plan.files(next(one for one in plan.notebooks if one.stem == TABLES)).results
    texts = []
    for title, name in FIRST_PAGE.items():
        file = folder / name
        text = file.read_text(encoding="utf-8") if file.is_file() else f"{TABLES} left no {name}."
        texts.append(f"## {title}\n\n{text}")
    return texts


def _explore(plan: Plan) -> NotebookNode:
    """A picture of the page of the stored sweep, with a link to it; the page is written first."""
    if SWEEP not in {notebook.stem for notebook in plan.notebooks}:
        text = f"This run has no notebook {SWEEP}, so there is no sweep to move through."
        return nbformat.v4.new_markdown_cell(f"## Explore\n\n{text}")
    sources = plan.parameters[SWEEP].get("sources_file", "")
    try:
        page, picture = explore(plan.run_dir, str(plan.working_dir / sources) if sources else "")
    except ValueError as error:
        raise ReportError(f"the sweep cannot be shown: {error}") from error
    text = (
        f"## Explore\n\n[{page.name}]({page.name}), beside this file, moves α over the stored "
        "sweep and needs neither Python nor a network. This is what it opens with; `make slider` "
        "serves the live page, with any α, typed queries and your own videos.\n\n"
        f"![The curves of every data set with the fused model marked](attachment:{picture.name})"
    )
    content = base64.b64encode(picture.read_bytes()).decode("ascii")
    attachments = {picture.name: {"image/png": content}}
    return nbformat.v4.new_markdown_cell(text, attachments=attachments)


def _provenance(plan: Plan, profile: str) -> str:
    rows = {
        "profile": profile,
        "results": _results_digest([plan.files(notebook) for notebook in plan.notebooks]),
        "commit": code_commit(),
        "requirements.lock": plan.code["requirements.lock"],
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    lines = ["| made from | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "\n".join(lines)


def _results_digest(notebooks: Sequence[Files]) -> str:
    """The digest of the results that the last notebook that used any was made from."""
    digests = [read_manifest(files.results)["inputs"].get("results") for files in notebooks]
    return next((digest for digest in reversed(digests) if digest), "none")


def _markdown_notebook(texts: Sequence[str]) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])


def _anchor(stem: str) -> str:
    """Where the page has a notebook's first cell; nbconvert makes it of the cell's id."""
    return f"cell-id={stem}-00"


def _title(notebook: NotebookNode, stem: str) -> str:
    heading = re.match(r"# (.+)", notebook.cells[0].source) if notebook.cells else None
    return heading.group(1) if heading else stem


if __name__ == "__main__":
    sys.exit(main())
