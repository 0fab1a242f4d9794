"""The stored sweep as one self-contained page: a slider that needs neither Python nor a network.

    python -m fitclip_kit.slider.page --run-dir runs/mini

Writes runs/mini/explore.html and, of what it opens with, explore.png and explore.pdf.

Everything that the page can show is in it, a piece for each student, alpha and data set; its script
only chooses which pieces are seen, and so holds no data and builds no HTML. Nothing is loaded and
no other script can run, whatever a caption holds.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.explorer_state import Strip, percent_text, state_figure
from figures.provenance import line as provenance_line
from figures.provenance import with_commit
from fitclip_core.zero_shot import COLUMN_OF_TASK
from fitclip_kit.slider import html, views
from fitclip_kit.slider.curves import CurvePicture, markers, reading
from fitclip_kit.slider.material import ClipSet, Material, open_material
from fitclip_kit.slider.stored import StoredSweep
from fitclip_kit.store.files import write_text

NAME: Final = "explore.html"
OPENING: Final = 0.4  # the paper's alpha; the page opens at the stored one nearest to it
_CAPTION: Final = 110  # letters of a caption in a list

_HEADING: Final = "Between teacher and student"
_CLIPS: Final = (
    "These clips were chosen by what fusion does to them, not at random. A sweep keeps "
    "each clip's rank and predicted class, not its probabilities; those are in the notebook "
    "explore_alpha, which computes them anew."
)
_NOTES: Final = (
    "Intervals are 95%: of one student over clips, of the students' mean over clips and students. "
    "They hold for each α by itself; whether two models differ is tested in notebook 04. Classes "
    "and items are listed because they changed most, so part of their change is chance."
)

_STYLE: Final = """
html { color-scheme: light dark; }
body { margin: 0; }
main.fk { max-width: 1160px; margin: 0 auto; padding: 28px 28px 56px; }
h1 { font-size: 24px; line-height: 1.25; font-weight: 650; margin: 0 0 6px; }
h2 { font-size: 17px; font-weight: 650; margin: 34px 0 10px; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 4px; }
p { max-width: 76ch; margin: 6px 0; }
.off { display: none !important; }
.controls { position: sticky; top: 0; z-index: 2; display: grid; align-items: end; gap: 8px 28px;
  grid-template-columns: minmax(300px, 1fr) auto auto; background: var(--fk-paper);
  border-bottom: 1px solid var(--fk-ink); margin: 14px 0 22px; padding: 10px 0 12px; }
.controls label { display: block; font-size: 13px; font-weight: 600; }
.controls output { font-weight: 700; display: inline-block; min-width: 3.2ch; }
.track { display: grid; grid-template-columns: auto 1fr auto; gap: 10px; align-items: center;
  font-size: 13px; }
input[type="range"] { width: 100%; height: 26px; margin: 0; outline-offset: 0;
  accent-color: var(--fk-line); }
select { font: inherit; color: inherit; background: var(--fk-paper); min-height: 30px;
  max-width: 260px; padding: 2px 6px; border: 1px solid var(--fk-soft); border-radius: 4px; }
:focus-visible { outline: 3px solid var(--fk-line); outline-offset: 1px; border-radius: 2px; }
.clip { display: grid; grid-template-columns: minmax(200px, 384px) minmax(0, 1fr); gap: 6px 24px;
  padding: 14px 0; border-top: 0.5px solid var(--fk-rule); align-items: start; }
.clip p { margin: 0 0 4px; overflow-wrap: anywhere; }
.ranks { width: auto !important; }
.ranks caption { font-weight: 400 !important; font-size: 13px !important; padding: 0 0 2px; }
.ranks th, .ranks td { padding: 1px 6px !important; text-align: right !important;
  white-space: nowrap; }
.ranks th:first-child { text-align: left !important; padding-left: 0 !important; }
section > div > p { margin-bottom: 14px; }
.ranks .now { background: var(--fk-band) !important; font-weight: 700; }
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
footer { margin-top: 36px; padding-top: 10px; border-top: 1px solid var(--fk-rule);
  font-size: 12px; color: var(--fk-soft); overflow-wrap: anywhere; }
