"""The report, of runs whose executed notebooks are written here instead of run."""

import base64
import html
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fitclip_kit.engine import report, run
from fitclip_kit.store.files import write_manifest
from tests.small_project import PARAMETERS, fitclip, make_project

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
PICTURE = base64.b64encode(b"\x89PNG not a real picture").decode()


def code_cell(source, *outputs, tags=()):
    return nbformat.v4.new_code_cell(
        source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)}
    )


def shown(**data):
    types = {"markdown": "text/markdown", "html": "text/html", "png": "image/png"}
    types |= {"plain": "text/plain", "script": "application/javascript"}
    bundle = {types[name]: content for name, content in data.items()}
    return nbformat.v4.new_output("display_data", bundle)


class Project:
    """Notebooks, a profile, and a run of them that looks finished."""

    def __init__(self, folder):
        self.notebooks = make_project(folder) / "notebooks"
        self.run_dir = folder / "runs" / "tiny"
        self.path = self.run_dir / "report.html"

    def notebook(self, stem, *cells, title="# Title", parameters=PARAMETERS):
        """A notebook, and below the outputs that its executed copy will have."""
        first = [nbformat.v4.new_markdown_cell(title), code_cell(parameters, tags=["parameters"])]
        content = nbformat.v4.new_notebook(cells=[*first, *cells])
        nbformat.write(content, str(self.notebooks / f"{stem}.ipynb"))

    def plan(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "NOTEBOOKS", self.notebooks)
            return run.make_plan("tiny", self.run_dir.parent)

    def finish(self, stem, results="", **files):
        """Leave what the runner leaves of a notebook that ran to its end."""
        plan = self.plan()
        position = [notebook.stem for notebook in plan.notebooks].index(stem)
        left = plan.files(plan.notebooks[position])
        left.beside("").parent.mkdir(parents=True, exist_ok=True)
        left.beside(".ipynb").write_text((self.notebooks / f"{stem}.ipynb").read_text())
        left.beside(".html").write_text("page")
        left.results.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (left.results / f"{name}.md").write_text(text, encoding="utf-8")
        made: dict = {
            "inputs": {"results": results} if results else {},
            "parameters": {},
            "code": "",
        }
        outputs = [Path(f"{name}.md") for name in files]
        write_manifest(left.results, kind=stem, **made, outputs=outputs)
        left.declare(plan.made_from(position))

    def page(self):
        report.make_report(self.plan())
        return self.path.read_text(encoding="utf-8")

    def command(self, profile="tiny"):
        options = ["--profile", profile, "--runs-dir", str(self.run_dir.parent)]
        return fitclip(self.notebooks, "report", *options)


@pytest.fixture
def project(tmp_path, monkeypatch):
    # The kit's own sources take long to hash.
    monkeypatch.setattr(run, "PACKAGES", ("fitclip_kit.store",))
    return Project(tmp_path)


def finished(project, *cells):
    """Two finished notebooks, the second with these cells."""
    project.notebook("01_one", title="# 1 · The first\n\nSome words.")
    project.notebook("02_two", *cells, title="# 2 · The second")
    project.finish("01_one", results="f" * 64)
    project.finish("02_two")
    return project


def words(page):
    """The text that a reader sees."""
    body = page[page.index("<body") :]
    return html.unescape(re.sub(r"<[^>]+>", "", body))


# The page


def test_the_page_holds_all_notebooks_in_order_and_links_to_each(project):
    page = finished(project, code_cell("print('x')", shown(markdown="**found** it"))).page()
    links = re.findall(r'href="#(cell-id=[^"]+)"', page)
    assert links == ["cell-id=01_one-00", "cell-id=02_two-00"]
    ids = re.findall(r'id="(cell-id=[^"]+)"', page)
    assert len(ids) == len(set(ids)) >= 6  # although notebooks share theirs
    places = [page.index(f'id="{link}"') for link in links]
    assert places == sorted(places) and places[0] > page.index("Contents")
    seen = words(page)
    for text in ("The run tiny", "1 · The first", "Some words.", "2 · The second", "found it"):
        assert text in seen
    assert "value" in seen[seen.index("2 · The second") :]
    assert project.page() == page  # the same run, the same page
    assert [path.name for path in project.run_dir.glob("*report*")] == ["report.html"]


def test_the_page_runs_and_loads_nothing_and_shows_tables_and_pictures(project):
    table = pd.DataFrame({"a": [1.5]}, index=["row"]).to_html(notebook=True)
    outputs = [
        *(shown(html=table), shown(html=f"<table><tr><td>kept</td></tr></table>{HOSTILE}")),
        shown(html='<iframe src="https://x.org"></iframe>', plain="frame"),
        shown(html='<td style="background:url(//x.org/a)">1</td>'),
        shown(script="alert(3)", plain="code object"),
        shown(markdown="[link](javascript:alert(4))"),
        shown(png=PICTURE),
    ]
    page = finished(project, *(code_cell("x", output) for output in outputs)).page()
    assert report.external_loads(page) == []
    policy = re.search(r'<meta content="([^"]+)" http-equiv="Content-Security-Policy"', page)
    assert policy and policy.group(1).startswith("default-src 'none'; ")
    assert page.index("Content-Security-Policy") < page.index("<style")
    (picture,) = re.findall(r"<img [^>]+>", page)
    assert f"data:image/png;base64,{PICTURE}" in picture
    assert not re.search(r"<script|<iframe|<[^>]+onerror|href=.javascript", page)
    assert "<td>kept</td>" in page and "code object" in words(page)
    assert "<td>1.5</td>" in page and "<th>row</th>" in page
    assert "only-of-type" not in page and "vertical-align: middle" not in words(page)


