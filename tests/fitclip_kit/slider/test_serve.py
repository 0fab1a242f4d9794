"""Serving the page: what it shows, to whom; without starting a server."""

import ast
from pathlib import Path

import jinja2
import nbformat
import pytest
from voila.paths import collect_template_paths

from fitclip_kit.slider import serve

REMOTE = ("http://", "https://", "//cdn")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "settings"))
    return serve.Server(made(tmp_path), None)


def made(folder):
    """A folder with the page's notebook."""
    nbformat.write(serve.page_notebook({}), str(folder / f"{serve.STEM}.ipynb"))
    return folder


# What is served


def test_the_notebook_gets_the_profiles_run(tmp_path):
    parameters = serve.page_parameters("paper", tmp_path)
    assert parameters == {
        "run_dir": str((tmp_path / "paper").resolve()),
        "sources_file": str((serve.NOTEBOOKS / "paper_data.yaml").resolve()),
        "device": "auto",
    }
    embedded = serve.page_parameters("mini", tmp_path)
    assert embedded["sources_file"] == "" and embedded["device"] == "cpu"


def test_the_page_is_the_notebook_without_what_readers_need():
    hostile = {"run_dir": "/a'); raise SystemExit(\"", "sources_file": "", "device": "cpu"}
    notebook = serve.page_notebook(hostile)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    statements = ast.parse(cells[0].source).body
    assigned = {one.targets[0].id: ast.literal_eval(one.value) for one in statements}
    assert assigned == hostile
    assert "ExplorerPage" in cells[-1].source
    assert not any("explore_alpha.png" in cell.source for cell in notebook.cells)


def test_an_unfinished_run_is_refused_before_anything_is_served(tmp_path, capsys):
    assert serve.serve("mini", tmp_path) == 1
    assert "make reproduce PROFILE=mini" in capsys.readouterr().err
    assert serve.serve("huge", tmp_path) == 2
    assert "no profile 'huge'" in capsys.readouterr().err


# To whom


def test_settings_files_do_not_open_it(tmp_path, monkeypatch):
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "voila.json").write_text(
        '{"Voila": {"ip": "0.0.0.0", "token": "", "port": 1, "tornado_settings": {}},'
        ' "VoilaConfiguration": {"file_allowlist": [".*"]}}'
    )
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(settings))
    monkeypatch.chdir(settings)
    server = serve.Server(made(tmp_path), None)
    assert server.ip == "127.0.0.1" and len(server.token) >= 40 and server.port != 1
    assert server.tornado_settings["xsrf_cookies"] is True
    assert server.voila_configuration.file_allowlist == [r"(?!)"]


def test_the_address_is_said_and_no_browser_is_started(server, monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.get", lambda *_: pytest.fail("a browser was started"))
    server.launch_browser()
    assert server.url in capsys.readouterr().out


# From where


def test_the_page_around_the_notebook_loads_nothing_from_the_network(tmp_path):
    """Voila's own template does, which shows that this test would notice."""
    paths = [Path(path) for path in collect_template_paths(["voila", "nbconvert"], "lab")]
    theirs = next(path / "index.html.j2" for path in paths if (path / "index.html.j2").is_file())
    assert any(start in theirs.read_text() for start in REMOTE)
    ours = (serve.TEMPLATES / "index.html.j2").read_text()
    tree = jinja2.Environment().parse(ours)
    replaced = {block.name for block in tree.find_all(jinja2.nodes.Block)}
    assert replaced == {"notebook_css", "html_head_js_mermaidjs"}
    assert not any(start in ours for start in REMOTE)


def test_the_policy_allows_no_other_host():
    sources = serve._POLICY.replace(";", " ").split()
    assert not [one for one in sources if "*" in one or "//" in one or one in ("http:", "https:")]
    assert "default-src 'self'" in serve._POLICY
