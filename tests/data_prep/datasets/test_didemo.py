"""DiDeMo's loader: paragraphs, names that share a Flickr id, both layouts, and broken files."""

import json
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import check_refused, lay, touch

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


TEXTS = "val_data.json"
TABLE = "yfcc100m_hash.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lay(tmp_path, {TEXTS: GOOD, TABLE: GOOD_HASHES})


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
    recorded = {"later": "the last name's", "first": "the first name's", "join": "of all names"}
    assert recorded.get(rule, "an item for each name") in found.protocol["shared_ids"]
    if rule == "later":
        assert load("didemo", root).clips.equals(found.clips), "the official rule is the default"


@pytest.mark.parametrize("folder", ["videos", ".", "data/videos/mp4"])
def test_videos_by_hash(root: Path, folder: str) -> None:
    touch(root / folder, "aaa/aaa/aaaaaa1111.mp4", "bbb/bbb/bbbbbb2222.mp4")
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
        (root / TABLE).unlink()
    # The first is converted: another extension.
    names = ["1@N0_11_aa.mkv", shared, "3@N0_33_cc."]
    touch(root / "videos", *names)
    found = load("didemo", root)
    assert found.clips["path"].tolist() == [f"videos/{name}" for name in names]
    assert (found.coverage, found.protocol["layout"]) == (1, "by name")


def test_the_kept_names_own_file_comes_before_the_other_names(root: Path) -> None:
    touch(root / "videos", f"{NAMES[1]}.mp4", f"{NAMES[3]}.mp4")
    assert load("didemo", root).clips["path"].tolist()[1] == f"videos/{NAMES[3]}.mp4"
    first = load("didemo", root, shared_ids="first")
    assert first.clips["path"].tolist()[1] == f"videos/{NAMES[1]}.mp4"


def test_videos_by_hash_and_those_not_in_the_bucket_by_name(root: Path) -> None:
    # The last as the authors' script names it.
    touch(root / "videos", "aaa/aaa/aaaaaa1111.mp4", "2@N0_22_bb.mp4", "3@N0_33_cc..mp4")
    found = load("didemo", root)
    assert (found.coverage, found.protocol["layout"]) == (1, "by name, by YFCC100M hash")


def test_a_name_without_a_hash_is_looked_for_by_name_and_missing(root: Path) -> None:
    lay(root, {TABLE: GOOD_HASHES.replace("33\t", "44\t")})
    touch(root, "videos/aaa/aaa/aaaaaa1111.mp4")
    found = load("didemo", root)
    assert found.missing.values.tolist() == [
        [NAMES[3], "videos/bbb/bbb/bbbbbb2222.mp4"],
        [NAMES[2], "videos/3@N0_33_cc."],
    ]
    assert found.protocol["layout"] == "by YFCC100M hash"
    touch(root, "videos/3@N0_33_cc.")
    assert load("didemo", root).protocol["layout"] == "by name, by YFCC100M hash"


def test_empty_descriptions_are_left_out_and_listed(root: Path) -> None:
    lay(root, {TEXTS: as_json([(NAMES[0], "a"), (NAMES[0], " "), (NAMES[2], "")])})
    found = load("didemo", root)
    assert found.clips["text"].tolist() == ["a"]
    assert found.dropped["item"].tolist() == [f"{NAMES[0]}, [1]", f"{NAMES[2]}, [2]", NAMES[2]]
    assert found.annotated == 2
    assert "3 descriptions in val" in found.protocol["annotation_size"], "all are counted"


def one(**record: object) -> str:
    return json.dumps([{"video": NAMES[0], "description": "a"} | record])


REFUSED = [
    (TEXTS, '{"a": 1}', r"\{'a': 1\} is not a list"),
    (TEXTS, "[]", "no usable row"),
    (TEXTS, '["x"]', r"\[0\]: 'x' is not an object"),
    (TEXTS, one(description=7), r"\[0\], 'description': 7 is not a text"),
    (TEXTS, one(video="../x_11_a.mov"), r"\[0\]: '../x_11_a.mov' is no DiDeMo video name"),
    (TEXTS, one(video="x_11_/../../a.mov"), r"'x_11_/../../a.mov' is no DiDeMo video name"),
    (TEXTS, one(video="video7"), "'video7' is no DiDeMo"),
    (TABLE, GOOD_HASHES.replace("\t", ","), "line 1: '11,aaaaaa1111' is no"),
    (TABLE, GOOD_HASHES[:-11], "line 3: .* is no Flickr id, tab and hash"),
    (TABLE, "11\t../../../etc\n", r"line 1: .*etc' is no Flickr id, tab and"),
    (TABLE, GOOD_HASHES + "11\tabcdef0\n", "id '11' is there 2 times"),
]


@pytest.mark.parametrize(("file", "content", "message"), REFUSED)
def test_broken_files_are_refused(root: Path, file: str, content: str, message: str) -> None:
    check_refused(root, {file: content}, message, "didemo")


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
    by_hash = r"videos/[0-9a-f]{3}/[0-9a-f]{3}/[0-9a-f]{26,32}\.mp4"
    assert sets["separate"]["path"].str.fullmatch(by_hash).all()
    assert (texts["join"].to_numpy() != texts["first"].to_numpy()).sum() == 29
    listed = set((folder / "collab_experts_val_list.txt").read_text().split())
    ids = {name.split("_")[1] for name in listed}
    assert ids == {name.split("_")[1] for name in texts["later"].index}
