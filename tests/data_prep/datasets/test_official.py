"""A wrong annotation in the right one's place: refused, or said with every number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.check import check, report
from data_prep.datasets import LOADERS, load
from data_prep.datasets.official import COUNTS, size_notes
from tests.paper_tree import build_tree

FILE = Path("list.txt")


def test_the_official_number_needs_no_word() -> None:
    for loader, parts in COUNTS.items():
        for part, counts in parts.items():
            assert size_notes(loader, part, FILE, counts) == ()


def test_fewer_are_a_note() -> None:
    found = {"descriptions in val": 4_179, "videos in val": 1_065}
    assert size_notes("didemo", "val", FILE, found) == (
        "4,179 descriptions in val; officially there are 4,180",
    )
    assert size_notes("webvid", "val", FILE, {"rows in val": 20}) == (
        "20 rows in val; officially there are about 5,000",
    )


@pytest.mark.parametrize(
    ("loader", "part", "found", "message"),
    [
        ("didemo", "val", {"descriptions": 4_181}, "4,181 descriptions and val has 4,180, so"),
        ("didemo", "test", {"descriptions": 4_180}, "4,180 descriptions and test has 4,021"),
        ("didemo", "val", {"descriptions": 4_021}, "4,021 descriptions, as test has, and val has"),
        ("didemo", "val", {"videos": 1_066}, "1,066 videos and val has 1,065"),
        ("ucf101", "testlist01", {"videos": 3_734}, "3,734 videos, as testlist02 has, and testl"),
        ("webvid", "val", {"rows": 2_500_000}, "2,500,000 rows and val has about 5,000, so it is"),
        ("webvid", "train", {"rows": 5_000}, "5,000 rows, as val has, and train has about"),
        ("youcook2", "mil_nce val", {"steps": 3_351}, "3,351 steps and mil_nce val has 3,350"),
        ("msrvtt", "full_val", {"videos": 2_990}, "2,990 videos and full_val has 497, so it is"),
        ("moments_in_time", "v1", {"classes": 305}, "305 classes, as v2 has, and v1 has 339"),
        ("coco", "val 2017", {"captions": 25_015}, "25,015 captions and val 2017 has 25,014"),
        ("cc3m", "val", {"rows": 15_841}, "15,841 rows and val has 15,840"),
    ],
)
def test_another_list_is_an_error(
    loader: str, part: str, found: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^list\.txt has .*{message}.*; take the original file$"):
        size_notes(loader, part, FILE, found)


def test_a_rounded_number_leaves_room() -> None:
    assert size_notes("webvid", "val", FILE, {"rows": 5_100}) == (
        "5,100 rows; officially there are about 5,000",
    )


def didemo(folder: Path, n_descriptions: int, n_videos: int) -> Path:
    records = [
        {"video": f"7@N0_{number % n_videos}_ff.mp4", "description": f"text {number}"}
        for number in range(n_descriptions)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "val_data.json").write_text(json.dumps(records))
    return folder


def test_didemo_with_other_descriptions_of_the_same_videos(tmp_path: Path) -> None:
    """As `tempoHL+didemo_val.json` is: 7,142 descriptions, and no other videos."""
    with pytest.raises(
        ValueError, match=r"val_data\.json has 7,142 descriptions and val has 4,180"
    ):
        load("didemo", didemo(tmp_path, 7_142, 1_065))
    with pytest.raises(ValueError, match="has 4,021 descriptions, as test has, and val has 4,180"):
        load("didemo", didemo(tmp_path, 4_021, 1_004))
    assert load("didemo", didemo(tmp_path, 4_180, 1_065)).protocol["annotation_size"] == "official"


def test_a_part_of_webvid(tmp_path: Path) -> None:
    rows = "".join(f"{number},text {number}\n" for number in range(20))
    (tmp_path / "results_2M_val.csv").write_text(f"videoid,name\n{rows}")
    for number in range(20):
        (tmp_path / f"{number}.mp4").touch()
    found = check("webvid", tmp_path, decode=0)
    said = "20 rows in val; officially there are about 5,000"
    assert found.data_set.protocol["annotation_size"] == said
    assert found.data_set.notes == (f"the annotation has {said}",)
    text = " ".join(report(found).split())
    assert f"annotation size {said}" in text
    assert "verdict usable, but the annotation has not the official size" in text


def test_every_loader_says_it(realdata: Path, tmp_path: Path) -> None:
    build_tree(realdata, tmp_path)
    (tmp_path / "coco").mkdir()
    pictures = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}
    pictures["annotations"] = [{"image_id": 1, "caption": "a"}]
    (tmp_path / "coco" / "captions_val2017.json").write_text(json.dumps(pictures))
    (tmp_path / "cc3m").mkdir()
    (tmp_path / "cc3m" / "gcc3m_val_merge.csv").write_text("a,http://x/1.jpg,1.jpg\n")
    for loader in set(LOADERS) - {"folder"}:
        data = load(loader, tmp_path / loader)
        said = data.protocol["annotation_size"].split("; officially there are ")
        assert len(said) > 1, loader
        assert {f"the annotation has {said[0]}"} <= {
            note.partition("; officially")[0] for note in data.notes
        }
    assert set(COUNTS) == set(LOADERS) - {"folder"}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "clips.csv").write_text("path,text\na.mp4,x\n")
    assert "annotation_size" not in load("folder", tmp_path / "folder").protocol


def test_the_real_lists_are_of_the_official_size(realdata: Path, tmp_path: Path) -> None:
    for loader, options in {
        "didemo": {},
        "youcook2": {},
        "ucf101": {"split": "testlist01"},
        "msrvtt": {"captions": "jsfusion"},
    }.items():
        found = load(loader, realdata / loader, **options)
        assert found.protocol["annotation_size"] == "official", loader
