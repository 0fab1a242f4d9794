"""The `paper` profile's notebooks on a tiny tree of real clips in the official layouts, with random
ViT-B/16 weights in every checkpoint format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import open_clip
import pytest
import torch
import yaml

from data_prep.mini_benchmark.data_sets import EVALUATED
from figures.paper import layout, paper_table
from figures.paper_tables import beside_paper
from fitclip_kit.engine.settings import read_profile
from fitclip_kit.store.files import manifest_problems
from fitclip_kit.store.results import ResultsStore
from fitclip_kit.weights import checkpoints
from fitclip_kit.weights.frozen_in_time import FrozenInTime
from fitclip_kit.weights.models import load_clip
from tests import foreign_formats
from tests.paper_tree import ITEMS, UCF_CLASSES, UCF_CLIPS, build_tree
from tests.small_project import ROOT, fitclip

pytestmark = pytest.mark.slow

# Those that read the user's data and weights in ways of their own; the studies read what they left.
STEMS = ("01_data_prep", "02_teacher_zero_shot", "03_student_distillation", "04_alpha_sweep")
FIT = "frozen_in_time_webvid"
ARCHITECTURE = "ViT-B-16-quickgelu"
# What makes the run small; everything else is as in profiles/paper.yaml.
SMALL: dict[str, dict[str, Any]] = yaml.safe_load("""
common: {draws: [0, 1], device: cpu}
01_data_prep: {labelled_clips: 6, unlabelled_clips: 4, selection_clips: 4, n_frames: 2,
               training_draws: 1, max_missing: 0.25}
03_student_distillation: {labelled_clips: 4, steps: 1, validate_every: 1, labelled_batch: 4,
                          unlabelled_batch: 4}
