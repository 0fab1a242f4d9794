"""What the page shows, from numbers to the contexts of templates/views.j2; no widgets, no files.

Shares have the binomial interval of `metric_table`, paired differences the one of Bonett and Price,
both of 95% and of one student: they cover new items, not new students.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from figures.explorer_state import (
    AXIS,
    BLANK,
    CurvePanel,
    Point,
    Stroke,
    curve_strokes,
    interval_text,
    legend_entries,
    mark_strokes,
    percent_text,
    points_text,
    side_by_side,
    value_range,
)
from figures.inference import per_class_differences
from figures.measures import Measure
from fitclip_core.metrics import per_class_accuracy
from fitclip_kit.slider.answers import Sweep, of_direction, share_point
from fitclip_kit.slider.material import ClipSet
from fitclip_kit.slider.merges import Fusion

SHOWN: Final = 8  # clips, classes or captions
CHANGED: Final = 5  # classes or items that gained, and that lost
STATUS: Final = {"stored": "stored", "exact": "measured now", "interpolated": "≈ interpolated"}
HERE: Final = Path(__file__).parent
STYLE: Final = (HERE / "slider.css").read_text(encoding="utf-8")
SCRIPT: Final = (HERE / "slider.js").read_text(encoding="utf-8")

_NUMBERS: Final = (
    *("Data set", "Measure (%)", "Teacher", "Student"),
    *("Here", "95% interval", "Here − teacher", "Status"),
)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 205, 36, 350, 8, 168  # px of a panel
_SIDE: Final = 96  # px; largest height of a frame, so that a page of clips stays small
_SEEN: Final = 72  # px; smallest height that a picture is shown at
_LOSSLESS: Final = 64  # px; up to here a picture is kept exactly: small flat pictures smear

ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {"percent": percent_text, "points": points_text, "grouped": "{:,g}".format}
ENVIRONMENT.globals |= {"interval": interval_text, "STATUS": STATUS}


def render(view: str, **context: Any) -> Markup:
    """A macro of views.j2, as escaped HTML."""
    return Markup(getattr(ENVIRONMENT.get_template("views.j2").module, view)(**context))


# Curves


def curve_panels(sweep: Sweep, draw: int, titles: Mapping[str, str]) -> list[CurvePanel]:
    """A panel a data set, whose axis holds all students' curves."""
    panels = []
    for name, measure in sweep.measures.items():
        mean = sweep.curve(name, None) if len(sweep.draws) > 1 else None
        every = [sweep.curve(name, one) for one in (*sweep.draws, None)]
        chosen = sweep.curve(name, draw)
        panels.append(
            CurvePanel(name, titles[name], measure.name, chosen, mean, *value_range(every))
        )
    return panels


def curves(
    panels: Sequence[CurvePanel],
    draw: int,
    states: Sequence[tuple[Mapping[str, Point], tuple[float, float], Mapping[str, str]]],
) -> Markup:
    """All panels with their marks, and a legend.

    panels, draw: from `curve_panels`. states: what is marked: points by data set, the student's
    shares of the vision and the text tower, and attributes that say when the mark is seen.
    """
    shown = []
    for panel in panels:
        marks = [
            {
                "point": points[panel.data_set],
                "strokes": _drawn(panel, mark_strokes(panel, points[panel.data_set], shares)),
                "attributes": attributes,
            }
            for points, shares, attributes in states
            if panel.data_set in points
        ]
        shown.append(_picture_of(panel, draw) | {"marks": marks})
    estimates = any(mark["point"].is_estimate for panel in shown for mark in panel["marks"])
    legend = legend_entries(panels[0].mean is not None, estimates)
    size = {"width": _WIDTH, "height": _HEIGHT, "right": _RIGHT, "left": _LEFT}
    return render("curves", panels=shown, legend=legend, **size, top=_TOP, bottom=_BOTTOM)


