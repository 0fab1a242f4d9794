"""Where a run keeps its things, and how notebooks read them back.

A run folder holds

    runs/<profile>/01_data_prep/data/<data set>/       clips.csv, what is known of it, videos
                   01_data_prep/frames/<data set>/     the frame store
                   03_student_distillation/draw_<k>/   weights and history of a student
                   <05 and 06>/students/<student>/     the same, of the studies' students
                   results/                            outcomes, a small file a cell
                   <notebook>/manifest.json            written last: its outputs are whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep import frame_store
from data_prep.clips import read_clips
from fitclip_core.clips import TrainingClips, video_numbers
from fitclip_kit.engine.measure import EvaluationSet
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import MANIFEST_NAME, file_sha256, remove_abandoned, write_manifest
from fitclip_kit.store.results import ResultsStore

CODE = ("fitclip_core", "data_prep", "figures")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, `runs/<profile>`; it need not exist yet. Methods that read raise ValueError
    when notebook 01 has not made what they read."""

    path: Path

    @property
    def data(self) -> Path:
        """The data sets' videos and clips tables, a folder each."""
        return self.path / "01_data_prep" / "data"

    @property
    def frames(self) -> Path:
        """The frame stores, a folder a data set."""
        return self.path / "01_data_prep" / "frames"

    @property
    def results(self) -> ResultsStore:
        """The outcomes of every evaluated cell."""
        return ResultsStore(self.path / "results")

    def student(self, draw: int) -> Path:
        """The folder of one draw's student."""
        return self.path / "03_student_distillation" / f"draw_{draw}"

    def clips(self, data_set: str) -> pd.DataFrame:
        """The clips table of a data set."""
        return read_clips(self._made(data_set, "clips.csv"))

    def store(self, data_set: str) -> frame_store.FrameStore:
        """The frame store of a data set."""
        return frame_store.open_store(self.frames / data_set)

    def evaluation_set(self, data_set: str) -> EvaluationSet:
        """A data set as the zero-shot evaluation takes it, with the protocol that describes it."""
        store, described = self.store(data_set), self.described(data_set)
        clips = self.clips(data_set)
        videos = int(video_numbers(clips).max()) + 1
        protocol = {
            **described["protocol"],
            "annotated": described["annotated"],
            "clips_table": file_sha256(self._made(data_set, "clips.csv")),
            "frame_store": store.digest,
            "frame_rule": asdict(store.rule),
            "failures": len(store.failures),
            **({"videos": videos, "texts": len(clips)} if videos < len(clips) else {}),
        }
        prompts = {name: tuple(described[name]) for name in ("templates", "classes")}
        return EvaluationSet(data_set, clips, store, **prompts, protocol=protocol)

    def described(self, data_set: str) -> dict[str, Any]:
        """What `sources.prepare` wrote of a data set beside its clips table: counts, prompts,
        classes, protocol and notes."""
        file = self._made(data_set, "data_set.json")
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return described

    def training_clips(
        self, data_set: str, n: int | None = None, draw: int = 0
    ) -> tuple[TrainingClips, dict[str, str]]:
        """n clips to train or validate on, with all their captions, and digests of what they are
        made from. n: taken at random, with `draw` as seed; None: all.

        Raises: ValueError too if n is below one or the data set has fewer than n clips.
        """
        clips, store = self.clips(data_set), self.store(data_set)
        if n is not None:
            videos = pd.Series(video_numbers(clips))
            distinct = videos.drop_duplicates()
            if not 1 <= n <= len(distinct):
                raise ValueError(
                    f"{n} clips of {data_set} are wanted and it has {len(distinct)}; ask for 1 to "
                    f"{len(distinct)}, or build more in notebook 01_data_prep"
                )
            clips = clips[videos.isin(distinct.sample(n, random_state=draw))]
        digests = {
            f"{data_set}: clips": file_sha256(self._made(data_set, "clips.csv")),
            f"{data_set}: frames": store.digest,
            f"{data_set}: taken": "all" if n is None else f"{n} of draw {draw}",
        }
        return TrainingClips.from_table(clips, store), digests

    def finish(
        self, notebook: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> dict[str, Any]:
        """Declare a notebook's outputs whole, as its last act: every file in its folder, but for
        what killed processes left half-written, which is removed. inputs: digests of what it read.
        """
        folder = self.path / notebook
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        return write_manifest(
            folder,
            kind=notebook,
            parameters=parameters,
            inputs=inputs,
            code=code_digest(*CODE),
            outputs=[file for file in files if file != folder / MANIFEST_NAME],
        )

    def _made(self, data_set: str, name: str) -> Path:
        file = self.data / data_set / name
        if not file.is_file():
            raise ValueError(f"no {file}; run notebook 01_data_prep first")
        return file
