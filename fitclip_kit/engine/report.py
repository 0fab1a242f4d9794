"""Join the executed notebooks of a run into one page that needs no network, `report.html`."""

from __future__ import annotations

import base64
import platform
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import nbformat
from jinja2 import FileSystemLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode

from fitclip_kit.engine.run import Plan
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
TEMPLATES: Final = Path(__file__).with_name("templates")
# The tables that pandas and matplotlib leave as HTML need no other elements.
_TAGS: Final = ["div", "table", "thead", "tbody", "tr", "th", "td", "p", "b", "br", "small", "span"]
_ATTRIBUTES: Final = {"*": ["class", "colspan", "rowspan", "halign", "valign"]}
_STYLE: Final = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL | re.IGNORECASE)
_LOADS: Final = {"src", "srcset", "poster", "data", "background", "action"}
_CSS_URL: Final = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])(?!data:|#)([^'\")\s]+)")


class ReportError(RuntimeError):
    """A run that no report can be made of; says what is missing."""

    def __init__(self, why: str) -> None:
        super().__init__(f"No report was made: {why}")


def make_report(plan: Plan) -> Path:
    """Write the run's notebooks as one page; returns its path.

    The first page has what notebook 08 made, where it is one of the run's notebooks, and a picture
    of explore.html, which is written too. Each page is replaced atomically.

    Raises: ReportError naming each notebook that is missing or not up to date, or saying why the
    stored sweep cannot be shown.
    """
    reasons = {book.stem: plan.reasons_to_run(at) for at, book in enumerate(plan.notebooks)}
    if unfinished := [f"{stem}: {why[0]}" for stem, why in reasons.items() if why]:
        raise ReportError(
            f"{len(unfinished)} of {len(reasons)} notebooks in {plan.run_dir} are not up to date; "
            "run them first (make reproduce).\n  " + "\n  ".join(unfinished)
        )
    parts = {
        book.stem: nbformat.read(plan.files(book).beside(".ipynb"), as_version=4)
        for book in plan.notebooks
    }
    links = [f"- [{_title(part, stem)}](#cell-id={stem}-00)" for stem, part in parts.items()]
    texts = [f"# The run `{plan.run_dir.name}`\n\n{_provenance(plan)}", *_first_page(plan)]
    front = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, texts)))
    contents = nbformat.v4.new_markdown_cell("## Contents\n\n" + "\n".join(links))
    front.cells += [_explore(plan), contents]
    page = render(join({"report": front, **parts}))
    if loaded := external_loads(page):
        raise ReportError(f"the page would load {', '.join(loaded[:5])}; it must need no network")
    path = plan.run_dir / "report.html"
    write_text(path, page)
    return path


def join(parts: Mapping[str, NotebookNode]) -> NotebookNode:
    """Notebooks one after the other as one; a cell's id is its notebook's name and its place."""
    joined = nbformat.v4.new_notebook()
    language = {"name": "python"}
    joined.metadata = NotebookNode({"title": "FitCLIP kit: report", "language_info": language})
    for stem, notebook in parts.items():
        for place, cell in enumerate(notebook.cells):
            joined.cells.append(NotebookNode({**cell, "id": f"{stem}-{place:02d}"}))
    nbformat.validate(joined)
    return joined


def render(notebook: NotebookNode) -> str:
    """A notebook as a page without scripts: HTML in texts is shown as text, that of outputs is
    reduced to tables, pictures are embedded."""
    exporter = _Exporter(
        extra_loaders=[FileSystemLoader(TEMPLATES)], template_file="report.html.j2"
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
        loaded = [value for name, value in values.items() if name in names]
        self.found += [value for value in loaded if not value.startswith(("data:", "#"))]
        self.found += ["a script"] if tag == "script" else []
        self.found += _CSS_URL.findall(values.get("style", ""))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.found += _CSS_URL.findall(data) if self._in_style else []


def _first_page(plan: Plan) -> list[str]:
    if TABLES not in plan.parameters:
        return [f"This run has no notebook {TABLES}, which compares its results with the paper."]
    texts = []
    for title, name in FIRST_PAGE.items():
        file = plan.run_dir / TABLES / name
        text = file.read_text(encoding="utf-8") if file.is_file() else f"{TABLES} left no {name}."
        texts.append(f"## {title}\n\n{text}")
    return texts


def _explore(plan: Plan) -> NotebookNode:
    """A picture of the page of the stored sweep, with a link to it; the page is written first."""
    if SWEEP not in plan.parameters:
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


def _provenance(plan: Plan) -> str:
    used = [
        read_manifest(plan.run_dir / book.stem)["inputs"].get("results") for book in plan.notebooks
    ]
    rows = {
        "profile": plan.run_dir.name,
        # Those that the last notebook that used any was made from.
        "results": next((digest for digest in reversed(used) if digest), "none"),
        "commit": code_commit(),
        "requirements.lock": plan.inputs["requirements.lock"],
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    lines = ["| made from | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "\n".join(lines)


def _title(notebook: NotebookNode, stem: str) -> str:
    heading = re.match(r"# (.+)", notebook.cells[0].source) if notebook.cells else None
    return heading.group(1) if heading else stem