@lru_cache(maxsize=64)
def _picture_of(panel: CurvePanel, draw: int) -> dict[str, Any]:
    """What does not move."""
    low, high = 100 * panel.low, 100 * panel.high
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    curve = panel.draw
    best = curve.iloc[int(curve["value"].round(12).argmax())]
    teacher, student = (percent_text(curve["value"].iloc[place]) for place in (0, -1))
    return {
        "data_set": panel.data_set,
        "title": panel.title,
        "measure": panel.measure,
        "strokes": _drawn(panel, curve_strokes(panel)),
        "values": {f"{tick:g}": _y(panel, tick / 100) for tick in ticks if low <= tick <= high},
        "alphas": {f"{alpha:g}": _x(alpha) for alpha in (0, 0.2, 0.4, 0.6, 0.8, 1)},
        "spoken": f"{panel.title}, {panel.measure} over alpha, student {draw}: teacher {teacher}%, "
        f"student {student}%, highest {percent_text(best['value'])}% at alpha {best['alpha']:g}",
    }


def _drawn(panel: CurvePanel, strokes: Sequence[Stroke]) -> list[tuple[str, list[str]]]:
    """Kind and places "x,y" of each stroke."""
    return [
        (
            stroke.kind,
            [
                f"{_x(alpha)},{_y(panel, value)}"
                for alpha, value in zip(stroke.alphas, stroke.values, strict=True)
            ],
        )
        for stroke in strokes
    ]


def _x(alpha: float) -> str:
    return f"{_LEFT + (alpha - AXIS[0]) / (AXIS[1] - AXIS[0]) * (_RIGHT - _LEFT):.1f}"


def _y(panel: CurvePanel, value: float) -> str:
    return f"{_BOTTOM - (value - panel.low) / (panel.high - panel.low) * (_BOTTOM - _TOP):.1f}"


# Numbers


def numbers(
    points: Mapping[str, Point], sweep: Sweep, draw: int, titles: Mapping[str, str]
) -> pd.DataFrame:
    """Every point beside the stored teacher and student, as texts, a row each."""
    rows = []
    ends = [sweep.points(Fusion.at(draw, alpha)) for alpha in (0, 1)]
    for name, point in points.items():
        teacher, student = (end[name].value for end in ends)
        rows.append(
            [
                titles[name],
                sweep.measures[name].name,
                *map(percent_text, (teacher, student, point.value)),
                point.interval or BLANK,
                points_text(point.value - teacher),
                STATUS[point.status],
            ]
        )
    return pd.DataFrame(rows, columns=_NUMBERS)


def texts_table(frame: pd.DataFrame, caption: str) -> Markup:
    """A table of texts; the first column heads the rows, others without letters are numeric."""
    letters = (any(map(str.isalpha, "".join(frame[name]))) for name in frame.columns[1:])
    numeric = [False, *(not has_letters for has_letters in letters)]
    rows = frame.to_numpy().tolist()
    return render("texts", caption=caption, heads=list(frame), numeric=numeric, rows=rows)


def answer(
    now: pd.DataFrame,
    teacher: pd.DataFrame,
    student: pd.DataFrame,
    measure: Measure,
    point: Point | None = None,
) -> dict[str, Any]:
    """One data set's measure, paired with the teacher over the same items; for the view `answer`.

    Returns: teacher and student (fractions), difference to the teacher with low and high (one item
    for and one against added, so not centred on it), n measured, clips asked for.

    Raises: ValueError when items differ between the models.
    """
    tables = _same_items(measure.direction, now, teacher, student)
    hits = [(table["rank"] <= measure.k).to_numpy() for table in tables]
    paired = per_class_differences(hits[1], hits[0], np.zeros(len(hits[0]))).iloc[0]
    clips = now.attrs.get("coverage", {}).get("clips")
    return {
        "measure": measure.name,
        "point": point or share_point(tables[0], measure),
        "teacher": hits[1].mean(),
        "student": hits[2].mean(),
        **{str(name): paired[name] for name in ("difference", "low", "high")},
        "n": len(hits[0]),
        "clips": len(hits[0]) if clips is None else clips,
    }


