"""The stored sweep as one self-contained page: a slider that needs neither Python nor a network.

Everything that the page can show is in it, a piece for each student, alpha and data set; its script
only chooses which pieces are seen, and so holds no data and builds no HTML. Nothing is loaded and
no other script can run, whatever a caption holds.
"""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path
from typing import Any, Final

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from figures import style
from figures.explorer_state import Strip, percent_text, state_figure
from figures.provenance import line as provenance_line
from figures.provenance import with_commit
from fitclip_kit.slider import views
from fitclip_kit.slider.answers import Sweep
from fitclip_kit.slider.material import ClipSet, Material, open_material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.store.files import write_text

NAME: Final = "explore.html"
OPENING: Final = 0.4  # the paper's alpha; the page opens at the stored one nearest to it
_CAPTION: Final = 110  # letters of a caption in a list


def explore(run_dir: Path | str, sources_file: str = "") -> tuple[Path, Path]:
    """Write a run's explore.html, and explore.png and .pdf of what it opens with.

    Returns: the page and the PNG. Raises: ValueError as `material.open_material`.
    """
    material = open_material(run_dir, sources_file)
    sweep = Sweep.read(material)
    path = write_page(sweep, material, material.run.path / NAME)
    picture, _ = style.save(
        opening_figure(sweep, material), path.with_suffix(""), _provenance(material)
    )
    return path, picture


def write_page(sweep: Sweep, material: Material, path: Path) -> Path:
    """Write the page of a sweep, with captions and frames of the same run; returns its path.

    Raises: ValueError when the sweep lacks the teacher or the students themselves.
    """
    write_text(path, _Page(sweep, material).text())
    return path


def opening_figure(sweep: Sweep, material: Material) -> Figure:
    """What the page opens with, as a figure for print: the first student at alpha 0.4."""
    draw, alpha = sweep.draws[0], opening_alpha(sweep)
    fusion, titles = Fusion.at(draw, alpha), material.titles
    points = sweep.points(fusion)
    data_set = next(iter(sweep.measures))
    clip_set = material.sets[data_set]
    ranks = _over_alpha(sweep, data_set, draw, "rank")
    strips = []
    for item, why in example_clips(sweep, data_set).items():
        row = clip_set.clip_ids.index(item)
        now, teacher, student = (f"{ranks[end][item]:,g}" for end in (alpha, 0.0, 1.0))
        text = f"{(clip_set.answers or [])[row]}\nRank of the {_right_thing(clip_set)}: {now}"
        text += f" (teacher {teacher}, student {student})"
        strips.append(Strip(clip_set.frames_of(row), f"{clip_set.title}: {why}", text))
    return state_figure(
        fusion.title,
        views.curve_panels(sweep, draw, titles),
        points,
        (alpha, alpha),
        views.numbers(points, sweep, draw, titles),
        strips,
    )


def opening_alpha(sweep: Sweep) -> float:
    """The stored alpha nearest to 0.4, the smaller of two."""
    return min(sweep.alphas, key=lambda alpha: (round(abs(alpha - OPENING), 9), alpha))


