"""The one reader of all loaders: every annotation becomes a table whose index tells where a row is
(its name and a label together, such as "/data/list.txt, line " and 7), and every check is a refusal
or an account of some of its rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from data_prep.annotations import digests, read_json, read_table, read_text
from data_prep.clips import COLUMNS
from data_prep.datasets.base import OFFICIAL, DataSet, data_set
from data_prep.datasets.layout import locate, scan

_SLACK: Final = 1.02  # how far a true list may lie above a rounded number
_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class About(int):
    """A number that is known from texts only, or rounded there."""


Counts = Mapping[str, Mapping[str, int]]
"""Part of a data set -> what is counted -> how many there are officially."""


def table(
    file: Path, columns: Sequence[str], *, header: bool = True, optional: Sequence[str] = ()
) -> pd.DataFrame:
    """`data_prep.annotations.read_table`."""
    rows = read_table(file, columns, header=header, optional=optional)
    return rows.set_index("line").rename_axis(f"{file}, line ")


def lines(file: Path, form: re.Pattern[str], what: str) -> pd.DataFrame:
    """A text file's lines but the blank ones: a column for each of the form's groups, all named.

    Raises: ValueError as `read_text`, and for a line that has not the form; it is no `what`.
    """
    numbered = enumerate(read_text(file).split("\n"), start=1)
    texts = {number: line for number, line in numbered if line.strip()}
    rows = pd.DataFrame({"text": pd.Series(texts, dtype="str")}).rename_axis(f"{file}, line ")
    check_form(rows, "text", form, what)
    groups = [match.groups() for match in map(form.fullmatch, texts.values()) if match]
    return pd.DataFrame(groups, rows.index, list(form.groupindex))


def records(content: Any, where: str, key: str = "", **kinds: type) -> pd.DataFrame:
    """A JSON list of objects, or that of an object's key: a column for each of some members.

    Raises: ValueError as `member`.
    """
    listed = member(content, key, list, where) if key else typed(content, list, where)
    at = f"{where}, {key}"
    rows = [
        [member(record, name, kind, f"{at}[{number}]") for name, kind in kinds.items()]
        for number, record in enumerate(listed)
    ]
    index = pd.Index([f"[{number}]" for number in range(len(rows))], name=at)
    return pd.DataFrame(rows, index, list(kinds), dtype="object")


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file whose content must be an object."""
    content: dict[str, Any] = typed(read_json(file), dict, str(file))
    return content


def member(record: Any, key: str, kind: type, where: str) -> Any:
    """`record[key]` of a JSON object.

    Raises: ValueError when the record is no object, or the key is missing or of another kind.
    """
    value = typed(record, dict, where).get(key, ...)
    if value is ...:
        keys = ", ".join(list(record)[:8]) or "nothing"
        raise ValueError(f"{where} has no {key!r}; it has {keys}: take the original file")
    return typed(value, kind, f"{where}, {key!r}")


def typed(value: Any, kind: type, where: str) -> Any:
    """A JSON value of a kind: str, int, float (whole numbers too), list or dict; true and false are
    no numbers. Raises: ValueError that shows another value."""
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{where}: {shown} is not {_KINDS[kind]}; take the original file")
    return value


def refuse(wrong: pd.DataFrame, problem: str, remedy: str = "take the original file") -> None:
    """Raise ValueError where there is a row, with its place. problem: its columns fill this in."""
    if len(wrong):
        row = {str(name): wrong[name].iloc[0] for name in wrong}
        raise ValueError(f"{wrong.index.name}{wrong.index[0]}: {problem.format(**row)}; {remedy}")


def check_form(rows: pd.DataFrame, column: str, form: re.Pattern[str], what: str) -> None:
    """Refuse a text that has not the form, for names become paths."""
    other = [form.fullmatch(text) is None for text in rows[column]]
    refuse(rows.loc[other], f"{{{column}!r}} is no {what}")


def blank(texts: pd.Series) -> pd.Series:
    """Which texts have nothing in them."""
    return texts.map(lambda text: not text.strip()).astype(bool)