def test_a_picture_from_elsewhere_is_refused_and_the_old_page_stays(project):
    first = finished(project).page()
    cell = code_cell("Markdown(text)", shown(markdown="![](https://example.org/a.png)"))
    project.notebook("02_two", cell)
    project.finish("02_two")
    with pytest.raises(report.ReportError, match=r"would load https://example\.org/a\.png"):
        project.page()
    assert project.path.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("page", "loads"),
    [
        ('<img src="a.png" srcset="b.png 2x"><img src="data:x">', ["a.png", "b.png 2x"]),
        ('<link href="//x/a.css"><a href="http://x">no load</a>', ["//x/a.css"]),
        ('<script src="http://x/a.js"></script>', ["http://x/a.js", "a script"]),
        ("<style>@import 'http://x/a.css';</style>", ["http://x/a.css"]),
        ('<style>a{background:url( "http://x/a.png" )}</style>', ["http://x/a.png"]),
        ("<style>a{background:url(data:x);mask:url(#y)}</style>", []),
        ('<p style="background:url(x.png)">', ["x.png"]),
        ('<iframe src="http://x"></iframe><video poster="p.png">', ["http://x", "p.png"]),
        ("<pre>url(http://x) src=y</pre>", []),
    ],
)
def test_what_a_browser_would_fetch_is_found(page, loads):
    assert report.external_loads(page) == loads


# The first page


def test_the_first_page_has_what_notebook_08_left(project):
    finished(project)
    project.notebook(report.TABLES)
    headline = "| set | gain |\n| --- | --- |\n| MSR-VTT | +4.7 |\n"
    claims = f"| claim |\n| --- |\n| {HOSTILE} |\n"
    statement = "**Hold: 1 of 2**\n\n- fusion helps\n"
    left = {"headline": headline, "statement": statement, "claims": claims}
    project.finish(report.TABLES, results="e" * 64, **left)
    page = project.page()
    assert "<td>MSR-VTT</td>" in page and "<li>fusion helps</li>" in page
    assert "<script" not in page and HOSTILE in words(page)
    titles = [*report.FIRST_PAGE, "Contents", "1 · The first"]
    places = [words(page).index(title) for title in titles]
    assert places == sorted(places)
    assert "e" * 64 in page and "f" * 64 not in page  # the last notebook's results


def test_the_first_page_says_what_it_is_made_from_and_what_is_not_there(project):
    seen = words(finished(project).page())
    for stem in (report.TABLES, report.SWEEP):
        assert f"This run has no notebook {stem}" in seen
    assert f"profiletinyresults{'f' * 64}" in re.sub(r"\s", "", seen)
    assert f"numpy {report.version('numpy')}" in seen
    assert project.plan().inputs["requirements.lock"] in seen
    project.notebook(report.TABLES)
    project.finish(report.TABLES, headline="a table", claims="another")
    seen = words(project.page())
    assert "08_supplementary_tables left no statement.md." in seen
    assert "a table" in seen and "another" in seen


# The stored sweep


def test_the_report_shows_the_sweep_and_links_to_its_page(project, monkeypatch, capsys):
    asked = []

    def explore(run_dir, sources_file):
        asked.append((run_dir, sources_file))
        if sources_file:
            raise ValueError("the cells are of other weights; run notebook 04_alpha_sweep again")
        picture = run_dir / "explore.png"
        picture.write_bytes(base64.b64decode(PICTURE))
        return run_dir / "explore.html", picture

    monkeypatch.setattr(report, "explore", explore)
    finished(project).notebook(report.SWEEP)
    project.finish(report.SWEEP)
    page = project.page()
    assert '<a href="explore.html">' in page
    (picture,) = re.findall(r"<img [^>]+>", page)
    assert f'src="data:image/png;base64,{PICTURE}"' in picture and 'alt="The curves' in picture
    assert words(page).index("Explore") < words(page).index("Contents")
    assert report.external_loads(page) == []
    # The sources are found from the notebooks' folder.
    project.notebook(report.SWEEP, parameters=f"{PARAMETERS}\nsources_file = 'mine.yaml'  # set")
    project.finish(report.SWEEP)
    assert project.command() == 1
    assert asked == [(project.run_dir, ""), (project.run_dir, str(project.notebooks / "mine.yaml"))]
    assert "the cells are of other weights; run notebook 04" in capsys.readouterr().err


# The command


def test_unfinished_notebooks_are_named_and_nothing_is_written(project, capsys):
    finished(project)
    project.notebook("03_three")
    (project.notebooks / "profiles" / "tiny.yaml").write_text("02_two: {value: 2}\n")
    assert project.command() == 1
    message = capsys.readouterr().err
    assert "No report was made: 3 of 3 notebooks" in message and "make reproduce" in message
    assert "01_one: parameters: value is 1.0, expected 0.5" in message
    assert "03_three: it has not completed yet" in message
    assert not project.path.exists()
    assert project.command("huge") == 2
    assert "no profile 'huge'" in capsys.readouterr().err