def example_clips(sweep: Sweep, data_set: str) -> dict[str, str]:
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

    def __init__(self, sweep: Sweep, material: Material) -> None:
        self.sweep, self.material = sweep, material
        self.sets = {name: material.sets[name] for name in sweep.measures}
        self.titles = {name: clip_set.title for name, clip_set in self.sets.items()}
        self.opening = {"student": 0, "alpha": sweep.alphas.index(opening_alpha(sweep)), "set": 0}
        self.states = [
            (Fusion.at(draw, alpha), {"student": student, "alpha": place})
            for student, draw in enumerate(sweep.draws)
            for place, alpha in enumerate(sweep.alphas)
        ]

    def text(self) -> str:
        sweep = self.sweep
        return views.ENVIRONMENT.get_template("page.j2").render(
            style=views.STYLE,
            style_hash=_hash(views.STYLE),
            script=views.SCRIPT,
            script_hash=_hash(views.SCRIPT),
            run=self.material.run.path.name,
            alphas=sweep.alphas,
            students=[f"student {draw}" for draw in sweep.draws],
            titles=list(self.titles.values()),
            opening=self.opening,
            curves=[
                (self._when(student=place), self._curves(draw))
                for place, draw in enumerate(sweep.draws)
            ],
            metrics=[(self._when(**when), self._metrics(fusion)) for fusion, when in self.states],
            sets=[self._set(place, name) for place, name in enumerate(self.sets)],
            spoken=[
                (self._when(**when, set=place) | {"class": "spoken"}, self._said(name, fusion))
                for place, name in enumerate(self.sets)
                for fusion, when in self.states
            ],
            provenance=provenance_line(with_commit(_provenance(self.material))),
        )

    def _curves(self, draw: int) -> Markup:
        panels = views.curve_panels(self.sweep, draw, self.titles)
        states = [
            (self.sweep.points(Fusion.at(draw, alpha)), (alpha, alpha), self._when(alpha=place))
            for place, alpha in enumerate(self.sweep.alphas)
        ]
        return views.curves(panels, draw, states)

    def _metrics(self, fusion: Fusion) -> Markup:
        points = self.sweep.points(fusion)
        table = views.numbers(points, self.sweep, fusion.draw, self.titles)
        return views.texts_table(table, f"α = {fusion.vision:g}, student {fusion.draw}")

    def _set(self, place: int, name: str) -> dict[str, Any]:
        """A data set's changes at every state, and its example clips."""
        clip_set, measure = self.sets[name], self.sweep.measures[name]
        changes = []
        for fusion, when in self.states:
            now, teacher, student = (
                self.sweep.outcomes(side, name) for side in (fusion, *fusion.ends)
            )
            point = self.sweep.point(fusion, name)
            answer = views.answer(now, teacher, student, measure, point)
            said = views.render("answer", title=clip_set.title, **answer)
            changed = views.changes(clip_set, now, teacher, measure, _CAPTION)
            changes.append((self._when(**when), said, changed))
        tables = {
            draw: [_over_alpha(self.sweep, name, draw, column) for column in ("rank", "predicted")]
            for draw in self.sweep.draws
        }
        shows_class = clip_set.task == "classification"
        examples = example_clips(self.sweep, name)
        rows = {item: clip_set.clip_ids.index(item) for item in examples}
        clips = [
            {
                "item": item,
                "why": why,
                "text": (clip_set.answers or [])[rows[item]],
                "strip": views.strip(clip_set, rows[item]),
                "ranks": [
                    (self._when(student=student), ranks.loc[item].to_numpy().tolist())
                    for student, (ranks, _) in enumerate(tables.values())
                ],
                "predicted": [
                    (self._when(**when), str(tables[fusion.draw][1].at[item, fusion.vision]))
                    for fusion, when in (self.states if shows_class else [])
                ],
            }
            for item, why in examples.items()
        ]
        when, right = self._when(set=place), _right_thing(clip_set)
        return {"when": when, "changes": changes, "clips": clips, "right": right}

    def _said(self, name: str, fusion: Fusion) -> str:
        """What a screen reader is told after a move; it is not shown, only read from."""
        now, teacher, student = (
            percent_text(self.sweep.points(side)[name].value) for side in (fusion, *fusion.ends)
        )
        return (
            f"alpha {fusion.vision:g}, student {fusion.draw}, {self.titles[name]}, "
            f"{self.sweep.measures[name].name}: {now} percent; teacher {teacher}, student {student}"
        )

    def _when(self, **places: int) -> dict[str, Any]:
        """The attributes of a piece that is seen at these places of the controls only."""
        hidden = any(self.opening[name] != place for name, place in places.items())
        attributes: dict[str, Any] = {f"data-{name}": place for name, place in places.items()}
        return attributes | ({"class": "off"} if hidden else {})


def _provenance(material: Material) -> dict[str, str]:
    return {"results": material.run.results.digest(material.cells)}


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _over_alpha(sweep: Sweep, data_set: str, draw: int, column: str) -> pd.DataFrame:
    """A column of the outcomes at every stored alpha: a row an item, a column an alpha."""
    cells = {
        alpha: sweep.outcomes(Fusion.at(draw, alpha), data_set).set_index("item")[column]
        for alpha in sweep.alphas
    }
    return pd.DataFrame(cells)


def _right_thing(clip_set: ClipSet) -> str:
    right = "right clip for its caption" if clip_set.task == "retrieval" else "right class"
    return f"{right}, of {clip_set.candidates:,}"
