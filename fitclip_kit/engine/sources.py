"""What a run reads: the embedded benchmark, or the user's own copies, named in a YAML file.

A sources file says where things lie on this machine; `notebooks/paper_data.yaml` is one to edit:

    data_sets:
      msrvtt: {loader: msrvtt, root: $FITCLIP_DATA/msrvtt, captions: first}
      webvid_train: {loader: webvid, root: $FITCLIP_DATA/webvid, split: train}
    models:
      teacher: {file: $FITCLIP_DATA/checkpoints/ViT-B-16.pt}
      student: {file: ...}  # a released student; it is draw 0
      references:
        frozen_in_time_webvid: {file: ..., vocabulary: .../vocab.txt}

Further keys of a data set are its loader's options; a teacher whose file does not tell which
activation it was trained with needs an `architecture`, such as ViT-B-16-quickgelu. With `precision:
bfloat16` the teacher and all that comes from it encode in mixed precision, which every result's
protocol then says; training stays in float32. Paths may start
with `~` or hold `$VARIABLES`; relative ones start at the file's folder. The three training sets
(`webvid_train`, `webvid_unlabelled`, `webvid_selection`) are drawn from rows whose video is there,
without overlap where they read the same annotation.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from data_prep import datasets
from data_prep.check import check, report
from data_prep.clips import write_clips
from data_prep.datasets.base import DROPPED_COLUMNS, DataSet
from data_prep.mini_benchmark import TEACHER, build
from data_prep.mini_benchmark.data_sets import EVALUATED, TEMPLATES
from fitclip_core.distillation import Recipe
from fitclip_core.video_text import check_templates
from fitclip_core.videos import video_numbers
from fitclip_kit.engine.settings import read_yaml
from fitclip_kit.store.files import atomic_path, file_sha256, json_digest, write_json
from fitclip_kit.weights.foreign_checkpoints import Checkpoint, read_checkpoint
from fitclip_kit.weights.models import OPEN_CLIP_PREFIX, LoadedModel, load_clip, load_frozen_in_time

TRAINED_ON = ("webvid_train", "webvid_unlabelled")
TRAINING_SETS = (*TRAINED_ON, "webvid_selection")
IN_DOMAIN: Final = "webvid_val"  # the evaluation set of the student's own domain
# What a 0 in notebook 03 stands for: what was tuned for the embedded teacher on development seeds;
# with the user's own models the paper's, since what suits a small model may ruin a large one.
_EMBEDDED_RECIPE: dict[str, Any] = {
    "labelled_clips": 150,
    "steps": 60,
    "validate_every": 10,
    "learning_rate": 6e-4,
    "labelled_batch": 32,
    "unlabelled_batch": 16,
}
# Beside Recipe's own defaults. The steps are ours: the paper's code trains until it is stopped.
_PAPERS_RECIPE: dict[str, Any] = {"labelled_clips": 4500, "steps": 900, "validate_every": 30}
_TEACHER_KEYS = {"file", "architecture", "precision"}
_STUDENT_KEYS = {"file", "architecture"}
_REFERENCE_KEYS = {"file", "vocabulary"}
_PLAIN_KEYS = {"architecture", "precision"}  # optional, and no paths


@dataclass(frozen=True)
class Sources:
    """The data sets and models of one run.

    Attributes:
        file: the sources file; None: the embedded benchmark and its teacher.
        data_sets: name -> loader, root and the loader's options.
        teacher: `file` (a weights file or an open_clip folder) and, where wanted, `architecture`
            and `precision`.
        student: a released student's `file`; None: there is none.
        references: name -> `file` and `vocabulary` of other models to measure.
    """

    file: Path | None = None
    data_sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: Mapping[str, str] = field(default_factory=lambda: {"file": str(TEACHER)})
    student: Mapping[str, str] | None = None
    references: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The data sets to measure on: all but the three training sets."""
        if self.file is None:
            return EVALUATED
        return tuple(name for name in self.data_sets if name not in TRAINING_SETS)

    @property
    def teacher_name(self) -> str:
        """What to call the teacher: open_clip's name and tag, or the name of its file or folder."""
        if self.file is None:
            return "mini-clip"
        file = self.teacher["file"]
        is_tag = file.startswith(OPEN_CLIP_PREFIX)
        return file.removeprefix(OPEN_CLIP_PREFIX) if is_tag else Path(file).name

    @property
    def digest(self) -> str:
        """Stands for the sources file as a notebook's input."""
        return "embedded" if self.file is None else file_sha256(self.file)

    def load_teacher(self, device: str = "cpu") -> LoadedModel:
        """The teacher, newly read; a student starts from another copy of it.

        Raises: ValueError when its file is missing or does not fit, or the precision is unknown.
        """
        entry = self.teacher
        precision: Any = entry.get("precision", "float32")
        return load_clip(entry["file"], entry.get("architecture"), device, precision)

    def load_student(self) -> Checkpoint:
        """The weights of the released student.

        Raises: ValueError when the sources name none, or its file does not fit.
        """
        if self.student is None:
            raise ValueError(
                "draw 0 stands for a released student, and the sources name none; add "
                "`student: {file: ...}` under `models`, or take draws from 1 on"
            )
        return read_checkpoint(Path(self.student["file"]))

    def load_reference(self, name: str, n_frames: int = 4, device: str = "cpu") -> LoadedModel:
        """One of the reference models, a Frozen in Time checkpoint.

        Raises: ValueError when its file is missing or does not fit.
        """
        entry = self.references[name]
        vocabulary = Path(entry["vocabulary"])
        return load_frozen_in_time(Path(entry["file"]), vocabulary, n_frames, device)


