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

Further keys of a data set are its loader's options. A teacher may have an `architecture`, such as
ViT-B-16-quickgelu, and `precision: bfloat16`, which does not touch training. Paths may start with
`~` or hold `$VARIABLES`; relative ones start at the file's folder. The training sets are drawn from
rows whose video is there, without overlap where they read the same annotation.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

import numpy as np
import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from data_prep import datasets
from data_prep.check import check, report
from data_prep.clips import write_clips
from data_prep.datasets.base import DataSet, data_set
from data_prep.mini_benchmark import TEACHER, build
from data_prep.mini_benchmark.data_sets import EVALUATED, TEMPLATES
from fitclip_core.clips import video_numbers
from fitclip_core.distillation import Recipe
from fitclip_core.encoders import Precision, check_templates
from fitclip_kit.engine.settings import read_yaml
from fitclip_kit.store.files import atomic_path, file_sha256, json_digest, write_json
from fitclip_kit.weights.foreign_checkpoints import Checkpoint, read_checkpoint
from fitclip_kit.weights.models import OPEN_CLIP_PREFIX, LoadedModel, load_clip, load_frozen_in_time

# What notebook 01 is told the number of a data set's clips by; of all others `evaluation_clips`,
# for these are to measure on. The last of the four is of the student's own domain.
CLIPS_BY: Final = MappingProxyType(
    {
        "webvid_train": "labelled_clips",
        "webvid_unlabelled": "unlabelled_clips",
        "webvid_selection": "selection_clips",
        "webvid_val": "evaluation_clips",
    }
)
POOL, UNLABELLED, SELECTION, IN_DOMAIN = CLIPS_BY
TRAINING_SETS: Final = (POOL, UNLABELLED, SELECTION)
TRAINED_ON: Final = (POOL, UNLABELLED)
# What a 0 in notebook 03 stands for: what was tuned for the embedded teacher on development seeds,
# and with a sources file the paper's, since what suits a small model may ruin a large one. The
# paper's code trains until it is stopped: its number of steps is ours.
_RECIPES: Final = MappingProxyType(
    {
        "labelled_clips": (150, 4500),
        "steps": (60, 900),
        "validate_every": (10, 30),
        "learning_rate": (6e-4, 3e-6),
        "labelled_batch": (32, 64),
        "unlabelled_batch": (16, 64),
    }
)


def _path(text: str, info: ValidationInfo) -> str:
    if info.context is None or text.startswith(OPEN_CLIP_PREFIX):
        return text
    expanded = os.path.expanduser(os.path.expandvars(text))
    if "$" in expanded:
        raise ValueError(f"{text} holds a variable that is not set; set it, or write the path")
    return str(info.context / expanded)


_Path = Annotated[str, AfterValidator(_path)]


