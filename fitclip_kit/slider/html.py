"""What the explorer shows, as escaped, accessible HTML; nothing in it needs a network.

Put STYLE on the page once and everything inside an element of class "fk". No element has a style
attribute and no text is trusted, so that a page can forbid both.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from figures import style
from figures.explorer_state import interval_text, percent_text, points_text
from figures.table_formats import BLANK

STATUS: Final = {
    "stored": "stored",
    "exact": "measured now",
    "interpolated": "≈ interpolated",
}
_WORDS: Final = ("Data set", "Measure (%)", "Status", "Class (clips)", "Item")  # no numbers
_CHANGES: Final = {
    "gained": "Classes that gained most",
    "lost": "Classes that lost most",
    "entered": "Entered the top",
    "left": "Left the top",
}
_NEW: Final = '<span class="fk-badge">new</span> '
_RIGHT: Final = ' <span class="fk-badge">right</span>'
_SIDE: Final = 96  # px; largest height of a frame, so that a page of clips stays small
_SHOWN: Final = 72  # px; smallest height that a picture is shown at
_LOSSLESS: Final = 64  # px; up to here a picture is kept exactly: small flat pictures smear

STYLE: Final = f"""
.fk {{
  --fk-line: {style.LINE}; --fk-band: {style.BAND}; --fk-draw: {style.DRAW}; --fk-ink: {style.INK};
  --fk-soft: #595959; --fk-rule: #d9d9d9; --fk-paper: #ffffff; --fk-shade: #f4f7f9;
  color: var(--fk-ink); background: var(--fk-paper);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}}
.fk figure {{ margin: 0; }}
.fk table {{ border-collapse: collapse; width: 100%; font-size: 13px; line-height: 1.35;
  border-top: 1.5px solid var(--fk-ink); border-bottom: 1.5px solid var(--fk-ink); }}
.fk caption, .fk figcaption {{ text-align: left; padding: 0 0 6px; color: var(--fk-ink); }}
.fk caption {{ caption-side: top; font-weight: 600; font-size: 14px; }}
.fk thead th {{ font-weight: 600; vertical-align: bottom; }}
.fk thead tr > * {{ border-bottom: 0.75px solid var(--fk-ink); }}
.fk th, .fk td {{ padding: 4px 12px 4px 0; text-align: left; vertical-align: baseline;
  color: inherit; background: none; overflow-wrap: break-word; }}
.fk th:last-child, .fk td:last-child {{ padding-right: 2px; }}
.fk tbody tr {{ background: none; }}
.fk tbody th {{ font-weight: 400; }}
.fk tbody tr + tr > * {{ border-top: 0.5px solid var(--fk-rule); }}
.fk .fk-number {{ text-align: right; white-space: nowrap; }}
.fk thead .fk-number {{ white-space: normal; }}
.fk .fk-soft {{ color: var(--fk-soft); }}
.fk .fk-scroll {{ overflow-x: auto; }}
.fk .fk-bar {{ display: block; width: 100%; min-width: 44px; height: 11px; }}
.fk .fk-bar-cell {{ width: 34%; vertical-align: middle; }}
.fk .fk-fill {{ fill: var(--fk-line); }}
.fk .fk-fill-soft {{ fill: var(--fk-band); stroke: var(--fk-line); stroke-width: 1;
  vector-effect: non-scaling-stroke; }}
.fk .fk-right > th {{ font-weight: 700; }}
.fk .fk-badge {{ display: inline-block; border: 1px solid var(--fk-ink); border-radius: 3px;
  padding: 0 4px; font-size: 11px; font-weight: 600; line-height: 1.35; }}
.fk .fk-pair {{ display: grid; gap: 20px 32px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }}
.fk .fk-frames img {{ display: block; max-width: 100%; height: auto; }}
.fk .fk-clips {{ list-style: none; margin: 0; padding: 0; display: grid; gap: 14px 12px;
  grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }}
.fk .fk-clips li {{ margin: 0; font-size: 12px; overflow-wrap: anywhere; }}
.fk .fk-clips img, .fk .fk-nothing {{ display: block; width: 100%; max-width: 160px;
  aspect-ratio: 1; object-fit: contain; background: var(--fk-shade); }}
