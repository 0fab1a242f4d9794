"""A sources file, and the data sets that a run prepares from it."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.clips import read_clips
from data_prep.mini_benchmark import TEACHER
from data_prep.mini_benchmark.build import encode
from data_prep.mini_benchmark.data_sets import EVALUATED, TEMPLATES
from fitclip_core.distillation import Recipe
from fitclip_kit.engine.settings import read_notebook
from fitclip_kit.engine.sources import TRAINING_SETS, Sources, prepare, read_sources, student_recipe
from fitclip_kit.store.files import file_sha256

N = 20
MISSING = (3, 11)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of captioned clips, two of which have no file."""
    root = tmp_path_factory.mktemp("mine")
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    encode(root / "one.mp4", frames, crf=30)
    for number in range(N):
        if number not in MISSING:
            (root / f"{number:02d}.mp4").hardlink_to(root / "one.mp4")
    rows = [f"{number:02d}.mp4,caption {number}" for number in range(N)]
    (root / "clips.csv").write_text("\n".join(["path,caption", *rows]) + "\n")
    return root


def write(folder: Path, data_sets: str, models: str = "teacher: {file: teacher.pt}") -> Path:
    file = folder / "data.yaml"
    file.write_text(f"data_sets: {{{data_sets}}}\nmodels: {{{models}}}\n")
    return file


def test_no_file_means_the_embedded_benchmark() -> None:
    sources = read_sources("")
    assert sources == Sources()
    assert sources.evaluated == EVALUATED
    assert sources.digest == "embedded"
    teacher = sources.load_teacher()
    assert teacher.encoder.image_size == 40
    with pytest.raises(ValueError, match="draw 0 stands for a released student"):
        sources.load_student()


NOTEBOOK = Path(__file__).parents[3] / "notebooks" / "03_student_distillation.ipynb"


def test_the_notebook_names_the_values_that_a_0_stands_for() -> None:
    values = read_notebook(NOTEBOOK).defaults
    recipes = [student_recipe(values | {"sources_file": file}) for file in ("", "mine.yaml")]
    pattern = r"(\w+) = 0(?:\.0)?  # .*0: (\S+) embedded, (\S+) with a sources file"
    named = re.findall(pattern, NOTEBOOK.read_text(encoding="utf-8"))
    assert len(named) == 6
    assert recipes[1] == (4500, Recipe(steps=900, validate_every=30, seed=0)), "the paper's"
    for name, *texts in named:
        used = [asdict(recipe) | {"labelled_clips": clips} for clips, recipe in recipes]
        assert [float(text) for text in texts] == [one[name] for one in used], name


def test_what_is_set_holds_for_every_teacher() -> None:
    numbers: dict[str, Any] = {"steps": 7, "validate_every": 2, "learning_rate": 1e-5}
    numbers |= {"labelled_batch": 5, "unlabelled_batch": 6, "temperature": 0.1}
    numbers |= {"teacher_temperature": 0.2, "labelled_share": 0.5}
    for file in ("", "mine.yaml"):
        values = read_notebook(NOTEBOOK).defaults | {"sources_file": file}
        expected = (9, Recipe(seed=0, **numbers))
        assert student_recipe(values | numbers | {"labelled_clips": 9}) == expected
        assert student_recipe(values | {"teacher_temperature": 0.0})[1].teacher_temperature is None
        with pytest.raises(ValueError, match="labelled_batch is -1"):
            student_recipe(values | {"labelled_batch": -1})


def test_a_teacher_is_called_as_the_sources_call_it(tmp_path: Path) -> None:
    names = {"open_clip:a/b": "a/b", "weights/ViT-B-16.pt": "ViT-B-16.pt", "my-clip/": "my-clip"}
    for file, name in names.items():
        sources = read_sources(write(tmp_path, "", f"teacher: {{file: '{file}'}}"))
        assert sources.teacher_name == name
    assert Sources().teacher_name == "mini-clip"
    sweep = read_notebook(NOTEBOOK.with_name("04_alpha_sweep.ipynb"))
    assert sweep.defaults["base_model"] == "", "the card takes this name where none is given"


