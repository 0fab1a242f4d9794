"""Own videos: what is taken, what is left out and why, and how texts are scored."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data_prep import frame_store
from fitclip_kit.slider import own_videos
from fitclip_kit.slider.background import Task
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.slider.own_videos import OwnVideos, compare, from_folder, from_uploads
from tests.fitclip_kit.slider.tiny_material import tiny_material
from tests.make import SIZE

FUSION = Fusion.at(1, 0.4)


def picture(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2 * SIZE, SIZE), colour).save(file, "PNG")
    return file.getvalue()


RED, GREEN, BLUE = (picture(one) for one in [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
TEXT = b"this is text and no video\n" * 20


@pytest.fixture
def material(tmp_path) -> Material:
    return tiny_material(tmp_path / "run")


@pytest.fixture
def no_decoding(monkeypatch) -> None:
    """For what is decided before anything is decoded, which takes processes and their seconds."""
    monkeypatch.setattr(frame_store, "build", None)


def reasons(own: OwnVideos) -> dict[str, str]:
    assert list(own.failures) == ["path", "reason"]
    assert own.failures["path"].is_unique
    return dict(zip(own.failures["path"], own.failures["reason"], strict=True))


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_hostile_uploads_stay_inside_and_are_listed(material, tmp_path):
    work = tmp_path / "work"
    beside = files_under(tmp_path)
    uploads = {
        "red.png": RED,
        "../../evil.png": GREEN,
        "C:\\Windows\\blue.PNG": BLUE,
        "again.png": RED,
        "text.mp4": TEXT,
        "notes.txt": TEXT,
        "empty.mp4": b"",
        "nul.mp4\0": RED,
        "/etc/passwd": RED,
        "..": RED,
        "": RED,
        "<b>&.mp4": TEXT + b"2",
    }
    own = from_uploads(list(uploads.items()), material, work).with_texts("cat\ndog")
    assert own.clip_set is not None
    assert own.clip_set.clip_ids == ["red.png", "evil.png", "blue.PNG"]
    assert own.clip_set.texts == ["cat", "dog"]
    assert own.clip_set.answers is None
    colours = [own.clip_set.frames_of(row)[0, 0, 0].tolist() for row in range(3)]
    assert colours == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    unnamed = "is not called a video or an image, such as clip.mp4 or picture.jpg"
    assert own.failures["path"].tolist() == [
        *("again.png", "notes.txt", "empty.mp4", "nul.mp4\N{REPLACEMENT CHARACTER}"),
        *("passwd", "..", "(no name)", "text.mp4", "<b>&.mp4"),
    ]
    assert own.failures["reason"].tolist() == [
        "has the same content as red.png",
        unnamed,
        "is empty",
        *([unnamed] * 4),
        *(["cannot be opened as a video: Invalid data found when processing input"] * 2),
    ]
    kept = [name for name in files_under(tmp_path) if name not in beside]
    assert kept and all(name.startswith("work/") for name in kept)
    assert len([name for name in kept if name.startswith("work/uploads/")]) == 5

    table = compare(LiveModel(material), own, FUSION, Task())
    assert list(table) == ["clip_id", "text", "teacher", "student", "fused"]
    assert table["clip_id"].tolist() == ["red.png"] * 2 + ["evil.png"] * 2 + ["blue.PNG"] * 2
    assert table["text"].tolist() == ["cat", "dog"] * 3
    for name, fusion in zip(("teacher", "student", "fused"), (*FUSION.ends, FUSION), strict=True):
        expected = expected_probabilities(material, fusion, [RED, GREEN, BLUE], ["cat", "dog"])
        np.testing.assert_allclose(table[name], expected.flatten(), rtol=1e-4)


def expected_probabilities(
    material: Material, fusion: Fusion, pictures: list[bytes], texts: list[str]
) -> np.ndarray:
    """From a model with the fused weights, clip by clip."""
    encoder = tiny_material(material.run.path).encoder
    encoder.load_state(LiveModel(material).state(fusion))
    rows = []
    for content in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(content)).crop((0, 0, SIZE, SIZE)))
        video = encoder.encode_videos(pixels[None, None])[0]
        scores = [float(video @ encoder.encode_texts([text])[0]) for text in texts]
        exponentials = np.exp(encoder.logit_scale * np.array(scores))
        rows.append(exponentials / exponentials.sum())
    return np.array(rows)


def test_the_next_uploads_replace_the_earlier_ones(material, tmp_path):
    work = tmp_path / "work"
    first = from_uploads([("red.png", RED), ("green.png", GREEN)], material, work)
    (work / "uploads" / "mine.png").write_bytes(RED)  # of somebody else
    second = from_uploads([("x.png", BLUE), ("x.png", GREEN)], material, work)
    assert first.clip_set is not None and second.clip_set is not None
    assert first.clip_set.frames_of(1)[0, 0, 0].tolist() == [0, 255, 0]
    assert second.clip_set.clip_ids == ["x.png", "x.png (2)"]
    assert second.clip_set.frames_of(0)[0, 0, 0].tolist() == [0, 0, 255]
    assert len(list((work / "uploads").iterdir())) == 3
    assert (work / "uploads" / "mine.png").is_file()


def test_a_folder_is_read_and_everything_else_in_it_listed(material, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, content in {
        "b.png": GREEN,
        "a.png": RED,
        "c.jpg": RED,
        "bad.mkv": TEXT,
        "notes.txt": TEXT,
        "empty.avi": b"",
        "back\\slash.png": BLUE,
        "c:drive.png": BLUE,
    }.items():
        (folder / name).write_bytes(content)
    (folder / "more.mp4").mkdir()
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / os.fsdecode(b"latin\xe9.png")).write_bytes(BLUE)
    before = files_under(folder)
    own = from_folder(str(folder), material, tmp_path / "work")
    assert own.clip_set is not None
    assert own.clip_set.clip_ids == ["a.png", "b.png"]
    name = "has a name that not every system takes; rename it"
    assert reasons(own) == {
        "c.jpg": "has the same content as a.png",
        "bad.mkv": "cannot be opened as a video: Invalid data found when processing input",
        "notes.txt": "is not called a video or an image, such as clip.mp4 or picture.jpg",
        "empty.avi": "is empty",
        "slash.png": name,
        "c:drive.png": name,
        "latin\N{REPLACEMENT CHARACTER}.png": name,
        "more.mp4": "is a folder; only files directly in the named one are read",
        "gone.mp4": "is no ordinary file",
        "pipe.mp4": "is no ordinary file",
    }
    assert files_under(folder) == before


def test_without_a_good_clip_there_is_nothing_to_compare(material, tmp_path, no_decoding):
    own = from_uploads([("notes.txt", TEXT)], material, tmp_path / "work")
    assert own.clip_set is None and len(own.failures) == 1
    with pytest.raises(ValueError, match="there is no readable video"):
        compare(LiveModel(material), own.with_texts("dog"), FUSION, Task())
    nothing = from_uploads([], material, tmp_path / "work")
    assert nothing.clip_set is None and nothing.failures.empty


def test_only_so_many_files_and_megabytes_are_taken(monkeypatch):
    monkeypatch.setattr(own_videos, "MOST_MB", 0.001)
    monkeypatch.setattr(own_videos, "MOST_FILES", 2)
    intake = own_videos._Intake()
    for name, size in {"a.mp4": 600, "b.mp4": 401, "c.mp4": 400, "d.mp4": 1}.items():
        intake.admit(name, size, name.upper, name)
    assert intake.rows == [("a.mp4", "a.mp4"), ("c.mp4", "c.mp4")]
    assert dict(intake.failures) == {
        "b.mp4": "makes it more than the 0.001 MB that are taken at once",
        "d.mp4": "is one more than the 2 files that are taken at once",
    }


def test_a_file_that_may_not_be_read_is_listed(material, tmp_path, monkeypatch, no_decoding):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(own_videos, "file_sha256", refuse)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "secret.mp4").write_bytes(TEXT)
    own = from_folder(str(tmp_path / "videos"), material, tmp_path / "work")
    assert reasons(own) == {"secret.mp4": "cannot be read: Permission denied"}


@pytest.mark.parametrize("name", ["", "  ", "nowhere", "nul\0", "a_file"])
def test_a_folder_that_is_none_is_refused(material, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_bytes(RED)
    with pytest.raises(ValueError, match="no folder"):
        from_folder(name, material, tmp_path / "work")


def test_names_are_told_apart_and_long_ones_keep_their_end():
    intake = own_videos._Intake()
    names = ["one/x.mp4", "two/x.mp4", "three\\x.mp4", "x.mp4 (2)/x.mp4", "y" * 5000 + ".mp4"]
    for name in names:
        assert intake.admit(name, 1, name.upper, "")
    *same, long = [clip_id for clip_id, _ in intake.rows]
    assert same == ["x.mp4", "x.mp4 (2)", "x.mp4 (3)", "x.mp4 (4)"]
    assert len(long) == 100 and long.endswith("y.mp4")


@pytest.fixture
def own(material, tmp_path) -> OwnVideos:
    """One clip without the cost of decoding it."""
    actions = material.sets["actions"]
    blind = replace(actions.trial, clips=actions.trial.clips[["clip_id"]], classes=())
    unknown = ClipSet("own_videos", "My videos", blind)
    return OwnVideos(unknown, pd.DataFrame(columns=["path", "reason"]))


def test_texts_are_taken_once_in_the_typed_order_and_one_is_needed(material, own):
    found = own.with_texts(" dog \ncat\r\n\ndog\na {} c").clip_set
    assert found.texts == ["dog", "cat", "a {} c"]
    with pytest.raises(ValueError, match="there is no label or caption"):
        compare(LiveModel(material), own.with_texts(" \n\n "), FUSION, Task())


def test_one_text_is_certain_and_templates_are_averaged(material, own):
    live = LiveModel(material)
    alone = compare(live, own.with_texts("cat"), FUSION, Task())
    assert alone[["teacher", "student", "fused"]].eq(1).all(axis=None)
    prompted = own.with_texts("cat\ndog", ["a {}", "{}"])
    found = live.text_features(FUSION, prompted.clip_set, Task())
    prompts = ["a cat", "cat", "a dog", "dog"]
    features = torch.stack([live.query_features(FUSION, text, Task()) for text in prompts])
    torch.testing.assert_close(found, features.reshape(2, 2, -1).mean(1))


def test_real_videos(material, realdata, tmp_path):
    names = {
        "torchvision__WUzgd7C1pWA.mp4": None,
        "torchvision__v_SoccerJuggling_g23_c01.avi": None,
        "imageio__newtonscradle.gif": None,
        "small__AudioVideoInterleave.avi": "has no frames",
        "filetype__fixture-isom.mp4": "cannot be opened as a video",
        "torchcodec__nasa_13013.mp4.audio.mp3": "is not called a video",
    }
    uploads = {name: (realdata / "videos" / name).read_bytes() for name in names}
    own = from_uploads(list(uploads.items()), material, tmp_path / "work")
    own = own.with_texts("a person\na toy")
    good = [name for name, reason in names.items() if reason is None]
    assert own.clip_set is not None and own.clip_set.clip_ids == good
    assert reasons(own).keys() == names.keys() - set(good)
    for name, reason in reasons(own).items():
        assert str(names[name]) in reason
    assert len(compare(LiveModel(material), own, FUSION, Task())) == 2 * len(good)
