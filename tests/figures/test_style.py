import os
import subprocess
import sys
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from figures import provenance, style
from fitclip_kit.store.code import code_commit

PROVENANCE = {"results": "0123456789abcdef" * 4, "commit": "fedcba98"}

SCRIPT = """
import sys
from figures import style
figure, (ax,) = style.new_figure(1, 2.0)
with style.theme():
    ax.plot([0, 1], [0, 1])
style.save(figure, sys.argv[1], {"results": "abc"})
"""


def small_figure(panels=1):
    figure, axes = style.new_figure(panels, 2.0)
    with style.theme():
        for ax in axes:
            ax.plot([0, 1], [0, 1])
    return figure


USERS = {
    "text.usetex": "True", "savefig.transparent": "True", "savefig.bbox": "tight",
    "savefig.dpi": "50", "savefig.facecolor": "black", "axes.grid": "True",
    "axes.prop_cycle": "cycler('color', ['r', 'g'])", "figure.facecolor": "black",
    "figure.autolayout": "True", "axes.formatter.use_locale": "True", "lines.marker": "o",
    "legend.loc": "upper left", "font.family": "serif", "mathtext.fontset": "cm",
    "path.simplify": "False", "path.sketch": "(1, 100, 2)", "axes.spines.left": "False",
    "axes.xmargin": "0.3", "xtick.direction": "in", "pdf.compression": "0",
    "pdf.use14corefonts": "True", "image.interpolation": "bicubic", "text.antialiased": "False",
    "backend": "TkAgg",
}  # fmt: skip


def test_two_saves_give_the_same_bytes_whatever_the_settings_of_the_session(tmp_path):
    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    figure = small_figure()
    expected = [path.read_bytes() for path in style.save(figure, tmp_path / "a", PROVENANCE)]
    shown = figure._repr_png_()
    again = [path.read_bytes() for path in style.save(figure, tmp_path / "b", PROVENANCE)]
    assert again == expected
    assert (dict(matplotlib.rcParams), plt.get_fignums()) == (before, open_figures)
    users: Any = {name: value for name, value in USERS.items() if name != "backend"}
    with matplotlib.rc_context(users):
        figure = small_figure()
        found = [path.read_bytes() for path in style.save(figure, tmp_path / "b", PROVENANCE)]
        assert found == expected
        assert figure._repr_png_() == shown


def test_another_process_with_a_users_settings_gives_the_same_bytes(tmp_path):
    """A backend that needs a screen, and ASCII for everything that names no encoding."""
    settings = tmp_path / "settings"
    settings.mkdir()
    lines = [f"{name}: {value}" for name, value in USERS.items()]
    (settings / "matplotlibrc").write_text("\n".join(lines) + "\n")
    users = {"MPLCONFIGDIR": str(settings), "MPLBACKEND": "TkAgg", "LC_ALL": "C"}
    users |= {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "DISPLAY": ""}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "there")]
    done = subprocess.run(command, env=os.environ | users, stderr=-1)
    assert done.returncode == 0, done.stderr.decode()
    for here in style.save(small_figure(), tmp_path / "here", {"results": "abc"}):
        assert here.read_bytes() == here.with_stem("there").read_bytes()


def test_files_hold_no_date_and_no_program_but_the_provenance(tmp_path):
    figure = small_figure()
    png, pdf = style.save(figure, tmp_path / "figure.v2", PROVENANCE)
    assert (png.name, pdf.name) == ("figure.v2.png", "figure.v2.pdf")
    with Image.open(png) as image:
        assert image.width == pytest.approx(300 * style.COLUMN_WIDTH, abs=1)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert set(image.info) == {"dpi", "Description"}
        assert PROVENANCE["results"] in image.info["Description"]
        bottom = np.asarray(image.convert("L"))[-int(300 * style.FOOTER) :]
    assert (bottom < 200).any() and figure.texts == []  # the line is in the files only
    content = pdf.read_bytes()
    for word in (b"CreationDate", b"ModDate", b"Producer", b"Creator", b"atplotlib"):
        assert word not in content
    assert PROVENANCE["results"].encode() in content


def test_a_figure_needs_a_panel_and_a_provenance(tmp_path):
    with pytest.raises(ValueError, match="provenance"):
        style.save(small_figure(), tmp_path / "figure", {})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at least one panel"):
        style.new_figure(0, 2.0)
    assert small_figure(2).get_figwidth() == style.PAGE_WIDTH


def test_the_provenance_has_the_commit_and_its_line_twelve_letters():
    assert provenance.with_commit({"results": "abc"}) == {"commit": code_commit(), "results": "abc"}
    assert provenance.with_commit({"commit": "mine"}) == {"commit": "mine"}
    values = {"results": "0123456789abcdef", "commit": "fedcba9876543210-dirty"}
    assert provenance.line(values) == "results 0123456789ab · commit fedcba987654-dirty"