class _Strict(BaseModel):
    """Unknown keys and changed types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _DataSet(_Strict):
    model_config = ConfigDict(extra="allow")
    loader: str
    root: _Path

    @model_validator(mode="after")
    def _options_are_the_loaders(self) -> Self:
        known = datasets.options_of(self.loader)
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(f"unknown keys {', '.join(unknown)}; known: {', '.join(known)}")
        if "prompt" in self.options:
            check_templates([self.options["prompt"]])
        return self

    @property
    def options(self) -> dict[str, Any]:
        return self.model_extra or {}

    @property
    def digest(self) -> str:
        return json_digest(self.model_dump())


class _Weights(_Strict):
    file: _Path
    architecture: str | None = None


class _Teacher(_Weights):
    precision: Precision = "float32"


class _Reference(_Strict):
    file: _Path
    vocabulary: _Path


class _Models(_Strict):
    teacher: _Teacher
    student: _Weights | None = None
    references: dict[str, _Reference] | None = None


class Sources(_Strict):
    """The data sets and models of one run; without a `file` the embedded benchmark's."""

    file: Path | None = None
    data_sets: dict[str, _DataSet] = {}
    models: _Models = _Models(teacher=_Teacher(file=str(TEACHER)))

    @property
    def references(self) -> Mapping[str, _Reference]:
        """Other models to measure, Frozen in Time checkpoints, by name."""
        return self.models.references or {}

    @property
    def names(self) -> tuple[str, ...]:
        """All data sets."""
        return tuple(self.data_sets) if self.file else (*TRAINING_SETS, *EVALUATED)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The data sets to measure on: all but the three training sets."""
        return tuple(name for name in self.names if name not in TRAINING_SETS)

    @property
    def teacher_name(self) -> str:
        """What to call the teacher: open_clip's name and tag, or the name of its file or folder."""
        file = self.models.teacher.file
        if self.file is None:
            return "mini-clip"
        tag = file.removeprefix(OPEN_CLIP_PREFIX)
        return Path(file).name if tag == file else tag

    @property
    def digest(self) -> str:
        """Stands for the sources file as a notebook's input."""
        return "embedded" if self.file is None else file_sha256(self.file)

    def sizes(self, values: Mapping[str, Any]) -> dict[str, int]:
        """Clips of each data set by notebook 01's parameters; 0 is all of it."""
        return {name: values[CLIPS_BY.get(name, CLIPS_BY[IN_DOMAIN])] for name in self.names}

    def load_teacher(self, device: str = "cpu") -> LoadedModel:
        """The teacher, newly read; ValueError when its file is missing or does not fit."""
        teacher = self.models.teacher
        return load_clip(teacher.file, teacher.architecture, device, teacher.precision)

    def load_student(self) -> Checkpoint:
        """The released student's weights; ValueError when there is none, or it does not fit."""
        if self.models.student is None:
            raise ValueError(
                "draw 0 stands for a released student, and the sources name none; add "
                "`student: {file: ...}` under `models`, or take draws from 1 on"
            )
        return read_checkpoint(Path(self.models.student.file))

    def load_reference(self, name: str, n_frames: int = 4, device: str = "cpu") -> LoadedModel:
        """A reference model; ValueError when its file is missing or does not fit."""
        model = self.references[name]
        return load_frozen_in_time(Path(model.file), Path(model.vocabulary), n_frames, device)


def read_sources(file: str | Path) -> Sources:
    """Read a sources file; an empty name means the embedded benchmark. Nothing it names is opened.

    Raises: ValueError for a file that is missing or not of that shape.
    """
    if not str(file):
        return Sources()
    path = Path(file).expanduser().resolve()
    try:
        sources = Sources.model_validate(read_yaml(path), context=path.parent)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        said = "\n".join(f"{path}: {line}".replace("Value error, ", "") for line in lines)
        raise ValueError(said) from error
    if "models" not in sources.model_fields_set:
        raise ValueError(f"{path} names no `models`; give at least the teacher's file")
    return sources.model_copy(update={"file": path})


def size_study_set(there: Collection[str]) -> str:
    """Where notebook 05 measures: the student's own domain, or else the next of the paper's sets;
    ValueError where none is there."""
    if own := next((name for name in EVALUATED if name in there), None):
        return own
    raise ValueError(
        f"of the data sets {', '.join(there) or '(none)'} none is one of the paper's, "
        f"{', '.join(EVALUATED)}"
    )


def share_study_sets(evaluated: Sequence[str]) -> list[str]:
    """Where notebook 06 measures: on what is not of the student's own domain, or else on that."""
    return [name for name in evaluated if name != IN_DOMAIN] or list(evaluated)


def student_recipe(values: Mapping[str, Any]) -> tuple[int, Recipe]:
    """The labelled clips of a draw and the recipe of notebook 03's students, its seed still 0.

    values: the notebook's parameters; 0 stands for a value of `_RECIPES`, a `teacher_temperature`
    of 0 for the teacher's own logit_scale. Raises ValueError for a value out of range.
    """
    which = bool(values["sources_file"])
    chosen: dict[str, Any] = {name: values[name] or two[which] for name, two in _RECIPES.items()}
    clips = chosen.pop("labelled_clips")
    chosen |= {name: values[name] for name in ("temperature", "labelled_share")}
    return clips, Recipe(
        **chosen, seed=0, teacher_temperature=values["teacher_temperature"] or None
    )


def check_sources(sources: Sources, max_missing: float) -> str:
    """What `fitclip check-data` says of each of the user's data sets; of embedded ones, nothing.

    max_missing: the largest share of a set's clips without a file to accept, in [0, 1].

    Raises: ValueError for a broken annotation.
    """
    entries = {entry.digest: entry for entry in sources.data_sets.values()}
    said = []
    for digest, entry in entries.items():
        names = [name for name, one in sources.data_sets.items() if one.digest == digest]
        found = check(entry.loader, entry.root, entry.options, max_missing=max_missing)
        said.append(f"{', '.join(names)}: {report(found)}")
    return "\n\n".join(said)


