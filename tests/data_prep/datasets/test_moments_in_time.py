"""Moments in Time's loader: real class lists, names with '+', both versions, broken tables."""

import re
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.malformed import BAD_COPIES, bad_copies

CLASSES = b"hitting,0\nplaying+music,1\nadult+female+speaking,2\nclapping,3\n"
TABLE = (
    b"hitting/yt-dygLX_ZH5XY_300.mp4,hitting,3,0\n"
    b"playing+music/giphy-9qwEKF54DCbm_0.mp4,playing+music,2,1\n"
    b"clapping/getty-karate-video-id635808620_4.mp4,clapping,3,0\n"
)
PATHS = [line.split(",")[0] for line in TABLE.decode().split()]


def write(root: Path, **contents: bytes) -> Path:
    names = {"classes": "moments_categories.txt", "table": "validationSet.csv"}
    names["training"] = "trainingSet.csv"
    root.mkdir(parents=True, exist_ok=True)
    for key, content in {"classes": CLASSES, "table": TABLE, **contents}.items():
        (root / names[key]).write_bytes(content)
    return root


def test_the_official_layout(tmp_path: Path) -> None:
    write(tmp_path)
    for path in PATHS[:2]:
        (tmp_path / "validation" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "validation" / path).touch()
    data = load("moments_in_time", tmp_path)
    assert data.clips["clip_id"].tolist() == PATHS
    assert data.clips["path"].tolist() == [f"validation/{path}" for path in PATHS]
    assert data.clips["label"].tolist() == ["hitting", "playing+music", "clapping"]
    assert data.missing["path"].tolist() == [f"validation/{PATHS[2]}"]
    assert data.classes == ("hitting", "playing+music", "adult+female+speaking", "clapping")
    assert data.templates == ("{}",)
    assert (data.annotated, len(data.dropped)) == (3, 0)
    assert data.protocol["prompts"] == "class name alone"
    assert (data.protocol["split"], data.protocol["version"]) == ("validation", "v1")
    assert set(data.protocol["annotations"]) == {"moments_categories.txt", "validationSet.csv"}
    assert any("has 4 classes in v1; officially there are 339" in note for note in data.notes)


def test_the_training_split(tmp_path: Path) -> None:
    data = load("moments_in_time", write(tmp_path, training=TABLE), split="training")
    assert data.clips["path"].iloc[0] == f"training/{PATHS[0]}"
    assert set(data.clips["split"]) == {"training"}


def test_videos_in_another_container(tmp_path: Path) -> None:
    (write(tmp_path) / "validation/hitting").mkdir(parents=True)
    (tmp_path / "validation/hitting/yt-dygLX_ZH5XY_300.webm").touch()
    data = load("moments_in_time", tmp_path)
    assert data.clips["path"].iloc[0] == "validation/hitting/yt-dygLX_ZH5XY_300.webm"
    assert len(data.missing) == 2


def test_the_table_gives_the_label_not_the_folder(tmp_path: Path) -> None:
    moved = TABLE.replace(b"4.mp4,clapping", b"4.mp4,hitting")
    data = load("moments_in_time", write(tmp_path, table=moved))
    assert data.clips["label"].iloc[2] == "hitting"
    assert any("1 videos lie in another class's folder" in note for note in data.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"table": TABLE.replace(b",", b";"), "classes": CLASSES.replace(b",", b"\t")},
        {"table": b"\xef\xbb\xbf" + TABLE.replace(b"\n", b"\r\n")},
        {"classes": b"\xef\xbb\xbf" + CLASSES.replace(b"\n", b"\r\n").strip()},
        {"classes": CLASSES.replace(b",", b", ")},
    ],
    ids=["other_separators", "table_mark_crlf", "classes_mark_crlf", "spaces"],
)
def test_copies_saved_again(tmp_path: Path, change: dict[str, bytes]) -> None:
    plain = load("moments_in_time", write(tmp_path / "a"))
    other = load("moments_in_time", write(tmp_path / "b", **change))
    assert other.clips.equals(plain.clips)
    assert other.classes == plain.classes


def test_names_alone(tmp_path: Path) -> None:
    plain = load("moments_in_time", write(tmp_path / "a"))
    names = re.sub(rb",\d", b"", CLASSES)
    for number, content in enumerate((names, b"\xef\xbb\xbf" + names.replace(b"\n", b"\r\n"))):
        found = load("moments_in_time", write(tmp_path / f"{number}", classes=content))
        assert found.classes == plain.classes
        assert found.clips.equals(plain.clips)


