"""MSR-VTT's loader: both JSON layouts, both caption rules, every split, and broken files."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import check_refused, lay, touch

IDS = ["video9001", "video7500", "video8000"]
SENTENCES = ["a man sings", "two dogs run", "someone cooks"]


def captions_of(video: str) -> list[str]:
    return [f"first of {video}", f"second of {video}"]


def msr_vtt_json(videos: list[str]) -> str:
    # All first captions come before all second ones, as nothing says that a video's are adjacent.
    annotations = [
        {"id": 1, "image_id": video, "caption": captions_of(video)[k]}
        for k in (0, 1)
        for video in reversed(videos)
    ]
    return json.dumps({"images": [{"id": video} for video in videos], "annotations": annotations})


def official_json(splits: dict[str, str]) -> str:
    videos = [
        {"id": k, "video_id": video, "split": name, "start time": 1.5, "category": 3}
        for k, (video, name) in enumerate(splits.items())
    ]
    sentences = [
        {"sen_id": 2 * j + k, "video_id": video, "caption": text}
        for j, video in enumerate(splits)
        for k, text in enumerate(captions_of(video))
    ]
    return json.dumps({"info": {"year": "2016"}, "videos": videos, "sentences": sentences})


def jsfusion_csv(ids: list[str], texts: list[str]) -> str:
    rows = ["key,vid_key,video_id,sentence"]
    rows += [f"ret,msr,{video},{text}" for video, text in zip(ids, texts, strict=True)]
    return "\n".join(rows) + "\n"


TABLE = "MSRVTT_JSFUSION_test.csv"
LIST = "structured-symlinks/val_list_jsfusion.txt"
CAPTIONS = "annotation/MSR_VTT.json"
GOOD = jsfusion_csv(IDS, SENTENCES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of Frozen in Time's archive, with the CSV beside it."""
    touch(tmp_path, *(f"videos/all/{video}.mp4" for video in IDS[:2]))
    files = {CAPTIONS: msr_vtt_json([*IDS, "video1"]), LIST: "\n".join(IDS), TABLE: GOOD}
    return lay(tmp_path, files)


def test_the_first_captions_in_the_order_of_the_sorted_paths(root: Path) -> None:
    found = load("msrvtt", root)
    ids = ["video7500", "video8000", "video9001"]
    assert found.clips["clip_id"].tolist() == ids
    assert found.clips["path"].tolist() == [f"videos/all/{video}.mp4" for video in ids]
    assert found.clips["text"].tolist() == [f"first of {video}" for video in ids]
    assert set(found.clips["split"]) == {"1ka_test"}
    assert found.missing["clip_id"].tolist() == ["video8000"]
    assert found.coverage == pytest.approx(2 / 3)
    assert (found.annotated, len(found.dropped)) == (3, 0)
    assert found.protocol["captions"] == "first caption of MSR_VTT.json"
    assert set(found.protocol["annotations"]) == {"MSR_VTT.json", "val_list_jsfusion.txt"}
    assert any("JSFusion sentence" in note for note in found.notes)


def test_the_jsfusion_sentences_in_the_order_of_the_table(root: Path) -> None:
    shutil.rmtree(root / "annotation")
    shutil.rmtree(root / "structured-symlinks")
    found = load("msrvtt", root, captions="jsfusion")
    assert found.clips["clip_id"].tolist() == IDS
    assert found.clips["text"].tolist() == SENTENCES
    assert found.protocol["captions"] == "JSFusion sentence (1K-A)"
    assert list(found.protocol["annotations"]) == ["MSRVTT_JSFUSION_test.csv"]


def test_every_caption_is_an_item(root: Path) -> None:
    found = load("msrvtt", root, captions="all")
    assert found.clips["clip_id"].tolist()[:3] == ["video7500_0", "video7500_1", "video8000_0"]
    assert found.clips["text"].tolist()[:2] == captions_of("video7500")
    assert found.annotated == len(found.clips) == 6
    assert found.protocol["captions"] == "every caption of MSR_VTT.json"


def test_the_official_json_gives_the_same_first_captions(root: Path) -> None:
    before = load("msrvtt", root)
    (root / CAPTIONS).unlink()
    lay(root, {"MSRVTT_data.json": official_json(dict.fromkeys(IDS, "test"))})
    found = load("msrvtt", root)
    assert found.clips.equals(before.clips)
    assert found.protocol["captions"] == "first caption of MSRVTT_data.json"
    assert any("another order" in note for note in found.notes)