def read_sources(file: str | Path) -> Sources:
    """Read a sources file; an empty name means the embedded benchmark. Nothing it names is opened.

    Raises: ValueError for a file that is missing or no YAML of that shape, an unknown loader or
    option, or a variable that is not set.
    """
    if not str(file):
        return Sources()
    path = Path(file).expanduser().resolve()
    content = _mapping(read_yaml(path), path, "the file", {"data_sets", "models"})
    entries = _mapping(content.get("data_sets", {}), path, "data_sets")
    models = _mapping(content.get("models", {}), path, "models")
    _keys(models, {"teacher", "student", "references"}, path, "models")
    references = _mapping(models.get("references") or {}, path, "references")
    student = models.get("student")
    return Sources(
        file=path,
        data_sets={name: _data_set_entry(path, name, entry) for name, entry in entries.items()},
        teacher=_model_entry(path, "teacher", models.get("teacher"), _TEACHER_KEYS),
        student=None if student is None else _model_entry(path, "student", student, _STUDENT_KEYS),
        references={
            name: _model_entry(path, name, entry, _REFERENCE_KEYS)
            for name, entry in references.items()
        },
    )


def size_study_set(there: Collection[str]) -> str:
    """Where notebook 05 measures: the student's own domain, or else the next of the paper's sets.

    there: the data sets to measure on.

    Raises: ValueError when none of the paper's is among them.
    """
    for name in EVALUATED:
        if name in there:
            return name
    raise ValueError(
        f"of the data sets {', '.join(there) or '(none)'} none is one of the paper's, "
        f"{', '.join(EVALUATED)}"
    )


def share_study_sets(evaluated: Sequence[str]) -> list[str]:
    """Where notebook 06 measures: on what is not of the student's own domain, or else on that."""
    return [name for name in evaluated if name != IN_DOMAIN] or list(evaluated)


def student_recipe(values: Mapping[str, Any]) -> tuple[int, Recipe]:
    """The labelled clips of a draw and the recipe of notebook 03's students, its seed still 0.

    values: the notebook's parameters. Where a number of clips or steps, the learning rate or a
    batch is 0, it is the embedded teacher's, or with a `sources_file` the paper's; with a
    `teacher_temperature` of 0 the teacher has its own logit_scale.

    Raises: ValueError for a value out of range.
    """
    fitting = _PAPERS_RECIPE if values["sources_file"] else _EMBEDDED_RECIPE
    chosen = fitting | {name: values[name] for name in _EMBEDDED_RECIPE if values[name]}
    clips = chosen.pop("labelled_clips")
    recipe = Recipe(
        **chosen,
        seed=0,
        temperature=values["temperature"],
        teacher_temperature=values["teacher_temperature"] or None,
        labelled_share=values["labelled_share"],
    )
    return clips, recipe


