"""DiDeMo's loader: paragraphs, names that share a Flickr id, both layouts, and broken files."""

import json
import shutil
from pathlib import Path

import pytest

from data_prep.datasets import load

# The second and fourth names are one Flickr video.
NAMES = ("1@N0_11_aa.mov", "2@N0_22_bb.avi", "3@N0_33_cc.", "2@N0_22_bb.mp4")
RECORDS = [
    (NAMES[0], "a dog runs"),
    (NAMES[1], " it begins\n"),
    (NAMES[2], "the end."),
    (NAMES[3], "later on"),
    (NAMES[0], 'he says "hi"'),
    (NAMES[1], "it goes on"),
]
HASHES = {"11": "aaaaaa1111", "22": "bbbbbb2222", "33": "cccccc3333"}
PARAGRAPHS = {
    NAMES[0]: 'a dog runs he says "hi"',
    NAMES[1]: " it begins\n it goes on",
    NAMES[2]: "the end.",
    NAMES[3]: "later on",
}


def as_json(records: list[tuple[str, str]]) -> str:
    return json.dumps(
        [
            {"annotation_id": k, "video": name, "description": text, "times": [[0, 0]]}
            for k, (name, text) in enumerate(records)
        ]
    )


GOOD = as_json(RECORDS)
GOOD_HASHES = "".join(f"{flickr_id}\t{hashed}\n" for flickr_id, hashed in HASHES.items())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "val_data.json").write_text(GOOD)
    (tmp_path / "yfcc100m_hash.txt").write_text(GOOD_HASHES)
    return tmp_path


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.mark.parametrize(
    ("rule", "items", "dropped"),
    [
        ("later", [(k, PARAGRAPHS[k]) for k in (NAMES[0], NAMES[3], NAMES[2])], [NAMES[1]]),
        ("first", [(k, PARAGRAPHS[k]) for k in NAMES[:3]], [NAMES[3]]),
        ("separate", [(k, PARAGRAPHS[k]) for k in NAMES], []),
        (
            "join",
            [
                (NAMES[0], PARAGRAPHS[NAMES[0]]),
                (NAMES[1], " it begins\n later on it goes on"),
                (NAMES[2], PARAGRAPHS[NAMES[2]]),
            ],
            [NAMES[3]],
        ),
    ],
)
def test_names_of_one_video(
    root: Path, rule: str, items: list[tuple[str, str]], dropped: list[str]
) -> None:
    found = load("didemo", root, shared_ids=rule)
    assert list(zip(found.clips["clip_id"], found.clips["text"], strict=True)) == items
    left_out = [item.partition(" (kept: ") for item in found.dropped["item"]]
    assert [name for name, _, _ in left_out] == dropped
    assert {kept.removesuffix(")") for _, _, kept in left_out} <= {name for name, _ in items}
    assert found.annotated == len(items) + len(dropped) == 4
    assert all(f"shared_ids: {rule}" in reason for reason in found.dropped["reason"])
    assert set(found.clips["split"]) == {"val"}


def test_the_rule_is_the_official_one_by_default_and_is_recorded(root: Path) -> None:
    found = load("didemo", root)
    assert found.clips.equals(load("didemo", root, shared_ids="later").clips)
    assert "the last name's paragraph" in found.protocol["shared_ids"]
    assert set(found.protocol["annotations"]) == {"val_data.json", "yfcc100m_hash.txt"}


@pytest.mark.parametrize("folder", ["videos", ".", "data/videos/mp4"])
def test_videos_by_hash(root: Path, folder: str) -> None:
    touch(root / folder / "aaa/aaa/aaaaaa1111.mp4")
    touch(root / folder / "bbb/bbb/bbbbbb2222.mp4")
    found = load("didemo", root)
    prefix = "" if folder == "." else f"{folder}/"
    assert found.clips["path"].tolist() == [
        f"{prefix}{hashed[:3]}/{hashed[3:6]}/{hashed}.mp4" for hashed in HASHES.values()
    ]
    assert found.missing["clip_id"].tolist() == [NAMES[2]]
    assert found.protocol["layout"] == "by YFCC100M hash"


