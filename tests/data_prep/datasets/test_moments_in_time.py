"""Moments in Time's loader: real class lists, names with '+', both versions, broken tables."""

from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import lay, touch

CLASSES = b"hitting,0\nplaying+music,1\nadult+female+speaking,2\nclapping,3\n"
TABLE = (
    b"hitting/yt-dygLX_ZH5XY_300.mp4,hitting,3,0\n"
    b"playing+music/giphy-9qwEKF54DCbm_0.mp4,playing+music,2,1\n"
    b"clapping/getty-karate-video-id635808620_4.mp4,clapping,3,0\n"
)
PATHS = [line.split(",")[0] for line in TABLE.decode().split()]


GOOD = {"moments_categories.txt": CLASSES, "validationSet.csv": TABLE}


def test_the_official_layout(tmp_path: Path) -> None:
    # The second is in another container.
    touch(lay(tmp_path, GOOD), f"validation/{PATHS[0]}", f"validation/{PATHS[1][:-4]}.webm")
    data = load("moments_in_time", tmp_path)
    assert data.clips["clip_id"].tolist() == PATHS
    assert data.clips["path"].tolist() == [
        *(f"validation/{PATHS[0]}", f"validation/{PATHS[1][:-4]}.webm", f"validation/{PATHS[2]}")
    ]
    assert data.clips["label"].tolist() == ["hitting", "playing+music", "clapping"]
    assert data.missing["path"].tolist() == [f"validation/{PATHS[2]}"]
    assert data.classes == ("hitting", "playing+music", "adult+female+speaking", "clapping")
    assert (data.templates, data.annotated, len(data.dropped)) == (("{}",), 3, 0)
    assert data.protocol["prompts"] == "class name alone"
    assert (data.protocol["split"], data.protocol["version"]) == ("validation", "v1")


def test_the_training_split(tmp_path: Path) -> None:
    lay(tmp_path, {**GOOD, "trainingSet.csv": TABLE})
    data = load("moments_in_time", tmp_path, split="training")
    assert data.clips["path"].iloc[0] == f"training/{PATHS[0]}"
    assert set(data.clips["split"]) == {"training"}


def test_the_table_gives_the_label_not_the_folder(tmp_path: Path) -> None:
    moved = TABLE.replace(b"4.mp4,clapping", b"4.mp4,hitting")
    data = load("moments_in_time", lay(tmp_path, {**GOOD, "validationSet.csv": moved}))
    assert data.clips["label"].iloc[2] == "hitting"
    assert any("1 videos lie in another class's folder" in note for note in data.notes)


@pytest.mark.parametrize(
    "classes",
    [
        CLASSES.replace(b",", b"\t"),
        CLASSES.replace(b",", b", "),
        b"hitting\nplaying+music\nadult+female+speaking\nclapping",
    ],
    ids=["tabs", "spaces", "names_alone"],
)
def test_classes_in_other_layouts(tmp_path: Path, classes: bytes) -> None:
    data = load("moments_in_time", lay(tmp_path, {**GOOD, "moments_categories.txt": classes}))
    assert data.classes == ("hitting", "playing+music", "adult+female+speaking", "clapping")


V2_CLASSES = "".join(f"{chr(97 + k // 26)}{chr(97 + k % 26)}\n" for k in range(305)).encode()
REFUSED = [
    (1, TABLE[:-13], "line 3: 2 fields where 4 belong"),
    (1, b"path,label,agree,disagree\n" + TABLE, "line 1: 'path' is no video"),
    (1, TABLE.replace(b",hitting", b",hit"), "line 1: 'hit' is none of the 4 classes in moments_"),
    (1, TABLE + TABLE, "video 'hitting/.*' is there 2 times"),
    (1, TABLE.replace(b"hitting/", b"../"), r"'validation/\.\./yt.*' in row 0 is not"),
    (1, b"../" + TABLE, r"line 1: '\.\./hitting/.*' is no video"),
    (0, CLASSES[:-3], "line 4: class 'clapping' has no number"),
    (0, CLASSES[:-11], "'clapping' is none of the 3 classes"),
    (0, CLASSES + b"running\n", "line 5: class 'running' has no number"),
    (0, b"hitting\nhitting\n", "class 'hitting' is there 2 times"),
    (0, b"0,hitting\n", "line 1: '0,hitting' is no class"),
    (0, CLASSES + b"hitting,9\n", "class 'hitting' is there 2 times"),
    (0, CLASSES + b"running,3\n", "class number '3' is there 2 times"),
    (0, V2_CLASSES, "has 305 classes, as version v2 has; version is 'v1': choose version 'v2'"),
]


@pytest.mark.parametrize(("number", "content", "message"), REFUSED)
def test_broken_files_are_refused(
    tmp_path: Path, number: int, content: bytes, message: str
) -> None:
    files = {**GOOD, list(GOOD)[number]: content}
    with pytest.raises(ValueError, match=message):
        load("moments_in_time", lay(tmp_path, files))


def names_of(realdata: Path, version: str) -> list[str]:
    names = {"v1": "mit_v1_339_label_map.txt", "v2": "category_momentsv2.txt"}
    return (realdata / "moments_in_time" / names[version]).read_text().split()


def official(realdata: Path, root: Path, version: str, per_class: int) -> Path:
    """The official layout with real class names; the videos' names are made up."""
    names = names_of(realdata, version)
    rows = [f"{name}/yt-{name}_{k}.mp4,{name},3,0\n" for k in range(per_class) for name in names]
    classes = "".join(f"{name},{k}\n" for k, name in enumerate(names))
    return lay(root, {"moments_categories.txt": classes, "validationSet.csv": "".join(rows)})


@pytest.mark.parametrize(("version", "n_classes"), [("v1", 339), ("v2", 305)])
def test_real_classes(realdata: Path, tmp_path: Path, version: str, n_classes: int) -> None:
    root = official(realdata, tmp_path, version, 100)
    data = load("moments_in_time", root, version=version)
    assert data.classes == tuple(names_of(realdata, version))
    assert (len(data.classes), sum("+" in name for name in data.classes)) == (n_classes, 10)
    assert data.clips["label"].value_counts().tolist() == [100] * n_classes
    assert data.notes == ()
    other = "v2" if version == "v1" else "v1"
    said = rf"has {n_classes} classes, as version {version} has; version is '{other}'"
    with pytest.raises(ValueError, match=said):
        load("moments_in_time", root, version=other)


@pytest.mark.parametrize(
    ("name", "version"),
    [("category_momentsv2.txt", "v2"), ("moments_categories.layout_v1.txt", "v1")],
)
def test_the_real_category_files(realdata: Path, tmp_path: Path, name: str, version: str) -> None:
    content = (realdata / "moments_in_time" / name).read_bytes()
    table = b"clapping/a.mp4,clapping,3,0\n"
    lay(tmp_path, {"moments_categories.txt": content, "validationSet.csv": table})
    data = load("moments_in_time", tmp_path, version=version)
    assert data.classes == tuple(names_of(realdata, version))
    assert any("1 videos in validation; officially there are 3" in note for note in data.notes)