def check_sources(sources: Sources, max_missing: float) -> str:
    """What `fitclip check-data` says of each of the user's data sets; of embedded ones, nothing.

    max_missing: the largest share of a set's clips without a file to accept, in [0, 1].

    Raises: ValueError for a broken annotation.
    """
    said: dict[str, list[str]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in sources.data_sets.items():
        said.setdefault(json_digest(dict(entry)), []).append(name)
        entries[json_digest(dict(entry))] = dict(entry)
    parts = []
    for key, entry in entries.items():
        loader, root = entry.pop("loader"), entry.pop("root")
        found = check(loader, root, entry, max_missing=max_missing)
        parts.append(f"{', '.join(said[key])}: {report(found)}")
    return "\n\n".join(parts)


def prepare(
    sources: Sources, folder: Path, sizes: Mapping[str, int], seed: int
) -> dict[str, DataSet]:
    """Build or find every data set of the sources; nothing is decoded.

    Args:
        sources: the embedded benchmark, or the user's copies.
        folder: each data set gets a folder in it: `clips.csv`, `data_set.json`, and the lists
            `missing.csv` and `dropped.csv` (embedded: its videos too).
        sizes: name -> number of clips; 0 takes all (the user's copies only). For a user's
            evaluation set a number draws that many videos of the annotation, present or not. All
            of a video's captions are taken.
        seed: of the embedded clips, and of what is drawn from larger annotations.

    Raises: ValueError for a data set that the sources lack, a wrong size, or broken files.
    """
    if sources.file is None:
        tables = build.build(folder, sizes, seed)
        found = {name: _embedded(name, folder / name, table) for name, table in tables.items()}
    else:
        found = _users(sources, sizes, seed)
    for name, data_set in found.items():
        _write(folder / name, data_set)
    return found


def _embedded(name: str, root: Path, table: pd.DataFrame) -> DataSet:
    classes = sorted(table["label"].unique()) if "label" in table else []
    templates = TEMPLATES.get(name, ())
    protocol: dict[str, Any] = {
        "data_set": f"embedded: {name}",
        "split": "drawn for this run",
        "captions": "one caption a clip" if "text" in table else "none",
        "prompts": f"{len(templates)} templates" if templates else "none",
        "annotations": {},
    }
    return DataSet(
        name=name,
        root=root,
        clips=table,
        missing=pd.DataFrame(columns=["clip_id", "path"], dtype="str"),
        dropped=pd.DataFrame(columns=list(DROPPED_COLUMNS), dtype="str"),
        annotated=len(table),
        templates=templates,
        classes=tuple(classes),
        protocol=protocol,
    )


def _users(sources: Sources, sizes: Mapping[str, int], seed: int) -> dict[str, DataSet]:
    wanted = {name: size for name, size in sizes.items() if name in sources.data_sets}
    unasked = sorted(set(sources.data_sets) - set(sizes))
    if unasked or any(size < 0 for size in sizes.values()):
        raise ValueError(
            f"sizes are {dict(sizes)}; give a number from 0 for each data set of the sources"
            + (f", {', '.join(unasked)} included" if unasked else "")
        )
    found: dict[str, DataSet] = {}
    pools: dict[str, tuple[DataSet, np.ndarray, np.ndarray]] = {}
    for name, size in wanted.items():
        entry = dict(sources.data_sets[name])
        key = json_digest(entry)
        loader, root = entry.pop("loader"), entry.pop("root")
        if name not in TRAINING_SETS:
            loaded = datasets.load(loader, root, **entry)
            numbers = video_numbers(loaded.clips)
            videos = np.unique(numbers)
            if 0 < size < len(videos):
                videos = np.random.default_rng(seed).permutation(videos)[:size]
            found[name] = _taken(loaded, name, numbers, videos)
            continue
        if key not in pools:
            loaded = datasets.load(loader, root, **entry)
            there = ~loaded.clips["clip_id"].isin(loaded.missing["clip_id"]).to_numpy()
            numbers = video_numbers(loaded.clips)
            videos = np.random.default_rng(seed).permutation(np.unique(numbers[there]))
            pools[key] = (loaded, numbers, videos)
        loaded, numbers, pool = pools[key]
        size = size or len(pool)
        if not 0 < size <= len(pool):
            raise ValueError(
                f"{name} wants {size} clips and {len(pool)} of {root} are left (of "
                f"{len(loaded.clips)} annotated, {len(loaded.missing)} have no video); ask for "
                "fewer, or add videos"
            )
        found[name] = _taken(loaded, name, numbers, pool[:size])
        pools[key] = (loaded, numbers, pool[size:])
    return found


def _taken(loaded: DataSet, name: str, numbers: np.ndarray, videos: np.ndarray) -> DataSet:
    """A data set of some videos under another name; its protocol says how many were there.

    numbers: each row's video. videos: those taken.
    """
    clips = loaded.clips[np.isin(numbers, videos)].reset_index(drop=True)
    missing = loaded.missing[loaded.missing["clip_id"].isin(clips["clip_id"])]
    protocol = dict(loaded.protocol)
    if len(clips) < len(loaded.clips):
        protocol["drawn"] = f"{len(videos)} of {len(np.unique(numbers))} clips"
    return replace(
        loaded,
        name=name,
        clips=clips,
        missing=missing.reset_index(drop=True),
        protocol=protocol,
    )


def _write(folder: Path, data_set: DataSet) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "clips.csv").is_file() or data_set.root != folder:
        write_clips(folder / "clips.csv", data_set.clips)
    for name, table in (("missing", data_set.missing), ("dropped", data_set.dropped)):
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    content = {
        "name": data_set.name,
        "annotated": data_set.annotated,
        "clips": len(data_set.clips),
        "missing": len(data_set.missing),
        "dropped": len(data_set.dropped),
        "templates": list(data_set.templates),
        "classes": list(data_set.classes),
        "protocol": dict(data_set.protocol),
        "notes": list(data_set.notes),
    }
    write_json(folder / "data_set.json", content)