.fk .fk-left img {{ opacity: 0.55; }}
.fk .fk-panels {{ display: grid; gap: 22px 26px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }}
.fk .fk-panel {{ max-width: 460px; }}
.fk .fk-panel svg {{ display: block; width: 100%; height: auto; overflow: visible; }}
.fk .fk-panel figcaption {{ padding: 0 0 2px; line-height: 1.35; }}
.fk .fk-reading {{ display: block; min-height: 1.35em; }}
.fk .fk-area {{ fill: var(--fk-band); }}
.fk .fk-curve {{ fill: none; stroke: var(--fk-line); stroke-width: 1.9; stroke-linejoin: round; }}
.fk .fk-dot {{ fill: var(--fk-line); }}
.fk .fk-mean {{ fill: none; stroke: var(--fk-draw); stroke-width: 1.1; }}
.fk .fk-level {{ stroke: var(--fk-ink); stroke-width: 0.9; stroke-dasharray: 5 4; }}
.fk .fk-axis {{ stroke: var(--fk-ink); stroke-width: 0.8; fill: none; }}
.fk .fk-grid {{ stroke: var(--fk-rule); stroke-width: 0.5; }}
.fk .fk-tick {{ fill: var(--fk-ink); font-size: 11px; }}
.fk .fk-mark {{ stroke: var(--fk-ink); stroke-width: 1.5; fill: none; }}
.fk .fk-mark-guide {{ stroke: var(--fk-ink); stroke-width: 0.5; }}
.fk .fk-mark-point {{ fill: var(--fk-ink); stroke: var(--fk-paper); stroke-width: 1.2; }}
.fk .fk-guess .fk-mark {{ stroke-dasharray: 2.5 2.5; }}
.fk .fk-guess .fk-mark-point {{ fill: var(--fk-paper); stroke: var(--fk-ink);
  stroke-width: 1.5; }}
.fk .fk-legend {{ display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 10px 0 0; padding: 0;
  list-style: none; font-size: 12px; color: var(--fk-soft); }}
.fk .fk-legend li {{ display: flex; align-items: center; gap: 6px; margin: 0; }}
.fk .fk-legend svg {{ width: 26px; height: 12px; flex: none; }}
.fk .fk-notice {{ border-left: 3px solid var(--fk-ink); padding: 4px 10px; margin: 8px 0;
  background: var(--fk-shade); white-space: pre-line; overflow-wrap: anywhere; }}
"""


def table(
    frame: pd.DataFrame,
    caption: str,
    *,
    numeric: Collection[str] = (),
    marked: Collection[int] = (),
) -> str:
    """A table of texts; the first column heads the rows.

    frame: cells are shown as str(value), missing ones as "–". numeric: columns that are aligned to
    the right. marked: places of rows to print bold, which a column should also say in words.

    Raises: ValueError when the frame has no column.
    """
    return _table(frame.map(_cell), caption, numeric, marked)


def metrics(answers: pd.DataFrame, caption: str, titles: Mapping[str, str] | None = None) -> str:
    """`views.metrics_table` as a table: the numbers of every data set beside both ends'.

    titles: data set -> how it is printed, by default its name.
    """
    shown = numbers(answers, titles)
    return table(shown, caption, numeric=[str(name) for name in shown if name not in _WORDS])


def numbers(answers: pd.DataFrame, titles: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The texts of `metrics`, for print too: percent, and points for the difference."""
    named = titles or {}
    return pd.DataFrame(
        {
            "Data set": [named.get(name, name) for name in answers["data_set"]],
            "Measure (%)": answers["measure"].tolist(),
            "Teacher": answers["teacher"].map(percent_text).tolist(),
            "Student": answers["student"].map(percent_text).tolist(),
            "Here": answers["value"].map(percent_text).tolist(),
            "95% interval": [
                interval_text(low, high) or BLANK
                for low, high in zip(answers["ci_low"], answers["ci_high"], strict=True)
            ],
            "Here − teacher": answers["difference"].map(points_text).tolist(),
            "Status": [STATUS[status] for status in answers["status"]],
        }
    )