def prepare(
    sources: Sources, folder: Path, sizes: Mapping[str, int], seed: int
) -> dict[str, DataSet]:
    """Build or find every data set of the sources; nothing is decoded.

    Args:
        folder: each data set gets a folder in it: `clips.csv`, `data_set.json`, and the lists
            `missing.csv` and `dropped.csv` (embedded: its videos too).
        sizes: name -> videos, with all their captions; 0 takes all (the user's copies only). Of a
            user's evaluation set they are drawn from the annotation, present or not.
        seed: of the embedded clips, and of what is drawn from larger annotations.

    Raises: ValueError for a data set that the sources lack, a wrong size, or broken files.
    """
    if sources.file is None:
        tables = build.build(folder, sizes, seed)
        found = {name: _embedded(name, folder / name, table) for name, table in tables.items()}
    else:
        found = _users(sources, sizes, seed)
    for name, one in found.items():
        _write(folder / name, one)
    return found


def _embedded(name: str, root: Path, table: pd.DataFrame) -> DataSet:
    templates = TEMPLATES.get(name, ())
    return data_set(
        name,
        root,
        table,
        annotated=len(table),
        found=[True] * len(table),
        templates=templates,
        classes=sorted(table["label"].unique()) if "label" in table else (),
        protocol={
            "data_set": f"embedded: {name}",
            "split": "drawn for this run",
            "captions": "one caption a clip" if "text" in table else "none",
            "prompts": f"{len(templates)} templates" if templates else "none",
            "annotations": {},
        },
    )


def _users(sources: Sources, sizes: Mapping[str, int], seed: int) -> dict[str, DataSet]:
    unasked = sorted(set(sources.data_sets) - set(sizes))
    if unasked or any(size < 0 for size in sizes.values()):
        raise ValueError(
            f"sizes are {dict(sizes)}; give a number from 0 for each data set of the sources"
            + (f", {', '.join(unasked)} included" if unasked else "")
        )
    found: dict[str, DataSet] = {}
    read: dict[str, DataSet] = {}  # by the entry's digest, as the next
    left: dict[str, np.ndarray] = {}  # videos that no training set has yet
    for name in (name for name in sizes if name in sources.data_sets):
        entry, size, trained = sources.data_sets[name], sizes[name], name in TRAINING_SETS
        key = entry.digest
        if key not in read:
            read[key] = datasets.load(entry.loader, entry.root, **entry.options)
        loaded = read[key]
        clips, missing = loaded.clips, loaded.missing
        videos = video_numbers(clips)
        usable = ~clips["clip_id"].isin(missing["clip_id"]).to_numpy() if trained else slice(None)
        pool = np.random.default_rng(seed).permutation(np.unique(videos[usable]))
        pool = left.get(key, pool) if trained else pool
        size = size or len(pool)
        if trained and not 0 < size <= len(pool):
            raise ValueError(
                f"{name} wants {size} clips and {len(pool)} of {entry.root} are left (of "
                f"{len(clips)} annotated, {len(missing)} have no video); ask for fewer, or add "
                "videos"
            )
        if trained:
            left[key] = pool[size:]
        taken = clips[np.isin(videos, pool[:size])].reset_index(drop=True)
        drawn = {"drawn": f"{len(pool[:size])} of {len(np.unique(videos))} clips"}
        found[name] = replace(
            loaded,
            name=name,
            clips=taken,
            missing=missing[missing["clip_id"].isin(taken["clip_id"])].reset_index(drop=True),
            protocol={**loaded.protocol, **(drawn if len(taken) < len(clips) else {})},
        )
    return found


def _write(folder: Path, found: DataSet) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "clips.csv").is_file() or found.root != folder:
        write_clips(folder / "clips.csv", found.clips)
    for name, table in (("missing", found.missing), ("dropped", found.dropped)):
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    content = {name: getattr(found, name) for name in ("name", "annotated")}
    content |= {name: len(getattr(found, name)) for name in ("clips", "missing", "dropped")}
    content |= {name: list(getattr(found, name)) for name in ("templates", "classes", "notes")}
    write_json(folder / "data_set.json", content | {"protocol": dict(found.protocol)})