04_alpha_sweep: {alphas: [0.0, 0.4, 1.0]}
""")
State = dict[str, torch.Tensor]


def random_clip(seed: int) -> State:
    """Weights that half precision, in which OpenAI stores most of its own, holds exactly."""
    torch.manual_seed(seed)
    state = open_clip.create_model(ARCHITECTURE, pretrained_text=False).state_dict()
    return {name: value.half().float() for name, value in state.items()}


def vocabulary() -> list[str]:
    """As many words as DistilBERT's, with its special tokens in their places."""
    words = [f"word{number}" for number in range(30_522)]
    words[0] = "[PAD]"
    words[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words[1000:1026] = [chr(ord("a") + letter) for letter in range(26)]
    words[1100:1126] = [f"##{chr(ord('a') + letter)}" for letter in range(26)]
    return words


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, realdata: Path) -> Iterator[Path]:
    """A copy of the notebooks with a small variant of the paper profile, its data and weights."""
    project = tmp_path_factory.mktemp("project")
    data = project / "data"
    build_tree(realdata, data)
    weights = data / "checkpoints"
    weights.mkdir()
    foreign_formats.write_openai_torchscript(weights / "ViT-B-16.pt", random_clip(0))
    foreign_formats.write_fitclip_student(weights / "student.pt", random_clip(1), with_nan=True)
    torch.manual_seed(2)
    foreign_formats.write_frozen_in_time(weights / "fit.pth.tar", FrozenInTime().state_dict())
    (weights / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")

    shutil.copytree(ROOT / "notebooks", project / "notebooks")
    shutil.copy(ROOT / "requirements.lock", project)
    sections = read_profile(ROOT / "notebooks" / "profiles" / "paper.yaml")
    for name, section in SMALL.items():
        sections.setdefault(name, {}).update(section)
    (project / "notebooks" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(sections))
    sources = yaml.safe_load((ROOT / "notebooks" / "paper_data.yaml").read_text())
    folder = "$FITCLIP_DATA/checkpoints"
    sources["models"]["student"] = {"file": f"{folder}/student.pt"}
    fit = {"file": f"{folder}/fit.pth.tar", "vocabulary": f"{folder}/vocab.txt"}
    sources["models"]["references"] = {FIT: fit}
    (project / "notebooks" / "paper_data.yaml").write_text(yaml.safe_dump(sources))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITCLIP_DATA", str(data))
        yield project
    shutil.rmtree(data / "checkpoints")  # files of 600 MB


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    options = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
    options += [f"--only={stem}" for stem in STEMS]
    assert fitclip(project / "notebooks", "run", *options) == 0
    return project / "runs" / "tiny"


def printed(run: Path, stem: str) -> str:
    notebook = nbformat.read(run / "notebooks" / f"{stem}.ipynb", as_version=4)
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    shown = [one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in outputs]
    return "\n".join(shown)


def test_what_is_missing_or_unreadable_is_counted(run: Path) -> None:
    for stem in STEMS:
        assert manifest_problems(run / stem, kind=stem) == []
    described = {
        name: json.loads((run / "01_data_prep" / "data" / name / "data_set.json").read_text())
        for name in EVALUATED
    }
    clips = dict.fromkeys(EVALUATED, ITEMS) | {"ucf101": UCF_CLIPS}
    assert {name: one["clips"] for name, one in described.items()} == clips
    assert {name for name, one in described.items() if one["missing"]} == {"msrvtt"}
    assert len(described["ucf101"]["templates"]) == 48
    assert len(described["ucf101"]["classes"]) == UCF_CLASSES
    assert described["mit"]["templates"] == ["{}"]
    counts = ResultsStore(run / "results").metrics().groupby("data_set")[["n", "clips"]].first()
    lost = dict.fromkeys(EVALUATED, 0) | {"msrvtt": 1, "mit": 1}
    assert dict(counts["clips"] - counts["n"]) == lost
    assert "no such file" in printed(run, "01_data_prep")
    for stem in ("02_teacher_zero_shot", "04_alpha_sweep"):
        assert f"msrvtt: {ITEMS - 1} of {ITEMS} clips" in printed(run, stem)


def test_every_number_says_that_the_annotations_are_cut_down(run: Path) -> None:
    store = ResultsStore(run / "results")
    keys = store.cells()
    for key in keys:
        said = store.record(key)["protocol"]["annotation_size"]
        assert "; officially there are " in said, key
    for stem in ("01_data_prep", "02_teacher_zero_shot", "04_alpha_sweep"):
        for name in EVALUATED:
            assert f"{name}: the annotation has " in printed(run, stem), (stem, name)
    assert {(key.model, key.alpha, key.draw) for key in keys} == {
        ("teacher", 0.0, None),
        (FIT, 0.0, None),
        *(
            (model, alpha, one)
            for model, alpha in (("fused", 0.4), ("student", 1.0))
            for one in (0, 1)
        ),
    }
    assert len(keys) == len(EVALUATED) * 6


def test_results_land_in_the_papers_tables(run: Path) -> None:
    beside = beside_paper(ResultsStore(run / "results"))
    for name in ("2a", "2b", "3a", "3b", "3c", "4a", "4b", "5a", "5b", "5c", "6"):
        table, printed_table = layout(beside, name, "value"), paper_table(name)
        assert table.index.equals(printed_table.index), name
        assert table.columns.equals(printed_table.columns), name
        there = table.notna().all(axis=1)
        if name[0] in "23":
            assert there[there].index.tolist() == ["Frozen in Time WebVid"], name
        elif name == "6":
            assert there[~there].index.tolist() == ["WiSE-FT"]
        else:
            assert there.loc[["Teacher (CLIP)", "Student", "FitCLIP", "Delta"]].all(), name


def test_the_fused_model_is_exported_with_its_card(run: Path) -> None:
    folder = run / "04_alpha_sweep" / "fused"
    card = (folder / "README.md").read_text()
    assert "\nbase_model: ViT-B-16.pt\n" in card, "the teacher that was loaded"
    assert "# ViT\\-B\\-16.pt, fused" in card or "# ViT-B-16.pt, fused" in card
    assert '"released": "fitclip_student"' in card and "labelled_clips" not in card
    exported, plain = (
        checkpoints.load(folder / "open_clip_model.safetensors"),
        load_clip(folder / "openai_style.pt", ARCHITECTURE).encoder.state(),
    )
    assert exported.keys() == plain.keys()
    assert len(exported) == 302
    teacher, student = random_clip(0), random_clip(1)
    for name, value in exported.items():
        assert torch.equal(value, plain[name]), name
        ends = teacher[name], teacher[name] if name == "logit_scale" else student[name]
        torch.testing.assert_close(value, 0.6 * ends[0] + 0.4 * ends[1])