@dataclass
class Annotation:
    """The account of what a loader reads of a data set.

    Attributes:
        name, root: the loader's name, and the data set's own folder.
        counts: the official numbers; empty where there is no official annotation.
        files: the annotation's files. dropped, notes: as `DataSet` has them.
        sizes: how the numbers differ from the official ones, for notes and protocol: every result
            tells of annotations that lost rows over time and of deliberate subsets.
    """

    name: str
    root: Path
    counts: Counts
    files: list[Path] = field(default_factory=list)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def there(self, names: Sequence[str], folders: Sequence[str] = ("",)) -> list[Path]:
        """Which files of these names are in these folders ("lists/", ""); names before folders."""
        places = (self.root / folder / name for name in names for folder in folders)
        return [place for place in places if place.is_file()]

    def file(self, what: str, names: Sequence[str], folders: Sequence[str] = ("",)) -> Path:
        """The first that is `there`, one of the annotation's files from now on.

        Raises: ValueError when the root is no folder or none is there; it lists the places.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is no folder; give the data set's own folder as root")
        if not (found := self.there(names, folders)):
            places = ", ".join(f"{folder}{name}" for name in names for folder in folders)
            raise ValueError(f"no {what} under {self.root}; looked for {places}")
        self.files.append(found[0])
        return found[0]

    def keep(self, rows: pd.DataFrame, items: Iterable[str], why: Iterable[str]) -> pd.DataFrame:
        """The rows without a reason to leave them out; the others are listed, as `items`."""
        reasons = list(why)
        for item, reason in zip(items, reasons, strict=True):
            if reason:
                self.leave_out(item, reason)
        return rows.loc[[not reason for reason in reasons]]

    def leave_out(self, item: str, reason: str, source: str = "") -> None:
        """List an item as left out. source: by default the first of the files."""
        self.dropped.append((item, reason, source or self.files[0].name))

    def captions(
        self, videos: Sequence[str], texts: Mapping[str, Sequence[str]], which: str, source: str
    ) -> tuple[pd.DataFrame, int]:
        """Rows (clip_id, video, text) of videos' captions, and how many there are to be.

        which: all, or the first of each video that holds something. Empty captions, and videos that
        have no other, are left out of the `source`.
        """
        rows: list[tuple[str, str, str]] = []
        for video in videos:
            kept = []
            for number, text in enumerate(texts.get(video, ())):
                if text.strip():
                    kept.append((f"{video}_{number}", video, text))
                else:
                    self.leave_out(f"{video}_{number}", "the caption is empty", source)
            if not kept:
                self.leave_out(video, "it has no caption", source)
            rows += kept if which == "all" else [(video, video, text) for *_, text in kept[:1]]
        every = sum(len(texts.get(video, ())) for video in videos)
        table = pd.DataFrame(rows, columns=["clip_id", "video", "text"])
        return table, every if which == "all" else len(videos)

    def compare(self, part: str, file: Path, found: Mapping[str, int]) -> None:
        """Compare numbers with the official ones of a part of the data set.

        found: how many there are in the file, by what they are; the first word is the official
            numbers' key.

        Raises: ValueError for more than there are officially, or exactly as many as another part
        has: then the file is another list.
        """
        for what, number in found.items():
            noun = what.split()[0]
            known = self.counts[part][noun]
            if number == known:
                continue
            about, slack = ("about ", _SLACK) if isinstance(known, About) else ("", 1)
            parts = [name for name, counts in self.counts.items() if counts.get(noun) == number]
            if number > known * slack:
                wrong = f" and {part} has {about}{known:,}, so it is another list"
            elif parts:
                wrong = f", as {parts[0]} has, and {part} has {about}{known:,}"
            else:
                self.sizes.append(f"{number:,} {what}; officially there are {about}{known:,}")
                continue
            raise ValueError(f"{file} has {number:,} {noun}{wrong}; take the original file")

    def data_set(
        self,
        title: str,
        split: str,
        rows: pd.DataFrame,
        layouts: Sequence[pd.Series] = (),
        *,
        annotated: int,
        below: str = "",
        any_extension: bool = True,
        templates: Sequence[str] = (),
        classes: Sequence[str] = (),
        **protocol: str,
    ) -> DataSet:
        """`base.data_set` of some rows and this account.

        title: the official name. layouts, any_extension: as `locate` takes them, among the files
        below a folder of the root; no layouts where the rows say themselves which are `found`.
        protocol: what else belongs into it.
        """
        if layouts:
            files = scan(self.root, below)
            rows = locate(rows, files, layouts, any_extension=any_extension)
        inputs = {"annotations": digests(*self.files)}
        size = {"annotation_size": "; ".join(self.sizes) or OFFICIAL} if self.counts else {}
        return data_set(
            self.name,
            self.root,
            rows[[name for name in COLUMNS if name in rows]],
            dropped=self.dropped,
            annotated=annotated,
            found=rows["found"],
            templates=templates,
            classes=classes,
            protocol={"data_set": title, "split": split, **protocol, **inputs, **size},
            notes=(*self.notes, *(f"the annotation has {one}" for one in self.sizes)),
        )