def answer(found: pd.DataFrame, title: str) -> str:
    """`views.set_answer` in a sentence: the difference to the teacher with its paired interval."""
    row = found.iloc[0]
    interval = interval_text(row["diff_low"], row["diff_high"], signed=True)
    asked = row["clips"]
    measured = f"{row['n']:,}" + ("" if pd.isna(asked) or asked == row["n"] else f" of {asked:,}")
    return (
        f"<p><b>{escape(title)}</b>, {escape(row['measure'])}: "
        f"<b>{percent_text(row['value'])}%</b> {interval_text(row['ci_low'], row['ci_high'])}, "
        f"<b>{points_text(row['difference'])} points</b> {interval} against the teacher's "
        f"{percent_text(row['teacher'])}%; the student has {percent_text(row['student'])}%. "
        f'<span class="fk-soft">{measured} clips, {escape(STATUS[row["status"]])}; intervals are '
        "95% over clips, of this student.</span></p>"
    )


def changes(found: pd.DataFrame, titles: Mapping[str, str] | None = None) -> str:
    """`views.class_changes` or `views.retrieval_changes`, the two sides beside each other.

    titles: class or item -> how it is printed, by default its name.
    """
    of_classes = "class" in found
    named = titles or {}
    parts = []
    for change in ("gained", "lost") if of_classes else ("entered", "left"):
        rows = found[found["change"] == change]
        if rows.empty:
            parts.append(f"<p><b>{_CHANGES[change]}:</b> none</p>")
            continue
        texts = [
            named.get(str(name), str(name)) for name in rows["class" if of_classes else "item"]
        ]
        cells = _class_cells(rows, texts) if of_classes else _item_cells(rows, texts)
        caption = f"{_CHANGES[change]} ({len(rows)} of {found.attrs['counts'][change]:,})"
        parts.append(
            _table(cells, caption, [str(name) for name in cells if name and name not in _WORDS])
        )
    return f'<div class="fk-pair">{"".join(parts)}</div>'


def notice(text: str) -> str:
    """A message, say an error, as a paragraph; line ends are kept."""
    return f'<p class="fk-notice">{escape(text)}</p>' if text else ""