def test_empty_captions_are_left_out_and_listed(root: Path) -> None:
    content = json.loads(msr_vtt_json(IDS))
    for record in content["annotations"]:
        if record["image_id"] == "video8000" or record["caption"] == "first of video7500":
            record["caption"] = " "
    lay(root, {CAPTIONS: json.dumps(content)})
    found = load("msrvtt", root)
    assert found.clips["clip_id"].tolist() == ["video7500", "video9001"]
    assert found.clips["text"].tolist()[0] == "second of video7500"
    assert found.dropped["item"].tolist() == [
        *("video7500_0", "video8000_0", "video8000_1"),
        "video8000",
    ]
    assert found.dropped["reason"].iloc[-1] == "it has no caption"
    assert found.annotated == 3
    every = load("msrvtt", root, captions="all")
    assert every.clips["clip_id"].tolist() == ["video7500_1", "video9001_0", "video9001_1"]


def test_an_empty_sentence_is_left_out_and_listed(root: Path) -> None:
    lay(root, {TABLE: jsfusion_csv(IDS, ["a", " ", "b"])})
    found = load("msrvtt", root, captions="jsfusion")
    assert found.clips["text"].tolist() == ["a", "b"]
    assert found.dropped["item"].tolist() == ["video7500"]
    assert found.annotated == 3


@pytest.mark.parametrize("folder", ["videos", "MSRVTT_Videos", "TrainValVideo", "TestVideo", "."])
def test_where_videos_may_lie(root: Path, folder: str) -> None:
    shutil.rmtree(root / "videos")
    touch(root / folder, "video7500.webm")
    found = load("msrvtt", root)
    path = (Path(folder) / "video7500.webm").as_posix()
    assert found.clips["path"].tolist()[0] == path
    assert found.missing["path"].tolist()[0] == path.replace("7500.webm", "8000.mp4")


def numbered(first: int, count: int) -> list[str]:
    return [f"video{number}" for number in range(first, first + count)]


FULL = {"full_train": (0, 6513), "full_val": (6513, 497), "full_test": (7010, 2990)}
LISTS = {
    "full_train": "train_list_full.txt",
    "full_val": "val_list_full.txt",
    "full_test": "test_list_full.txt",
    "1kb_test": "test_list_miech.txt",
    "1kb_train": "train_list_miech.txt",
    "1ka_train": "train_list_jsfusion.txt",
    "1ka_test": "val_list_jsfusion.txt",
}


@pytest.mark.parametrize("split", LISTS)
def test_a_split_from_its_list(tmp_path: Path, split: str) -> None:
    others = {name: "video1" for name in LISTS.values()}
    lists = others | {LISTS[split]: "\n".join(IDS)}
    found = load("msrvtt", lay(tmp_path, {**lists, CAPTIONS: msr_vtt_json(IDS)}), split=split)
    assert found.clips["clip_id"].tolist() == sorted(IDS)


def test_full_splits_of_the_official_size_from_the_official_json(tmp_path: Path) -> None:
    names = {"full_train": "train", "full_val": "validate", "full_test": "test"}
    whole = {video: names[split] for split, span in FULL.items() for video in numbered(*span)}
    parts = {"train_val": ("train", "validate"), "test": ("test",)}
    for part, of_part in parts.items():
        held = {video: name for video, name in whole.items() if name in of_part}
        (tmp_path / f"{part}_videodatainfo.json").write_text(official_json(held))
    for split, (first, count) in FULL.items():
        found = load("msrvtt", tmp_path, split=split)
        assert found.clips["clip_id"].tolist() == sorted(numbered(first, count))
        assert set(found.clips["clip_id"].map(whole)) == {names[split]}
        assert found.protocol["annotation_size"] == "official"


def changed(**record: object) -> str:
    """The captions' JSON with its first annotation changed."""
    content = json.loads(msr_vtt_json(IDS))
    content["annotations"][0] |= record
    return json.dumps(content)


def official(*videos: dict[str, str]) -> str:
    return json.dumps({"sentences": [], "videos": videos})