def test_the_embedded_sets_are_described(tmp_path: Path) -> None:
    found = prepare(Sources(), tmp_path, {"msrvtt": 3, "ucf101": 4}, seed=5)
    assert [len(found[name].clips) for name in ("msrvtt", "ucf101")] == [3, 4]
    assert found["msrvtt"].templates == ()
    assert found["ucf101"].templates == TEMPLATES["ucf101"]
    assert set(found["ucf101"].clips["label"]) == set(found["ucf101"].classes)
    described = json.loads((tmp_path / "ucf101" / "data_set.json").read_text())
    assert described["templates"] == list(TEMPLATES["ucf101"])
    assert described["protocol"]["data_set"] == "embedded: ucf101"
    before = {path: file_sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    prepare(Sources(), tmp_path, {"msrvtt": 3, "ucf101": 4}, seed=5)
    assert {path: file_sha256(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_paths_may_hold_variables_and_start_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_DATA", str(tmp_path / "there"))
    monkeypatch.delenv("NOT_SET", raising=False)
    entry = "a: {loader: folder, root: $MY_DATA/a}, b: {loader: folder, root: b}"
    models = "teacher: {file: 'open_clip:ViT-B-16-quickgelu/openai'}, student: {file: s.pt}"
    sources = read_sources(write(tmp_path, entry, models))
    assert sources.data_sets["a"].root == str(tmp_path / "there" / "a")
    assert sources.data_sets["b"].root == str(tmp_path / "b")
    assert sources.models.teacher.file == "open_clip:ViT-B-16-quickgelu/openai"
    assert sources.models.student and sources.models.student.file == str(tmp_path / "s.pt")
    assert sources.digest == file_sha256(tmp_path / "data.yaml")


def test_the_precision_is_the_users_choice_and_in_the_protocol(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    for precision in ("bfloat16", "float32"):
        file.write_text(f"models: {{teacher: {{file: {TEACHER}, precision: {precision}}}}}")
        teacher = read_sources(file).load_teacher()
        assert teacher.encoder.precision == precision
        said = {} if precision == "float32" else {"precision": precision}
        assert teacher.protocol == Sources().load_teacher().protocol | said


TEACHER_ONLY = "models: {teacher: {file: a}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not readable"),
        ("", "Input should be a valid dictionary"),
        ("data_sets: {", "is not readable YAML"),
        ("models: {}\nmodels: {}", "key 'models' is given twice"),
        ("data: {}", "data: Extra inputs are not permitted"),
        (f"data_sets: []\n{TEACHER_ONLY}", "data_sets: Input should be"),
        (f"data_sets: {{a: {{root: b}}}}\n{TEACHER_ONLY}", "a.loader: Field required"),
        (f"data_sets: {{a: {{loader: folder}}}}\n{TEACHER_ONLY}", "a.root: Field required"),
        ("data_sets: {a: {loader: x, root: b}}", "data_sets.a: there is no loader 'x'; there"),
        ("data_sets: {a: {loader: folder, root: b, splitt: c}}", "a: unknown keys splitt; known: "),
        ("data_sets: {a: {loader: folder, root: $NOT_SET/x}}", "a.root: $NOT_SET/x holds a variab"),
        ("data_sets: {}", "names no `models`"),
        ("models: {teacher: {architecture: a}}", "models.teacher.file: Field required"),
        ("models: {teacher: {file: 5}}", "models.teacher.file: Input should be a valid string"),
        (
            "models: {teacher: {file: a, precision: half}}",
            "precision: Input should be 'float32' or",
        ),
        ("models: {teachers: {file: a}}", "models.teachers: Extra inputs"),
        (
            "models: {teacher: {file: a}, student: {file: a, precision: bfloat16}}",
            "models.student.precision: Extra inputs",
        ),
        (
            "models: {teacher: {file: a}, references: {fit: {file: a}}}",
            "models.references.fit.vocabulary: Field required",
        ),
    ],
)
def test_what_is_wrong_with_a_sources_file_is_said(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "data.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_sources(file)
    assert str(file) in str(error.value)


def test_training_sets_are_cut_without_overlap_from_what_is_there(
    tmp_path: Path, root: Path
) -> None:
    entry = f"{{loader: folder, root: {root}}}"
    names = ", ".join(f"{name}: {entry}" for name in (*TRAINING_SETS, "webvid_val"))
    sources = read_sources(write(tmp_path, names))
    assert sources.evaluated == ("webvid_val",)
    sizes = dict(zip((*TRAINING_SETS, "webvid_val"), (9, 5, 4, 0), strict=True))
    found = prepare(sources, tmp_path / "run", sizes, seed=1)
    taken = [set(found[name].clips["clip_id"]) for name in TRAINING_SETS]
    assert [len(ids) for ids in taken] == [9, 5, 4]
    assert len(set.union(*taken)) == 18
    assert not any(len(found[name].missing) for name in TRAINING_SETS)
    everything, folder = found["webvid_val"], tmp_path / "run" / "webvid_val"
    assert read_clips(folder / "clips.csv").equals(everything.clips)
    assert pd.read_csv(folder / "missing.csv")["path"].tolist() == ["03.mp4", "11.mp4"]
    assert len(pd.read_csv(folder / "dropped.csv")) == 0
    described = json.loads((folder / "data_set.json").read_text())
    assert (described["annotated"], described["clips"], described["missing"]) == (N, N, 2)
    assert not (root / "data_set.json").exists()
    assert len(everything.clips) == N
    assert list(everything.missing["path"]) == ["03.mp4", "11.mp4"]
    assert everything.coverage == pytest.approx(0.9)
    assert found["webvid_train"].protocol["drawn"] == "9 of 20 clips"
    assert "drawn" not in everything.protocol
    again = prepare(sources, tmp_path / "other", sizes, seed=1)
    other = prepare(sources, tmp_path / "third", sizes, seed=2)
    assert again["webvid_train"].clips.equals(found["webvid_train"].clips)
    assert not other["webvid_train"].clips.equals(found["webvid_train"].clips)


def test_an_evaluation_set_can_be_a_sample_of_the_annotation(tmp_path: Path, root: Path) -> None:
    sources = read_sources(write(tmp_path, f"mine: {{loader: folder, root: {root}}}"))
    seen = set()
    for seed in range(12):
        found = prepare(sources, tmp_path / str(seed), {"mine": 6}, seed=seed)["mine"]
        assert len(found.clips) == 6
        assert set(found.missing["clip_id"]) <= set(found.clips["clip_id"])
        assert found.clips["path"].is_monotonic_increasing
        seen |= set(found.missing["path"])
    assert seen == {"03.mp4", "11.mp4"}  # what has no file is drawn like the rest


def test_videos_are_drawn_with_all_their_captions(tmp_path: Path, root: Path) -> None:
    """Three rows of every second video, of which no two sets may have one."""
    rows = [(f"{k:02d}.mp4", f"{k} {j}") for j in range(3) for k in range(N) if k % 2 or not j]
    (root / "several.csv").write_text(
        "path,caption\n" + "".join(f"{path},{text}\n" for path, text in rows)
    )
    entry = f"{{loader: folder, root: {root}, table: several.csv}}"
    names = ", ".join(f"{name}: {entry}" for name in (*TRAINING_SETS, "mine"))
    sizes = dict(zip((*TRAINING_SETS, "mine"), (9, 5, 4, 7), strict=True))
    found = prepare(read_sources(write(tmp_path, names)), tmp_path / "run", sizes, seed=1)
    taken = {name: one.clips["path"].unique() for name, one in found.items()}
    assert {name: len(paths) for name, paths in taken.items()} == sizes
    assert len({path for name in TRAINING_SETS for path in taken[name]}) == 18
    for one in found.values():
        here = set(one.clips["path"])
        assert one.clips["text"].tolist() == [text for path, text in rows if path in here]
    assert found["mine"].protocol["drawn"] == "7 of 20 clips"


def test_sizes_that_cannot_be_had_are_refused(tmp_path: Path, root: Path) -> None:
    entry = f"{{loader: folder, root: {root}}}"
    sources = read_sources(write(tmp_path, f"webvid_train: {entry}, mine: {entry}"))
    for sizes, message in (
        ({"webvid_train": 19, "mine": 0}, r"webvid_train wants 19 clips and 18 of .* are left"),
        ({"webvid_train": 2}, "mine included"),
        ({"webvid_train": -1, "mine": 0}, "give a number from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(sources, tmp_path / "run", sizes, seed=0)