def changes(
    clip_set: ClipSet,
    now: pd.DataFrame,
    teacher: pd.DataFrame,
    measure: Measure,
    longest: int | None = None,
) -> Markup:
    """What gained and lost most since the teacher: classes by their accuracy, or captions that
    entered and left the first k by the ratio of their ranks; of equal changes the first by name.

    longest: letters of a caption's name. Source: supplement, figure 1.
    """
    now, teacher = _same_items(measure.direction, now, teacher)
    classes = clip_set.task == "classification"
    if classes:
        titles = "Classes that gained most", "Classes that lost most"
        table, before = (
            per_class_accuracy(side["rank"], now["label"].to_numpy(), measure.k)
            for side in (now, teacher)
        )
        table = table.set_axis(["name", "n", "now"], axis=1).assign(teacher=before["accuracy"])
        table["change"] = table["now"] - table["teacher"]
    else:
        titles = "Entered the top", "Left the top"
        table = pd.DataFrame({"teacher": teacher["rank"], "now": now["rank"]})
        table = table.rename_axis("name").reset_index()
        was_in, is_in = table["teacher"] <= measure.k, table["now"] <= measure.k
        ratios = table["teacher"] / table["now"], -table["now"] / table["teacher"]
        table["change"] = np.select([is_in & ~was_in, was_in & ~is_in], ratios, 0.0)
    # Rounded, so that equal shares do not differ by the order of a subtraction.
    table["size"] = table["change"].abs().round(12)
    table = table.sort_values(["size", "name"], ascending=[False, True])
    sides = []
    for title, sign in zip(titles, (1, -1), strict=True):
        side = table[sign * table["change"] > 0]
        rows = side.head(CHANGED).to_dict("records")
        for row in () if classes else rows:
            name = clip_set.called(clip_set.clip_ids.index(row["name"]))
            row["name"] = name if longest is None else shorten(name, longest, placeholder=" …")
        sides.append({"title": title, "count": len(side), "rows": rows})
    return render("changes", sides=sides, classes=classes)


def _same_items(direction: str, *outcomes: pd.DataFrame) -> list[pd.DataFrame]:
    """Each model's outcomes in one direction by item, in the first one's order."""
    tables = [of_direction(table, direction).set_index("item") for table in outcomes]
    if any(set(table.index) != set(tables[0].index) for table in tables):
        raise ValueError("items differ between the models; measure them on the same clips")
    return [table.loc[tables[0].index] for table in tables]


# Clips


def probabilities(
    video: Tensor, targets: Tensor, logit_scale: float, names: Sequence[str], right: Sequence[int]
) -> list[dict[str, Any]]:
    """The most probable classes or captions of one clip, and the best right one.

    video, targets: features [d] and [m, d]. right: places of the right targets, where known.

    Returns: name, score (dot product), probability (softmax of logit_scale * score over all m),
    right, rank (1-based mid-rank); the best first. Raises: ValueError when a score is not finite.
    """
    scores = _scores(video, targets)
    order = np.argsort(-scores, kind="stable")[:SHOWN].tolist()
    if len(right) and not set(order) & set(right):
        order.append(max(right, key=lambda place: scores[place]))
    shares, ranks = softmax(logit_scale * scores), rankdata(-scores)
    return [
        {
            "name": names[place],
            "score": scores[place],
            "probability": shares[place],
            "right": place in right,
            "rank": ranks[place],
        }
        for place in order
    ]