LONG = "\n".join(numbered(0, 2250))
REFUSED = [
    ({TABLE: GOOD.replace(IDS[1], IDS[0])}, "the video 'video9001' is there 2 times"),
    ({TABLE: GOOD.replace(IDS[1], "/etc/passwd")}, "line 3: '/etc/passwd' is no MSR-VTT video"),
    (
        {TABLE: GOOD.replace(IDS[1], "video1")},
        r"\(3 videos\) and .*val_list_jsfusion.txt are not the same split: 2 videos are in one",
    ),
    ({LIST: f"{IDS[0]}\n{IDS[0]}\n"}, "is there 2 times"),
    ({LIST: ",".join(IDS)}, "line 1: .* is no MSR-VTT video"),
    ({LIST: LONG}, "has 2,250 videos and 1ka_test"),
    ({CAPTIONS: changed(caption=7)}, r"annotations\[0\], 'caption': 7 is not a text"),
    ({CAPTIONS: changed(image_id=7020)}, r"annotations\[0\], 'image_id': 7020 is not a text"),
    ({CAPTIONS: official({"video_id": "video1"})}, r"videos\[0\] has no 'split'"),
    (
        {CAPTIONS: official(*[{"video_id": "video1", "split": "a"}] * 2)},
        "'video1' is there 2 times",
    ),
    ({CAPTIONS: official({"video_id": "../v", "split": "a"})}, r"'\.\./v' is no MSR-VTT video"),
]


@pytest.mark.parametrize(("files", "message"), REFUSED)
def test_broken_files_are_refused(root: Path, files: dict[str, str], message: str) -> None:
    captions = "jsfusion" if TABLE in files else "first"
    check_refused(root, files, message, "msrvtt", captions=captions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "jsfusion", "split": "1ka_train"}, "'jsfusion' are the 1K-A test's alone"),
        ({"split": "1kb_test"}, "no list of MSR-VTT's split 1kb_test"),
        ({"split": "full_test"}, r"MSRVTT_data.json has no video of split 'test'; it has train: "),
    ],
)
def test_options_that_do_not_go(root: Path, options: dict[str, str], message: str) -> None:
    if options["split"] == "full_test":
        (root / CAPTIONS).unlink()
        lay(root, {"MSRVTT_data.json": official_json({"video1": "train"})})
    with pytest.raises(ValueError, match=message):
        load("msrvtt", root, **options)


def test_the_real_test_table(realdata: Path, tmp_path: Path) -> None:
    found = load("msrvtt", realdata / "msrvtt", captions="jsfusion")
    with (realdata / "msrvtt/MSRVTT_JSFUSION_test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(found.clips) == found.annotated == 1000
    assert found.clips["clip_id"].tolist() == [row["video_id"] for row in rows]
    assert found.clips["text"].tolist() == [row["sentence"] for row in rows]
    assert found.clips["text"].nunique() == 995
    listed = realdata / "msrvtt/structured-symlinks/val_list_jsfusion.txt"
    assert set(found.clips["clip_id"]) == set(listed.read_text().split())
    assert (found.coverage, len(found.dropped), found.notes) == (0, 0, ())

    variant = realdata / "msrvtt/variants/MSRVTT_JSFUSION_test.semicolon_crlf.csv"
    shutil.copy(variant, tmp_path / "MSRVTT_JSFUSION_test.csv")
    assert load("msrvtt", tmp_path, captions="jsfusion").clips.equals(found.clips)


@pytest.mark.parametrize(
    "list_file", ["structured-symlinks/train_list_jsfusion.txt", "MSRVTT_train.9k.csv"]
)
def test_the_real_training_lists_and_the_real_captions(
    realdata: Path, tmp_path: Path, list_file: str
) -> None:
    shutil.copy(realdata / "msrvtt" / list_file, tmp_path)
    sample = realdata / "msrvtt/variants/MSR_VTT.layout_sample.json"
    shutil.copy(sample, tmp_path / "MSR_VTT.json")
    found = load("msrvtt", tmp_path, split="1ka_train")
    assert (found.annotated, len(found.clips), len(found.dropped)) == (9000, 200, 8800)
    assert set(found.dropped["reason"]) == {"it has no caption"}
    records = json.loads(sample.read_text())["annotations"]
    captions = {record["image_id"]: record["caption"] for record in records}
    assert dict(zip(found.clips["clip_id"], found.clips["text"], strict=True)) == captions
    assert not found.notes


def test_real_files_in_the_wrong_place(realdata: Path, tmp_path: Path) -> None:
    fold = realdata / "msrvtt/variants/MSRVTT_val_fold_1.csv"
    shutil.copy(fold, tmp_path / "MSRVTT_JSFUSION_test.csv")
    with pytest.raises(ValueError, match=r"2,250 videos and 1ka_test has 1,000"):
        load("msrvtt", tmp_path, captions="jsfusion")
    shutil.copy(realdata / "msrvtt/structured-symlinks/val_list_jsfusion.txt", tmp_path)
    with pytest.raises(ValueError, match=r"2250 videos.*are not the same split: 3250 videos"):
        load("msrvtt", tmp_path, captions="jsfusion")