@media (max-width: 820px) {
  main.fk { padding: 18px 18px 40px; }
  .controls { grid-template-columns: auto auto 1fr; }
  .controls .wide { grid-column: 1 / -1; }
  .clip { grid-template-columns: 250px minmax(0, 1fr); }
}
@media (max-width: 640px) { .clip { grid-template-columns: 1fr; } }
@media (prefers-color-scheme: dark) {
  main.fk { --fk-line: #5bb4e5; --fk-band: #234a61; --fk-draw: #9a9a9a; --fk-ink: #ececec;
    --fk-soft: #b4b4b4; --fk-rule: #44484c; --fk-paper: #15181b; --fk-shade: #1f2429; }
  body { background: #15181b; }
}
@media print { .controls { position: static; } }
"""

_SCRIPT: Final = """
(() => {
  "use strict";
  const find = (id) => document.getElementById(id);
  const controls = { alpha: find("alpha"), student: find("student"), set: find("set") };
  const pieces = document.querySelectorAll("[data-alpha], [data-student], [data-set]");
  const columns = document.querySelectorAll("[data-column]");
  let waiting = 0;

  function show() {
    const chosen = {};
    for (const name in controls) chosen[name] = controls[name].value;
    for (const piece of pieces) {
      const differs = (name) => name in piece.dataset && piece.dataset[name] !== chosen[name];
      piece.classList.toggle("off", Object.keys(chosen).some(differs));
    }
    for (const cell of columns) cell.classList.toggle("now", cell.dataset.column === chosen.alpha);
    const alpha = controls.alpha.list.options[chosen.alpha].label;
    find("now").value = alpha;
    controls.alpha.setAttribute("aria-valuetext", "alpha " + alpha);
    clearTimeout(waiting);
    waiting = setTimeout(say, 300, chosen, alpha);
  }

  function say(chosen, alpha) {
    const piece = document.querySelector(
      `.spoken[data-alpha="${chosen.alpha}"][data-student="${chosen.student}"]` +
      `[data-set="${chosen.set}"]`
    );
    find("live").textContent = piece ? piece.textContent : "alpha " + alpha;
  }

  for (const name in controls) controls[name].addEventListener("input", show);
  show();
})();
"""


def explore(run_dir: Path | str, sources_file: str = "") -> tuple[Path, Path]:
    """Write a run's explore.html, and explore.png and .pdf of what it opens with.

    run_dir, sources_file: as `material.open_material` takes them.

    Returns: the page and the PNG.

    Raises: ValueError when the run is not finished, is of other sources, or is damaged.
    """
    material = open_material(run_dir, sources_file)
    sweep = StoredSweep.read(material)
    path = write_page(sweep, material, material.run.path / NAME)
    picture, _ = style.save(
        opening_figure(sweep, material), path.with_suffix(""), _provenance(material)
    )
    return path, picture


def write_page(sweep: StoredSweep, material: Material, path: Path) -> Path:
    """Write the page, atomically; returns its path.

    sweep: its cells are what the page shows. material: the same run's; gives captions and frames.

    Raises: ValueError when the sweep lacks the teacher or the students themselves.
    """
    write_text(path, _Page(sweep, material).text())
    return path


def opening_figure(sweep: StoredSweep, material: Material) -> Figure:
    """What the page opens with, as a figure for print: the first student at alpha 0.4.

    Raises: ValueError as `write_page`.
    """
    draw, alpha = sweep.draws[0], opening_alpha(sweep)
    titles = {name: clip_set.title for name, clip_set in material.sets.items()}
    points = sweep.points(draw, alpha)
    data_set = next(iter(sweep.measures))
    clip_set = material.sets[data_set]
    texts, ranks = _texts(clip_set), _over_alpha(sweep, data_set, draw, "rank")
    strips = []
    for item, why in example_clips(sweep, data_set).items():
        frames = clip_set.frames_of(clip_set.clip_ids.index(item))
        found, teacher, student = (f"{ranks[one][item]:,g}" for one in (alpha, 0.0, 1.0))
        text = (
            f"{texts[item]}\nRank of the {_right_thing(clip_set)}: {found} of "
            f"{clip_set.candidates:,} (teacher {teacher}, student {student})"
        )
        strips.append(Strip(frames, f"{clip_set.title}: {why}", text))
    return state_figure(
        f"α = {alpha:g} · student {draw}",
        CurvePicture(sweep, draw, titles).panels,
        points,
        (alpha, alpha),
        html.numbers(views.metrics_table(points, sweep, draw), titles),
        strips,
    )


def opening_alpha(sweep: StoredSweep) -> float:
    """The stored alpha nearest to 0.4, the smaller of two."""
    return min(sweep.alphas, key=lambda alpha: (round(abs(alpha - OPENING), 9), alpha))


def example_clips(sweep: StoredSweep, data_set: str) -> dict[str, str]:
    """Clips of a data set that show what fusion does, and why each was chosen.

    At the alpha that the page opens at, the clip whose rank improved most since the teacher, the
    one whose rank worsened most, and the one in the middle: by the ratio of the ranks, its mean
    over the students; of equal clips the first by id. Fewer where no rank improved or worsened.

    Returns: clip_id -> the reason, in words.
    """
    alpha = opening_alpha(sweep)
    changes = []
    for draw in sweep.draws:
        ranks = _over_alpha(sweep, data_set, draw, "rank")
        changes.append(ranks[alpha].div(ranks[0.0]).map(math.log))
    mean = pd.concat(changes, axis=1).mean(axis=1).round(9).sort_index().sort_values(kind="stable")
    reasons = {}
    if mean.iloc[0] < 0:
        reasons[str(mean.index[0])] = f"improved most at α = {alpha:g}"
    if mean.iloc[-1] > 0:
        worst = mean.index[mean == mean.iloc[-1]][0]
        reasons[str(worst)] = f"worsened most at α = {alpha:g}"
    reasons.setdefault(str(mean.index[(len(mean) - 1) // 2]), "in the middle of all clips")
    return reasons


class _Page:
    """The page's pieces; each knows by its attributes when it is seen."""

    def __init__(self, sweep: StoredSweep, material: Material) -> None:
        self.sweep, self.material = sweep, material
        self.sets = {name: material.sets[name] for name in sweep.measures}
        self.titles = {name: clip_set.title for name, clip_set in self.sets.items()}
        self.opening = (0, sweep.alphas.index(opening_alpha(sweep)), 0)

    def text(self) -> str:
        look = f"{html.STYLE}{_STYLE}"
        policy = (
            f"default-src 'none'; img-src data:; style-src '{_hash(look)}'; "
            f"script-src '{_hash(_SCRIPT)}'; base-uri 'none'; form-action 'none'"
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(_HEADING)}</title>\n<style>{look}</style>\n</head>\n<body>\n"
            f'<main class="fk">\n{"".join(self._body())}</main>\n'
            f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
        )

    def _body(self) -> Iterator[str]:
        students = len(self.sweep.draws)
        counted = f"{students} student{'s' * (students > 1)}"
        yield (
            f"<h1>{_HEADING}</h1>\n<p>The fused model's weights are (1 − α) · teacher + α · "
            f"student. This page holds the stored sweep of the run <b>"
            f"{escape(self.material.run.path.name)}</b>: {len(self.sweep.alphas)} values of α, "
            f"{counted}, {len(self.sets)} data sets. Every number was measured.</p>\n"
        )
        yield self._controls()
        yield '<h2 id="curves">Curves</h2>\n'
        for place, draw in enumerate(self.sweep.draws):
            yield f"<div{self._when(student=place)}>{self._curves(place, draw)}</div>\n"
        yield "<h2>All data sets</h2>\n"
        for student, draw, alpha, value in self._states():
            found = views.metrics_table(self.sweep.points(draw, value), self.sweep, draw)
            shown = html.metrics(found, f"α = {value:g}, student {draw}", self.titles)
            yield f"<div{self._when(student=student, alpha=alpha)}>{shown}</div>\n"
        yield "<h2>What changed since the teacher</h2>\n"
        for place, name in enumerate(self.sets):
            yield f"<section{self._when(set=place)}>{''.join(self._changes(name))}</section>\n"
        yield f"<h2>Clips</h2>\n<p>{_CLIPS}</p>\n"
        for place, name in enumerate(self.sets):
            yield f"<section{self._when(set=place)}>{''.join(self._clips(name))}</section>\n"
        for place, name in enumerate(self.sets):
            for student, draw, alpha, value in self._states():
                yield self._spoken(place, name, student, draw, alpha, value)
        yield '<div id="live" class="said" aria-live="polite" role="status"></div>\n'
        made = with_commit(_provenance(self.material))
        yield f"<footer>{escape(provenance_line(made))}. {_NOTES}</footer>\n"

    def _controls(self) -> str:
        student, alpha, chosen = self.opening
        stops = "".join(
            f'<option value="{place}" label="{value:g}"></option>'
            for place, value in enumerate(self.sweep.alphas)
        )
        value = self.sweep.alphas[alpha]
        students = [f"student {draw}" for draw in self.sweep.draws]
        return (
            '<form class="controls" aria-label="What is shown" autocomplete="off">\n'
            '<div class="wide"><label for="alpha">α, weight of the student: '
            f'<output id="now" for="alpha">{value:g}</output></label>'
            '<div class="track"><span aria-hidden="true">teacher</span>'
            f'<input id="alpha" type="range" min="0" max="{len(self.sweep.alphas) - 1}" step="1" '
            f'value="{alpha}" list="stops" aria-valuetext="alpha {value:g}">'
            '<span aria-hidden="true">student</span></div>'
            f'<datalist id="stops">{stops}</datalist></div>\n'
            f"{_menu('student', 'Student', students, student)}"
            f"{_menu('set', 'Data set', list(self.titles.values()), chosen)}"
            "<noscript><p>Scripts are off, so the page stays as it opened.</p></noscript></form>\n"
        )

    def _curves(self, student: int, draw: int) -> str:
        picture = CurvePicture(self.sweep, draw, self.titles)
        panels = []
        for panel in picture.panels:
            marks, said = [], []
            for alpha, value in enumerate(self.sweep.alphas):
                point = self.sweep.at(panel.data_set, draw, value)
                when = self._when(alpha=alpha)
                marks.append(f"<g{when}>{markers(panel, point, value, value)}</g>")
                said.append(f"<span{when}>{reading(point)}</span>")
            panels.append(picture.panel(panel.data_set, "".join(marks), "".join(said)))
        return f'<div class="fk-panels">{"".join(panels)}</div>{picture.legend()}'

    def _changes(self, name: str) -> Iterator[str]:
        measure, clip_set = self.sweep.measures[name], self.sets[name]
        texts = {item: _short(text) for item, text in _texts(clip_set).items()}
        for student, draw, alpha, value in self._states():
            now = _cell(self.sweep, name, draw, value)
            teacher, trained = (_cell(self.sweep, name, draw, end) for end in (0.0, 1.0))
            found = views.set_answer(now, teacher, trained, measure, "stored")
            parts = html.answer(found, clip_set.title)
            if clip_set.task == "retrieval":
                parts += html.changes(views.retrieval_changes(now, teacher, measure), texts)
            else:
                parts += html.changes(views.class_changes(now, teacher, k=measure.k))
            yield f"<div{self._when(student=student, alpha=alpha)}>{parts}</div>\n"

    def _clips(self, name: str) -> Iterator[str]:
        clip_set = self.sets[name]
        texts = _texts(clip_set)
        students = list(enumerate(self.sweep.draws))
        ranks = [_over_alpha(self.sweep, name, draw, "rank") for _, draw in students]
        taken = [_over_alpha(self.sweep, name, draw, "predicted") for _, draw in students]
        for item, why in example_clips(self.sweep, name).items():
            text = texts[item]
            shown = html.strip(clip_set.frames_of(clip_set.clip_ids.index(item)), f"Frames: {text}")
            parts = [f"<h3>{escape(item)}, {escape(why)}</h3><p>{escape(text)}</p>"]
            for student, _ in students:
                row = self._rank_row(clip_set, ranks[student].T[item])
                parts.append(f"<div{self._when(student=student)}>{row}</div>")
            if clip_set.task == "classification":
                for student, _, alpha, value in self._states():
                    found = str(taken[student].at[item, value])
                    verdict = "right" if found == text else "wrong"
                    when = self._when(student=student, alpha=alpha)
                    parts.append(f"<p{when}>Taken for <b>{escape(found)}</b>: {verdict}.</p>")
            yield f'<div class="clip">{shown}<div>{"".join(parts)}</div></div>\n'

    def _rank_row(self, clip_set: ClipSet, ranks: pd.Series) -> str:
        """The rank of a clip's right target at every stored alpha."""
        heads = "".join(
            f'<th scope="col" data-column="{place}">{alpha:g}</th>'
            for place, alpha in enumerate(ranks.index)
        )
        cells = "".join(
            f'<td data-column="{place}">{rank:,g}</td>' for place, rank in enumerate(ranks)
        )
        caption = f"Rank of the {_right_thing(clip_set)}, of {clip_set.candidates:,}"
        return (
            f'<div class="fk-scroll"><table class="ranks"><caption>{caption}</caption><thead><tr>'
            f'<th scope="col">α</th>{heads}</tr></thead><tbody><tr><th scope="row">rank</th>'
            f"{cells}</tr></tbody></table></div>"
        )

    def _spoken(
        self, place: int, name: str, student: int, draw: int, alpha: int, value: float
    ) -> str:
        """What a screen reader is told after a move; it is not shown, only read from."""
        point = self.sweep.at(name, draw, value)
        teacher, trained = (self.sweep.at(name, draw, end).value for end in (0.0, 1.0))
        return (
            f'<p class="spoken" hidden data-set="{place}" data-student="{student}" '
            f'data-alpha="{alpha}">alpha {value:g}, student {draw}, {escape(self.titles[name])}, '
            f"{self.sweep.measures[name].name}: {percent_text(point.value)} percent; teacher "
            f"{percent_text(teacher)}, student {percent_text(trained)}</p>"
        )

    def _states(self) -> Iterator[tuple[int, int, int, float]]:
        """Place and number of the student, place and value of alpha."""
        for student, draw in enumerate(self.sweep.draws):
            for alpha, value in enumerate(self.sweep.alphas):
                yield student, draw, alpha, value

    def _when(self, **places: int) -> str:
        """The attributes of a piece that is seen at these places of the controls only."""
        opening = dict(zip(("student", "alpha", "set"), self.opening, strict=True))
        hidden = any(opening[name] != place for name, place in places.items())
        attributes = [f'data-{name}="{place}"' for name, place in places.items()]
        return " " + " ".join([*attributes, *(['class="off"'] if hidden else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fitclip_kit.slider.page",
        description="Write the stored sweep as one page that needs neither Python nor a network.",
    )
    parser.add_argument(
        "--run-dir", type=Path, required=True, help="a run's folder: runs/<profile>"
    )
    parser.add_argument(
        "--sources-file", default="", help="as in the notebooks, say paper_data.yaml"
    )
    options = parser.parse_args(arguments)
    try:
        path, _ = explore(options.run_dir, options.sources_file)
    except (ValueError, OSError) as error:
        print(f"No page was made: {error}", file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, needs no network)")
    return 0


def _menu(name: str, label: str, choices: Sequence[str], chosen: int) -> str:
    options = "".join(
        f'<option value="{place}"{" selected" * (place == chosen)}>{escape(choice)}</option>'
        for place, choice in enumerate(choices)
    )
    return f'<div><label for="{name}">{label}</label><select id="{name}">{options}</select></div>\n'


def _provenance(material: Material) -> dict[str, str]:
    return {"results": material.run.results.digest(material.keys)}


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _cell(sweep: StoredSweep, data_set: str, draw: int, alpha: float) -> pd.DataFrame:
    outcomes = sweep.outcomes(data_set, draw, alpha)
    if outcomes is None:
        raise ValueError(f"{data_set} is not stored at alpha {alpha:g}; finish notebook 04 first")
    return outcomes


def _over_alpha(sweep: StoredSweep, data_set: str, draw: int, column: str) -> pd.DataFrame:
    """A column of the outcomes at every stored alpha: a row an item, a column an alpha."""
    cells = {
        alpha: _cell(sweep, data_set, draw, alpha).set_index("item")[column]
        for alpha in sweep.alphas
    }
    return pd.DataFrame(cells)


def _texts(clip_set: ClipSet) -> dict[str, str]:
    """Each clip's caption or class, by its id."""
    clips = clip_set.trial.clips
    return dict(
        zip(clips["clip_id"], clips[COLUMN_OF_TASK[clip_set.task]].astype(str), strict=True)
    )


def _right_thing(clip_set: ClipSet) -> str:
    return "right clip for its caption" if clip_set.task == "retrieval" else "right class"


def _short(text: str) -> str:
    return textwrap.shorten(text, _CAPTION, placeholder=" …")


if __name__ == "__main__":
    sys.exit(main())