def retrieved(query: Tensor, videos: Tensor, clip_ids: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """The clips that a text [d] retrieves of videos [n, d]: clip_id -> (1-based mid-rank, score),
    the best first. Raises: ValueError when a score is not finite.
    """
    scores = _scores(query, videos)
    ranks = rankdata(-scores)
    order = np.argsort(-scores, kind="stable")[:SHOWN]
    return {clip_ids[place]: (ranks[place], scores[place]) for place in order}


def gallery(
    clip_set: ClipSet,
    now: Mapping[str, tuple[Any, Any]],
    before: Mapping[str, tuple[Any, Any]],
    caption: str,
) -> tuple[Markup, Markup]:
    """The retrieved clips with what entered and left since the teacher, and that in words."""
    rows = {clip_id: row for row, clip_id in enumerate(clip_set.clip_ids)}
    left = [clip_id for clip_id in before if clip_id not in now]

    def clip(clip_id: str) -> dict[str, Any]:
        frames = clip_set.frames_of(rows[clip_id])
        middle = picture(frames[len(frames) // 2])
        return {"picture": middle, "text": clip_set.called(rows[clip_id])}

    clips = [
        clip(clip_id) | {"rank": rank, "score": score, "is_new": clip_id not in before}
        for clip_id, (rank, score) in now.items()
    ]
    shown = render("gallery", caption=caption, clips=clips, left=[clip(one) for one in left])
    return shown, render("entered", count=len(now), entered=len(set(now) - set(before)))


@lru_cache(maxsize=64)
def strip(clip_set: ClipSet, row: int) -> Markup:
    """The frames of a clip, with its name for screen readers."""
    frames = clip_set.frames_of(row)
    opaque = np.full((*frames.shape[:3], 1), 255, np.uint8)
    pixels = side_by_side(np.concatenate([frames, opaque], axis=3), (0, 0, 0, 0))
    alt = f"{len(frames)} frames of {clip_set.called(row)}"
    return render("strip", picture=picture(pixels), alt=alt)


def picture(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels, uint8 [height, width, 3 or 4], as an element's src, width and height."""
    image = Image.fromarray(pixels)
    if image.height > _SIDE:
        width = max(1, round(image.width * _SIDE / image.height))
        image = image.resize((width, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=len(pixels) <= _LOSSLESS, quality=85, method=4)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    scale = max(1.0, _SEEN / image.height)  # frames of the smallest models are postage stamps
    return {
        "src": f"data:image/webp;base64,{content}",
        "width": round(image.width * scale),
        "height": round(image.height * scale),
    }


def own_failures(failures: pd.DataFrame) -> Markup:
    """The own files that are left out, with the reason."""
    if not (count := len(failures)):
        return Markup()
    shown = failures.rename(columns={"path": "File", "reason": "Reason"})
    return texts_table(shown, f"{count} {'file is' if count == 1 else 'files are'} left out")


def own_clips(clip_set: ClipSet, scores: pd.DataFrame, title: str) -> Markup:
    """Each own clip's frames, and the texts that the fused model finds most probable."""
    clips = []
    columns = {"teacher": "Teacher (%)", "student": "Student (%)", "fused": "Fused (%)"}
    for row, (clip_id, table) in enumerate(scores.groupby("clip_id", sort=False)):
        best = table.sort_values("fused", ascending=False, kind="stable").head(SHOWN)
        shown = best.rename(columns={"text": "Text"})[["Text"]]
        for name, head in columns.items():
            shown[head] = best[name].map(percent_text)
        some = f", {len(best)} of {len(table)} texts" if len(best) < len(table) else ""
        clips.append((strip(clip_set, row), texts_table(shown, f"{clip_id}{some}")))
    return render("own_clips", title=title, clips=clips)


def _scores(one: Tensor, many: Tensor) -> np.ndarray:
    """Dot products [m], rounded as `metrics.retrieval_ranks` rounds, so that ties are its ties."""
    vector, matrix = (side.detach().cpu().float().double().numpy() for side in (one, many))
    with np.errstate(over="ignore"):
        # cumsum adds in the features' order, whatever the shape, where a product's order may vary.
        scores = np.cumsum(matrix * vector, axis=1)[:, -1].astype(np.float32).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores are NaN or infinite, which cannot be ranked: look at the weights")
    return scores