@pytest.mark.parametrize("with_hashes", [True, False])
@pytest.mark.parametrize("shared", [NAMES[1], NAMES[3], f"{NAMES[1]}.mp4", f"{NAMES[3]}.mp4"])
def test_videos_by_name(root: Path, with_hashes: bool, shared: str) -> None:
    if not with_hashes:
        (root / "yfcc100m_hash.txt").unlink()
    touch(root / "videos/1@N0_11_aa.mkv")  # converted: another extension
    touch(root / f"videos/{shared}")
    touch(root / "videos/3@N0_33_cc.")
    found = load("didemo", root)
    assert found.clips["path"].tolist() == [
        "videos/1@N0_11_aa.mkv",
        f"videos/{shared}",
        "videos/3@N0_33_cc.",
    ]
    assert found.coverage == 1
    assert found.protocol["layout"] == "by name"


def test_the_kept_names_own_file_comes_before_the_other_names(root: Path) -> None:
    for name in (NAMES[1], NAMES[3]):
        touch(root / f"videos/{name}.mp4")
    assert load("didemo", root).clips["path"].tolist()[1] == f"videos/{NAMES[3]}.mp4"
    first = load("didemo", root, shared_ids="first")
    assert first.clips["path"].tolist()[1] == f"videos/{NAMES[1]}.mp4"


def test_videos_by_hash_and_those_not_in_the_bucket_by_name(root: Path) -> None:
    touch(root / "videos/aaa/aaa/aaaaaa1111.mp4")
    touch(root / "videos/2@N0_22_bb.mp4")
    touch(root / "videos/3@N0_33_cc..mp4")  # as the authors' script names it
    found = load("didemo", root)
    assert found.coverage == 1
    assert found.protocol["layout"] == "by name, by YFCC100M hash"


def test_a_name_without_a_hash_is_looked_for_by_name_and_missing(root: Path) -> None:
    (root / "yfcc100m_hash.txt").write_text(GOOD_HASHES.replace("33\t", "44\t"))
    touch(root / "videos/aaa/aaa/aaaaaa1111.mp4")
    found = load("didemo", root)
    assert found.missing["clip_id"].tolist() == [NAMES[3], NAMES[2]]
    assert found.missing["path"].tolist() == [
        "videos/bbb/bbb/bbbbbb2222.mp4",
        "videos/3@N0_33_cc.",
    ]
    assert found.protocol["layout"] == "by YFCC100M hash"
    touch(root / "videos/3@N0_33_cc.")
    assert load("didemo", root).protocol["layout"] == "by name, by YFCC100M hash"


def test_empty_descriptions_are_left_out_and_listed(root: Path) -> None:
    records = [(NAMES[0], "a"), (NAMES[0], " "), (NAMES[2], "")]
    (root / "val_data.json").write_text(as_json(records))
    found = load("didemo", root)
    assert found.clips["text"].tolist() == ["a"]
    assert found.dropped["item"].tolist() == [f"{NAMES[0]}, [1]", f"{NAMES[2]}, [2]", NAMES[2]]
    assert found.annotated == 2


OFFICIAL = {"val": (1094, 1065, 4180), "test": (1037, 1004, 4021), "train": (8395, 8395, 33005)}


