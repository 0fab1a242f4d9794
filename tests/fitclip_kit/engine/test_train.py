"""Students that two processes train together are those that notebook 03 would train."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fitclip_kit.engine import run as runner
from fitclip_kit.engine import students
from fitclip_kit.engine.cluster import fan_out_steps
from fitclip_kit.engine.run import locked, make_plan
from fitclip_kit.engine.settings import ClusterSettings
from fitclip_kit.engine.work import STUDENTS, Run, steps
from fitclip_kit.store.files import read_manifest
from tests.small_project import ROOT, fitclip

RATE, STEPS = 6e-4, 2
PROFILE: dict[str, dict[str, Any]] = {
    "common": {"draws": [1, 2]},
    "01_data_prep": {
        **{"evaluation_clips": 8, "labelled_clips": 8, "unlabelled_clips": 4},
        **{"selection_clips": 5, "n_frames": 2, "training_draws": 2},
    },
    # Neither batch, nor the 5 clips to select on, are divisible by two.
    STUDENTS: {
        **{"labelled_clips": 7, "steps": STEPS, "validate_every": 1, "learning_rate": RATE},
        **{"labelled_batch": 5, "unlabelled_batch": 3},
    },
}


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real notebooks, with a profile that is quick to train."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "requirements.lock", checkout)
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    folder = Path(shutil.copytree(ROOT / "notebooks", checkout / "notebooks", ignore=ignored))
    (folder / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    return folder


def run_of(notebooks: Path, runs_dir: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "NOTEBOOKS", notebooks)
        plan = make_plan("tiny", runs_dir)
    return Run(plan.run_dir.resolve(), plan.working_dir.resolve(), plan.parameters)


@pytest.fixture(scope="module")
def decoded(notebooks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder's parent, where notebook 01 is done."""
    runs_dir = tmp_path_factory.mktemp("decoded")
    frames = steps(run_of(notebooks, runs_dir), ["frames"])
    list(fan_out_steps(frames, ClusterSettings(), runs_dir / "tiny" / "fan_out"))
    return runs_dir


def train(notebooks: Path, runs_dir: Path, profile: str = "tiny") -> int:
    """The command without torchrun."""
    return fitclip(notebooks, "train", "--profile", profile, "--runs-dir", str(runs_dir))


def torchrun(notebooks: Path, runs_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ROOT / "tests" / "train_in_ranks.py"
    return subprocess.run(
        [*command, str(script), str(notebooks), str(runs_dir), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(
    notebooks: Path, decoded: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Run]:
    """Two run folders with students: "together" by two processes, "alone" by one."""
    found = {}
    for name in ("together", "alone"):
        runs_dir = Path(shutil.copytree(decoded, tmp_path_factory.mktemp(name) / "runs"))
        if name == "alone":
            assert train(notebooks, runs_dir) == 0
        else:
            done = torchrun(notebooks, runs_dir)
            assert done.returncode == 0, done.stderr[-3000:]
            assert done.stdout.splitlines() == [
                f"student of draw {draw}: done by 2 process(es)" for draw in (1, 2)
            ]
        found[name] = run_of(notebooks, runs_dir)
    return found


@pytest.mark.parametrize("draw", [1, 2])
def test_two_processes_train_the_student_of_one(runs: Mapping[str, Run], draw: int) -> None:
    folders = {name: run.folder.student(draw) for name, run in runs.items()}
    manifests = {name: read_manifest(folder) for name, folder in folders.items()}
    together, alone = (manifests[name] for name in ("together", "alone"))
    for key in ("kind", "parameters", "inputs", "code"):
        assert together[key] == alone[key]
    assert (together["details"].pop("processes"), alone["details"].pop("processes")) == (2, 1)
    assert together["details"] == alone["details"]

    ours, theirs = (students.load(folders[name], draw) for name in ("together", "alone"))
    pd.testing.assert_frame_equal(ours.history, theirs.history, rtol=1e-4)
    # Sums in another order. Where a gradient is 0 but for rounding (the biases of the attention's
    # keys) Adam makes steps of the learning rate of it, in whichever direction.
    apart = [
        (ours.student.state[name].double() - weight.double()).abs()
        for name, weight in theirs.student.state.items()
        if weight.is_floating_point()
    ]
    assert max(float(one.max()) for one in apart) <= 2.1 * RATE * STEPS
    assert sum(float(one.sum()) for one in apart) / sum(one.numel() for one in apart) < RATE / 100


@pytest.mark.slow
def test_a_lost_process_ends_all_and_leaves_no_student(
    notebooks: Path, decoded: Path, tmp_path: Path
) -> None:
    runs_dir = Path(shutil.copytree(decoded, tmp_path / "runs"))
    done = torchrun(notebooks, runs_dir, "lost")
    assert done.returncode == 1
    assert "rank 1: The run stopped: the frames are gone" in done.stderr
    assert [path for path in (runs_dir / "tiny" / STUDENTS).rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_what_is_missing_is_said_once(notebooks: Path, tmp_path: Path) -> None:
    done = torchrun(notebooks, tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert len(said) == 1, done.stderr[-3000:]
    assert said[0].startswith("rank 0: fitclip train: no ")
    assert "run notebook 01_data_prep first" in said[0]


def test_what_the_command_says_without_torchrun(
    runs: Mapping[str, Run], notebooks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(notebooks, runs["together"].path.parent) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert train(notebooks, tmp_path, "unknown") == 2
    assert "no profile 'unknown'" in capsys.readouterr().err
    assert train(notebooks, tmp_path) == 2
    assert "run notebook 01_data_prep first" in capsys.readouterr().err
    with locked(tmp_path / "tiny"):
        assert train(notebooks, tmp_path) == 1
    assert "Another run" in capsys.readouterr().err