def _data_set_entry(file: Path, name: str, entry: Any) -> dict[str, Any]:
    entry = _mapping(entry, file, name)
    for needed in ("loader", "root"):
        if not isinstance(entry.get(needed), str):
            raise ValueError(f"{file}: data set {name} has no text `{needed}`")
    options = {key: value for key, value in entry.items() if key not in ("loader", "root")}
    try:
        known = datasets.options_of(entry["loader"])
        if "prompt" in options:
            check_templates([options["prompt"]])
    except ValueError as error:
        raise ValueError(f"{file}: data set {name}: {error}") from error
    _keys(options, set(known), file, name)
    return {"loader": entry["loader"], "root": _path(file, name, entry["root"]), **options}


def _model_entry(file: Path, name: str, entry: Any, allowed: set[str]) -> dict[str, str]:
    entry = _mapping(entry, file, name, allowed)
    needed = allowed - _PLAIN_KEYS
    if absent := sorted(key for key in needed if not isinstance(entry.get(key), str)):
        raise ValueError(f"{file}: model {name} has no text `{', '.join(absent)}`")
    return {
        key: str(value)
        if key in _PLAIN_KEYS or str(value).startswith(OPEN_CLIP_PREFIX)
        else _path(file, name, str(value))
        for key, value in entry.items()
    }


def _mapping(content: Any, file: Path, what: str, allowed: set[str] | None = None) -> dict:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{file}: {what} must hold `name: value` lines, found {content!r:.80}")
    if allowed is not None:
        _keys(content, allowed, file, what)
    return dict(content)


def _keys(content: Mapping[str, Any], allowed: set[str], file: Path, what: str) -> None:
    if unknown := sorted(set(content) - allowed):
        raise ValueError(
            f"{file}: {what} has unknown keys {', '.join(unknown)}; known: "
            f"{', '.join(sorted(allowed)) or 'none'}"
        )


def _path(file: Path, name: str, text: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(text))
    if "$" in expanded:
        raise ValueError(
            f"{file}: {name} has the path {text}, which holds a variable that is not set; set it, "
            "or write the path"
        )
    return str(file.parent / expanded)