@pytest.mark.parametrize("split", OFFICIAL)
def test_a_split_of_the_official_size(tmp_path: Path, split: str) -> None:
    n_names, n_videos, n_texts = OFFICIAL[split]
    names = [f"7@N0_{k % n_videos}_ff.{'mov' if k < n_videos else '.mp4'}" for k in range(n_names)]
    records = [(name, text) for text in ("one", "two") for name in names]
    records += [(names[0], "more")] * (n_texts - len(records))
    (tmp_path / f"{split}_data.json").write_text(as_json(records))
    found = load("didemo", tmp_path, split=split)
    assert (found.annotated, len(found.clips)) == (n_names, n_videos)
    assert len(found.dropped) == n_names - n_videos
    assert set(found.clips["text"].iloc[1:]) == {"one two"}
    assert (found.notes, found.protocol["annotation_size"]) == ((), "official")
    assert (found.coverage, found.protocol["layout"]) == (0, "no video found")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "split is 'validation'; there are val, test, train"),
        ({"shared_ids": "both"}, "shared_ids is 'both'; there are later, first, join, separate"),
        ({"split": "test"}, r"no DiDeMo texts under .*; looked for test_data.json, data/test_data"),
    ],
)
def test_options_that_do_not_go(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("didemo", root, **options)


TEXTS = "val_data.json"
TABLE = "yfcc100m_hash.txt"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:7446\nsize 34933776\n"
PAGE = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"
# Name -> the file, its content, what the error says of it.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "JSON cut off": (TEXTS, GOOD[:-30], "no whole JSON"),
    "JSON in UTF-16": (TEXTS, GOOD.encode("utf-16"), "UTF-16"),
    "JSON in Latin-1": (TEXTS, GOOD.replace("dog", "rêve").encode("latin-1"), "0xea"),
    "empty JSON": (TEXTS, "", "is empty"),
    "git-LFS pointer for the JSON": (TEXTS, POINTER, "git-LFS pointer"),
    "web page for the JSON": (TEXTS, PAGE, "web page"),
    "JSON object": (TEXTS, '{"a": 1}', r"\{'a': 1\} is not a list"),
    "JSON list without records": (TEXTS, "[]", "no usable row"),
    "JSON record of another kind": (TEXTS, '["x"]', r"\[0\]: 'x' is not an object"),
    "JSON record without a video": (
        TEXTS,
        '[{"description": "a"}]',
        r"\[0\] has no 'video'; it has description",
    ),
    "JSON with a number for a description": (
        TEXTS,
        f'[{{"video": "{NAMES[0]}", "description": 7}}]',
        r"\[0\], 'description': 7 is not a text",
    ),
    "JSON with null for a video": (
        TEXTS,
        '[{"video": null, "description": "a"}]',
        r"\[0\], 'video': None is not a text",
    ),
    "JSON with an absolute path": (
        TEXTS,
        as_json([("/etc/x_11_a.mov", "a")]),
        r"\[0\]: '/etc/x_11_a.mov' is no DiDeMo video name",
    ),
    "JSON with ..": (
        TEXTS,
        as_json([("../x_11_a.mov", "a")]),
        r"\[0\]: '../x_11_a.mov' is no DiDeMo video name",
    ),
    "JSON with .. after the Flickr id": (
        TEXTS,
        as_json([("x_11_/../../a.mov", "a")]),
        r"\[0\]: 'x_11_/../../a.mov' is no DiDeMo video name",
    ),
    "JSON name without a Flickr id": (TEXTS, as_json([("video7", "a")]), "'video7' is no DiDeMo"),
    "hashes with commas": (TABLE, GOOD_HASHES.replace("\t", ","), "line 1: '11,aaaaaa1111' is no"),
    "hashes cut off": (TABLE, GOOD_HASHES[:-11], "line 3: '33' is no Flickr id, tab and hash"),
    "hashes with ..": (TABLE, "11\t../../../etc\n", r"line 1: .*etc' is no Flickr id, tab and"),
    "hashes with an absolute path": (TABLE, "11\t/etc/passwd\n", "line 1: .*passwd' is no Flickr"),
    "hashes with an id twice": (TABLE, GOOD_HASHES + "11\tabcdef0\n", "id '11' is there 2 times"),
    "hashes in UTF-16": (TABLE, GOOD_HASHES.encode("utf-16"), "UTF-16"),
    "empty hashes": (TABLE, "\n", "is empty"),
    "git-LFS pointer for the hashes": (TABLE, POINTER, "git-LFS pointer"),
    "web page for the hashes": (TABLE, PAGE, "web page"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_place(root: Path, name: str) -> None:
    file, content, message = BROKEN[name]
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load("didemo", root)


@pytest.mark.parametrize("file", [TEXTS, TABLE])
def test_a_bom_and_other_line_ends_change_nothing(root: Path, file: str) -> None:
    before = load("didemo", root).clips
    content = (root / file).read_bytes().replace(b"\n", b"\r\n")
    (root / file).write_bytes(b"\xef\xbb\xbf" + content)
    assert load("didemo", root).clips.equals(before)


def official_items(folder: Path) -> list[tuple[str, str, str]]:
    """(path below the videos, last name, its paragraph): keyed by file, a later name replaces an
    earlier one and keeps its place."""
    hashes = dict(line.split("\t") for line in (folder / TABLE).read_text().splitlines())
    records = json.loads((folder / TEXTS).read_text())
    paragraphs: dict[str, str] = {}
    for record in records:
        before = f"{paragraphs[record['video']]} " if record["video"] in paragraphs else ""
        paragraphs[record["video"]] = before + record["description"]
    name_of_path = {}
    for name in paragraphs:
        hashed = hashes[name.split("_")[1]]
        name_of_path[f"{hashed[:3]}/{hashed[3:6]}/{hashed}.mp4"] = name
    return [(path, name, paragraphs[name]) for path, name in name_of_path.items()]


def test_the_real_validation_split_is_the_official_codes(realdata: Path) -> None:
    expected = official_items(realdata / "didemo")
    found = load("didemo", realdata / "didemo")
    assert len(expected) == len(found.clips) == 1065
    paths = found.clips["path"].str.removeprefix("videos/")
    items = zip(paths, found.clips["clip_id"], found.clips["text"], strict=True)
    assert list(items) == expected
    assert (found.annotated, len(found.dropped), found.coverage) == (1094, 29, 0)
    assert found.notes == ()
    assert max(len(text.split()) for text in found.clips["text"]) == 70


def test_the_real_validation_split_by_the_other_rules(realdata: Path) -> None:
    folder = realdata / "didemo"
    sets = {
        rule: load("didemo", folder, shared_ids=rule).clips
        for rule in ("later", "first", "separate", "join")
    }
    assert [len(clips) for clips in sets.values()] == [1065, 1065, 1094, 1065]
    texts = {rule: clips.set_index("clip_id")["text"] for rule, clips in sets.items()}
    for rule in ("later", "first"):
        assert texts[rule].equals(texts["separate"][texts[rule].index])
    assert (sets["later"]["path"] == sets["first"]["path"]).all()
    assert sets["separate"]["path"].nunique() == 1065
    assert (texts["join"].to_numpy() != texts["first"].to_numpy()).sum() == 29
    listed = set((folder / "collab_experts_val_list.txt").read_text().split())
    ids = {name.split("_")[1] for name in listed}
    assert ids == {name.split("_")[1] for name in texts["later"].index}


def test_every_real_video_has_a_hash(realdata: Path) -> None:
    clips = load("didemo", realdata / "didemo", shared_ids="separate").clips
    assert clips["path"].str.fullmatch(r"videos/[0-9a-f]{3}/[0-9a-f]{3}/[0-9a-f]{26,32}\.mp4").all()


def test_the_other_copy_of_the_real_validation_split(realdata: Path, tmp_path: Path) -> None:
    """It names one record's video .mov instead of .mp4 and so has 1,093 names."""
    records = json.loads((realdata / "didemo" / TEXTS).read_text())
    of_id = [record for record in records if record["video"].split("_")[1] == "4677161609"]
    names = [record["video"] for record in of_id]
    (odd,) = [name for name in set(names) if name.endswith(".mp4")]
    assert names.count(odd) == 1
    for record in of_id:
        record["video"] = record["video"].replace(".mp4", ".mov")
    (tmp_path / TEXTS).write_text(json.dumps(records) + "\n")
    shutil.copy(realdata / "didemo" / TABLE, tmp_path)
    found = load("didemo", tmp_path)
    assert (found.annotated, len(found.clips), found.notes) == (1093, 1065, ())