def strip(frames: np.ndarray, alt: str) -> str:
    """Frames in order of time as one picture, side by side.

    frames: uint8 [frames, height, width, 3]; alt: what a screen reader says, such as the caption.

    Raises: ValueError when the frames have another shape or type, or there is none.
    """
    if frames.ndim != 4 or not len(frames):
        raise ValueError(f"frames are {list(frames.shape)}; give at least one [height, width, 3]")
    _check_pixels(frames[0])
    opaque = np.full((*frames.shape[:3], 1), 255, np.uint8)
    gap = np.zeros((frames.shape[1], max(1, frames.shape[2] // 20), 4), np.uint8)
    parts = [part for frame in np.concatenate([frames, opaque], 3) for part in (frame, gap)][:-1]
    return f'<div class="fk-frames">{_image(np.concatenate(parts, axis=1), alt)}</div>'


def picture(pixels: np.ndarray, alt: str) -> str:
    """A picture inside the page, at most 96 px high.

    pixels: uint8 [height, width, 3]; alt: what a screen reader says, "" for mere decoration.

    Raises: ValueError when the pixels have another shape or type.
    """
    _check_pixels(pixels)
    return _image(pixels, alt)


def probability_bars(frame: pd.DataFrame, caption: str) -> str:
    """Names with their probabilities as bars and numbers.

    frame: from `views.probabilities`; the right one is marked in words.
    """
    right = frame["right"].to_numpy(bool)
    cells = pd.DataFrame(
        {
            "Name": [
                escape(str(name)) + (_RIGHT if one else "")
                for name, one in zip(frame["name"], right, strict=True)
            ],
            "": [
                _bar(share, solid=one)
                for share, one in zip(frame["probability"], right, strict=True)
            ],
            "Probability (%)": frame["probability"].map(percent_text).tolist(),
            "Score": [f"{score:.3f}" for score in frame["score"]],
            "Rank": [f"{rank:,g}" for rank in frame["rank"]],
        }
    )
    marked = np.flatnonzero(right).tolist()
    return _table(cells, caption, ("Probability (%)", "Score", "Rank"), marked)


def gallery(
    found: pd.DataFrame,
    pictures: Mapping[str, np.ndarray],
    caption: str,
    *,
    texts: Mapping[str, str] | None = None,
    entered: Collection[str] = (),
    left: Sequence[str] = (),
) -> str:
    """Retrieved clips as pictures in order of place, and below those that left the top.

    found: from `views.retrieved`: clip_id, score, place. pictures: clip_id -> uint8 [h, w, 3]; a
    clip without one is shown as its text. texts: clip_id -> caption or label, by default the id.
    entered: clips to mark "new"; left: clips that are no longer in the top.
    """
    said = texts or {}

    def item(clip_id: str, about: str) -> str:
        text = said.get(clip_id, clip_id)
        shown = (
            picture(pictures[clip_id], "")
            if clip_id in pictures
            else '<span class="fk-nothing"></span>'
        )
        return f"<li>{shown}<span>{about} {escape(text)}</span></li>"

    tops = []
    for row in found.to_dict("records"):
        badge = _NEW if row["clip_id"] in entered else ""
        score = f'<span class="fk-soft">{row["score"]:.3f}</span>'
        tops.append(item(row["clip_id"], f"<b>{row['place']:g}</b> {badge}{score}<br>"))
    parts = [f"<p><b>{escape(caption)}</b></p>", f'<ol class="fk-clips">{"".join(tops)}</ol>']
    if len(left):
        gone = "".join(item(clip_id, "") for clip_id in left)
        parts += [
            "<p>No longer in the top:</p>",
            f'<ul class="fk-clips fk-left">{gone}</ul>',
        ]
    return "".join(parts)


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"a picture is {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 3]"
        )


def _image(pixels: np.ndarray, alt: str) -> str:
    """uint8 [height, width, 3 or 4] as an element that holds it."""
    image = Image.fromarray(pixels)
    if image.height > _SIDE:
        width = max(1, round(image.width * _SIDE / image.height))
        image = image.resize((width, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=len(pixels) <= _LOSSLESS, quality=85, method=4)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    # The frames of the smallest models are postage stamps.
    scale = max(1.0, _SHOWN / image.height)
    size = f'width="{round(image.width * scale)}" height="{round(image.height * scale)}"'
    return f'<img src="data:image/webp;base64,{content}" alt="{escape(alt)}" {size}>'


def _class_cells(rows: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Class (clips)": [
                f'{escape(text)} <span class="fk-soft">({n:,})</span>'
                for text, n in zip(texts, rows["n"], strict=True)
            ],
            "": [_bar(abs(value), solid=value > 0) for value in rows["difference"]],
            "Teacher (%)": rows["teacher"].map(percent_text).tolist(),
            "Here (%)": rows["now"].map(percent_text).tolist(),
            "Points": rows["difference"].map(points_text).tolist(),
        }
    )


def _item_cells(rows: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Item": [escape(text) for text in texts],
            "Teacher's rank": [f"{rank:,g}" for rank in rows["teacher"]],
            "Rank here": [f"{rank:,g}" for rank in rows["now"]],
        }
    )


def _cell(value: Any) -> str:
    return BLANK if pd.isna(value) else escape(str(value))


def _table(
    cells: pd.DataFrame, caption: str, numeric: Iterable[str], marked: Collection[int] = ()
) -> str:
    """A table of cells that are HTML already."""
    if not len(cells.columns):
        raise ValueError("the table has no column; give at least the one that heads the rows")
    right = set(numeric)
    classes = [
        ' class="fk-number"' if name in right else ' class="fk-bar-cell"' if name == "" else ""
        for name in cells.columns
    ]
    head = "".join(
        f'<th scope="col"{kind}>{escape(str(name))}</th>' if name else f"<td{kind}></td>"
        for name, kind in zip(cells.columns, classes, strict=True)
    )
    rows = []
    for place, values in enumerate(cells.itertuples(index=False, name=None)):
        first, *others = zip(values, classes, strict=True)
        rest = "".join(f"<td{kind}>{value}</td>" for value, kind in others)
        kind = ' class="fk-right"' if place in marked else ""
        rows.append(f'<tr{kind}><th scope="row"{first[1]}>{first[0]}</th>{rest}</tr>')
    return (
        f'<div class="fk-scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bar(share: float, solid: bool) -> str:
    """A bar of a share of the cell's width; decoration, the number stands beside it."""
    width = 0.0 if math.isnan(share) else 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="fk-bar" viewBox="0 0 100 11" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{"fk-fill" if solid else "fk-fill-soft"}" width="{width:.2f}" height="11"/>'
        "</svg>"
    )
