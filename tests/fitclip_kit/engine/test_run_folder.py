"""A run's folder, with small real videos in it."""

import json
from pathlib import Path

import pandas as pd
import pytest

from data_prep import frame_store
from data_prep.clips import write_clips
from data_prep.frame_store import FrameRule
from fitclip_core.clips import TrainingClips
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.store.files import file_sha256, manifest_problems, write_json
from tests.faults.work import make_videos

N = 9
LABELS = ["surfing", "rowing", "biking"] * 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with one retrieval and one action set; one video of the former is broken."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "mini")
    videos = run.data / "msrvtt" / "videos"
    videos.mkdir(parents=True)
    clips, _ = make_videos(videos, N)
    (videos / "4.mp4").write_bytes(b"no video")
    clips["path"] = "videos/" + clips["path"]
    texts = clips.pop("text").str.replace("clip", "text ")
    write_clips(run.data / "msrvtt" / "clips.csv", clips.assign(text=texts))
    write_clips(run.data / "ucf101" / "clips.csv", clips.assign(label=LABELS))
    describe(run, "msrvtt", protocol={"captions": "one a clip"})
    describe(run, "ucf101", templates=["{}", "a {}."], classes=[*sorted(set(LABELS)), "diving"])
    for name in ("msrvtt", "ucf101"):
        build(clips, run, run.frames / name)
    return run


def build(clips: pd.DataFrame, videos: RunFolder, folder: Path) -> None:
    rule = FrameRule(n_frames=2, size=8)
    frame_store.build(clips, videos.data / "msrvtt", folder, rule, workers=1, progress=False)


def describe(run: RunFolder, name: str, **said: object) -> None:
    nothing: dict[str, object] = {"templates": [], "classes": [], "protocol": {}}
    write_json(run.data / name / "data_set.json", {"annotated": N + 2, **nothing, **said})


def ids(clips: TrainingClips) -> list[str]:
    return [clips.frames.clip_ids[index] for index in clips.indices.tolist()]


def test_all_clips_of_a_set_train(run: RunFolder) -> None:
    clips, digests = run.training_clips("msrvtt")
    assert ids(clips) == [f"clip{number}" for number in range(N) if number != 4]
    assert clips.texts == [f"text {number}" for number in range(N) if number != 4]
    assert clips.missing == ["clip4"]
    assert digests == {
        "msrvtt: clips": file_sha256(run.data / "msrvtt" / "clips.csv"),
        "msrvtt: frames": run.store("msrvtt").digest,
        "msrvtt: taken": "all",
    }


def test_samples_repeat_for_a_draw_and_differ_between_draws(run: RunFolder) -> None:
    samples, digests = set(), set()
    for draw in range(12):
        clips, made_from = run.training_clips("msrvtt", 4, draw)
        again, same = run.training_clips("msrvtt", 4, draw)
        assert (ids(clips), made_from) == (ids(again), same)
        assert ids(clips) == sorted(ids(clips))
        assert clips.texts == [f"text {clip_id[4:]}" for clip_id in ids(clips)]
        samples.add(frozenset(ids(clips) + clips.missing))
        digests.add(json.dumps(made_from))
    assert {len(sample) for sample in samples} == {4} and len(samples) > 8
    assert frozenset().union(*samples) == {f"clip{number}" for number in range(N)}
    assert len(digests) == 12
    assert len(run.training_clips("msrvtt", N, 1)[0]) == N - 1


def test_several_captions_of_a_video_are_sampled_together(run: RunFolder, tmp_path: Path) -> None:
    clips = pd.DataFrame(
        {
            "clip_id": [f"{number}{letter}" for letter in "ab" for number in range(N)],
            "path": [f"videos/{number}.mp4" for number in range(N)] * 2,
            "text": [f"text {number}{letter}" for letter in "ab" for number in range(N)],
        }
    ).drop(index=3)
    own = RunFolder(tmp_path)
    (own.data / "msrvtt").mkdir(parents=True)
    write_clips(own.data / "msrvtt" / "clips.csv", clips)
    describe(own, "msrvtt")
    build(clips, run, own.frames / "msrvtt")
    everything, _ = own.training_clips("msrvtt")
    assert len(everything) == N - 1 and everything.missing == ["4a", "4b"]
    by_video = dict(zip(ids(everything), everything.captions, strict=True))
    assert by_video["0a"] == ("text 0a", "text 0b") and by_video["3b"] == ("text 3b",)
    for draw in range(5):
        taken, _ = own.training_clips("msrvtt", 4, draw)
        assert len(taken) + len(taken.missing) / 2 == 4
        assert taken.captions == [by_video[one] for one in ids(taken)]
    with pytest.raises(ValueError, match=f"it has {N}"):
        own.training_clips("msrvtt", N + 1)
    protocol = own.evaluation_set("msrvtt").protocol
    assert (protocol["videos"], protocol["texts"], protocol["failures"]) == (N, 2 * N - 1, 1)
    assert not {"videos", "texts"} & set(run.evaluation_set("msrvtt").protocol)


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_samples_of_wrong_size_are_refused(run: RunFolder, n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} clips of msrvtt are wanted and it has {N}"):
        run.training_clips("msrvtt", n)


def test_evaluation_sets_tell_their_protocol(run: RunFolder) -> None:
    retrieval, action = run.evaluation_set("msrvtt"), run.evaluation_set("ucf101")
    assert (retrieval.name, retrieval.templates, retrieval.classes) == ("msrvtt", (), ())
    assert action.templates == ("{}", "a {}.")
    assert action.classes == ("biking", "rowing", "surfing", "diving")
    assert retrieval.clips["text"].tolist() == [f"text {number}" for number in range(N)]
    assert action.clips["label"].tolist() == LABELS
    assert len(retrieval.frames.clip_ids) == N - 1
    assert dict(retrieval.protocol) == {
        "captions": "one a clip",
        "annotated": N + 2,
        "clips_table": file_sha256(run.data / "msrvtt" / "clips.csv"),
        "frame_store": run.store("msrvtt").digest,
        "frame_rule": {"n_frames": 2, "size": 8, "draws_per_interval": 0, "seed": 0},
        "failures": 1,
    }


def test_what_notebook_01_has_not_made_is_named(run: RunFolder) -> None:
    for read in (run.clips, run.evaluation_set, run.training_clips, run.described, run.store):
        with pytest.raises(ValueError, match=r"didemo.*(run notebook 01_data_prep|not finished)"):
            read("didemo")


def test_finish_lists_every_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    folder = tmp_path / "04_alpha_sweep"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("figure.png", "deep/table.csv", "deep/er/.hidden"):
        (folder / name).write_text(name)
    parameters, inputs = {"alphas": [0.0, 0.4]}, {"results": "abc"}
    for _ in range(2):  # its own manifest is no output
        manifest = run.finish("04_alpha_sweep", parameters, inputs)
        assert set(manifest["outputs"]) == {"figure.png", "deep/table.csv", "deep/er/.hidden"}
    assert (manifest["parameters"], manifest["inputs"]) == (parameters, inputs)
    assert not manifest_problems(folder, kind="04_alpha_sweep", parameters=parameters)
    (folder / "deep" / "table.csv").write_text("other")
    assert manifest_problems(folder, kind="04_alpha_sweep")
    assert run.finish("02_teacher_zero_shot", {}, {})["outputs"] == {}