BROKEN = {
    "cut_off": ("table", TABLE[:-13], "line 3: 2 fields where 4 belong"),
    "separator": ("table", TABLE.replace(b",", b"|"), "line 1: 1 fields where 4 belong"),
    "column_missing": ("table", TABLE.replace(b",3,0", b",3"), "line 1: 3 fields where 4 belong"),
    "header": ("table", b"path,label,agree,disagree\n" + TABLE, "line 1: 'path' is no video"),
    "unknown_class": ("table", TABLE.replace(b",hitting", b",hit"), "line 1: 'hit' is none of the"),
    "repeated": ("table", TABLE + TABLE, "video 'hitting/.*' is there 2 times"),
    "up": ("table", TABLE.replace(b"hitting/", b"../"), r"'validation/\.\./yt.*' in row 0 is not"),
    "further_up": ("table", b"../" + TABLE, r"line 1: '\.\./hitting/.*' is no video"),
    "absolute": ("table", b"/" + TABLE, "line 1: '/hitting/.*' is no video"),
    "backslash": ("table", TABLE.replace(b"/", b"\\"), "is no video"),
    "drive": ("table", b"C:/" + TABLE, "line 1: 'C:/hitting/.*' is no video"),
    "classes_cut_off": ("classes", CLASSES[:-3], "line 4: 1 fields where 2 belong"),
    "classes_short": ("classes", CLASSES[:-11], "'clapping' is none of the 3 classes"),
    "classes_separator": ("classes", CLASSES.replace(b",", b"|"), "line 1: 1 fields where 2"),
    "classes_some_numbers": ("classes", CLASSES + b"running\n", "line 5: 1 fields where 2 belong"),
    "name_twice": ("classes", b"hitting\nhitting\n", "class 'hitting' is there 2 times"),
    "classes_backwards": ("classes", b"0,hitting\n", "line 1: 'hitting' is no class number"),
    "class_twice": ("classes", CLASSES + b"hitting,9\n", "class 'hitting' is there 2 times"),
    "number_twice": ("classes", CLASSES + b"running,3\n", "class number '3' is there 2 times"),
}


@pytest.mark.parametrize("bad", BROKEN)
def test_broken_files(tmp_path: Path, bad: str) -> None:
    name, content, message = BROKEN[bad]
    with pytest.raises(ValueError, match=message):
        load("moments_in_time", write(tmp_path, **{name: content}))


@pytest.mark.parametrize("bad", BAD_COPIES)
@pytest.mark.parametrize("name", ["classes", "table"])
def test_bad_copies(tmp_path: Path, name: str, bad: str) -> None:
    content, message = bad_copies({"classes": CLASSES, "table": TABLE}[name])[bad]
    with pytest.raises(ValueError, match=re.escape(message)):
        load("moments_in_time", write(tmp_path, **{name: content}))


@pytest.mark.parametrize("missing", ["moments_categories.txt", "validationSet.csv"])
def test_a_file_that_is_not_there(tmp_path: Path, missing: str) -> None:
    (write(tmp_path) / missing).unlink()
    with pytest.raises(ValueError, match=rf"under .*; looked for {re.escape(missing)}$"):
        load("moments_in_time", tmp_path)


def names_of(realdata: Path, version: str) -> list[str]:
    names = {"v1": "mit_v1_339_label_map.txt", "v2": "category_momentsv2.txt"}
    return (realdata / "moments_in_time" / names[version]).read_text().split()


def official(realdata: Path, root: Path, version: str, per_class: int) -> Path:
    """The official layout with real class names; the videos' names are made up."""
    names = names_of(realdata, version)
    classes = "".join(f"{name},{k}\n" for k, name in enumerate(names))
    rows = [
        f"{name}/yt-{name}_{k}.mp4,{name},3,{k % 2}\n" for k in range(per_class) for name in names
    ]
    return write(root, classes=classes.encode(), table="".join(rows).encode())


@pytest.mark.parametrize(("version", "n_classes"), [("v1", 339), ("v2", 305)])
def test_real_classes(realdata: Path, tmp_path: Path, version: str, n_classes: int) -> None:
    root = official(realdata, tmp_path, version, 100)
    data = load("moments_in_time", root, version=version)
    assert len(data.classes) == n_classes
    assert data.classes == tuple(names_of(realdata, version))
    assert sum("+" in name for name in data.classes) == 10
    assert len(data.clips) == 100 * n_classes
    assert data.clips["label"].value_counts().tolist() == [100] * n_classes
    assert data.notes == ()


def test_the_wrong_version_is_noticed(realdata: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 305 classes, as version v2 has; version is 'v1'"):
        load("moments_in_time", official(realdata, tmp_path / "2", "v2", 1))
    with pytest.raises(ValueError, match=r"has 339 classes, as version v1 has; version is 'v2'"):
        load("moments_in_time", official(realdata, tmp_path / "1", "v1", 1), version="v2")


def test_the_real_list_of_names_alone(realdata: Path, tmp_path: Path) -> None:
    content = (realdata / "moments_in_time" / "category_momentsv2.txt").read_bytes()
    table = b"clapping/a.mp4,clapping,3,0\n"
    root = write(tmp_path, classes=content, table=table)
    found = load("moments_in_time", root, version="v2")
    assert found.classes == tuple(names_of(realdata, "v2"))
    with pytest.raises(ValueError, match="has 305 classes, as version v2 has; version is 'v1'"):
        load("moments_in_time", root)


def test_the_real_category_layout(realdata: Path, tmp_path: Path) -> None:
    content = (realdata / "moments_in_time/moments_categories.layout_v1.txt").read_bytes()
    table = b"clapping/a.mp4,clapping,3,0\n"
    data = load("moments_in_time", write(tmp_path, classes=content, table=table))
    assert data.classes == tuple(names_of(realdata, "v1"))
    assert any("1 videos in validation; officially there are 33,900" in one for one in data.notes)
