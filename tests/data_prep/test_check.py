"""check and its report, on small data sets made here and on a tiny copy of the paper's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import check as checked
from data_prep.check import Check, bytes_of, check, in_bytes, printable, report
from data_prep.clip_frames import FrameRule
from data_prep.datasets import base
from data_prep.mini_benchmark.build import encode
from tests.paper_tree import build_tree

RULE = FrameRule(n_frames=2, size=16)
HOSTILE = "\x1b[2J\u202egnp.\nx"
Maker = Callable[..., base.DataSet]


def video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8), crf=30)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Maker:
    """Puts a made-up data set in the loaders' place; it has `n` clips with captions."""

    def make(n: int = 4, there: int = 4, **changes: Any) -> base.DataSet:
        for i in range(there):
            video(tmp_path / f"{i}.mp4")
        rows = [
            {"clip_id": f"c{i}", "path": f"{i}.mp4", "text": f"text {i // 2}"} for i in range(n)
        ]
        arguments: dict[str, Any] = {
            "rows": rows,
            "annotated": n,
            "found": [i < there for i in range(n)],
            "protocol": {
                "data_set": "Made-Up",
                "split": "test",
                "annotations": {"a.csv": "f" * 64},
            },
        }
        data_set = base.data_set("made", tmp_path, **(arguments | changes))
        monkeypatch.setattr(checked, "load", lambda *_, **__: data_set)
        monkeypatch.setattr(checked, "options_of", lambda _: {"split": "test"})
        return data_set

    return make


def look(decode: int = 0, **changes: Any) -> Check:
    return check("made", "anywhere", decode=decode, rule=RULE, **changes)


def in_words(found: Check) -> str:
    """The report without its line breaks."""
    return " ".join(report(found).split())


def test_what_is_there_and_what_is_missing(made: Maker, tmp_path: Path) -> None:
    made(n=10, there=9)
    found = look(max_missing=0.1)
    assert found.there["clip_id"].tolist() == [f"c{i}" for i in range(9)]
    assert found.file_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.mp4"))
    assert (found.captions, found.captions_read, found.captions_cut) == (5, 5, 0)
    assert found.problems == ()
    text = in_words(found)
    assert "Made-Up (loader made)" in text and "options split test" in text
    assert f"a.csv, sha256 {'f' * 12} " in text
    assert "9 of 10 there" in text and "cover 9 of 10 clips (90.0%)" in text
    assert "missing 1 file, 9.mp4" in text and "5 distinct" in text
    assert "keeps 2 frames of 16 px of 9 clips (13.8 kB on disk)" in text
    assert "verdict usable in part" in text
    found = look(max_missing=0.099)
    (problem,) = found.problems
    assert "more than the 9.9% allowed" in problem
    assert "PROBLEM made: 1 of 10 clips" in in_words(found) and "verdict" not in in_words(found)


@pytest.mark.parametrize(
    ("there", "size", "verdict"),
    [
        (4, None, "verdict fine"),
        (4, [], "verdict fine"),
        (4, ["3 clips too many"], "verdict usable, but the annotation has not the official size"),
        (3, ["3 clips too many"], "verdict usable in part, see above"),
    ],
)
def test_verdicts(made: Maker, there: int, size: list[str] | None, verdict: str) -> None:
    data_set = made(there=there)
    if size is not None:
        vars(data_set)["protocol"] = {
            **data_set.protocol,
            "annotation_size": "; ".join(size) or base.OFFICIAL,
        }
    assert verdict in in_words(look(max_missing=0.5))


def test_no_file_at_all_is_a_problem_whatever_is_allowed(made: Maker) -> None:
    made(n=2, there=0)
    found = look(max_missing=1.0, decode=3)
    assert found.problems == ("none of the 2 clips has a file",)
    assert "a run has nothing to decode" in in_words(found)
    assert "they cover 0 of 2 clips (0.0%)" in in_words(found)
    made(n=5000, there=2)
    assert "they cover 2 of 5,000 clips (0.1%)" in in_words(look(max_missing=1.0))
    made(n=5000, there=2, found=[i > 0 for i in range(5000)])
    assert "they cover 4,999 of 5,000 clips (99.9%)" in in_words(look())


def test_clips_are_decoded_and_failures_named(made: Maker, tmp_path: Path) -> None:
    made(n=5, there=5)
    (tmp_path / "2.mp4").write_bytes(b"no video")
    found = look(decode=3)
    assert found.trials["clip_id"].tolist() == ["c0", "c2", "c4"], "spread over the table"
    assert found.trials["seconds"].isna().tolist() == [False, True, False]
    assert (found.trials["seconds"].dropna() > 0).all()
    text = in_words(found)
    assert "decoded 2 of 3 clips tried" in text
    assert "failed 2.mp4: cannot be opened as a video" in text
    assert found.problems == (), "a clip that does not decode is counted, not fatal"

    made(n=1, there=0)
    (tmp_path / "0.mp4").write_bytes(b"no video")
    (problem,) = look(decode=3, max_missing=1.0).problems
    assert problem == "none of the 1 clips has a file"
    made(n=1, there=0, found=[True])
    (problem,) = look(decode=3).problems
    assert problem.startswith("none of the 1 clips that were tried can be decoded")
    assert "0.mp4 cannot be opened" in problem


def test_videos_with_several_texts_are_counted_once(made: Maker) -> None:
    rows = [
        {"clip_id": f"c{i}{j}", "path": f"{i}.mp4", "text": f"text {i} {j}"}
        for i in range(4)
        for j in range(i + 1)
    ]
    made(n=4, there=3, rows=rows, annotated=10, found=[row["path"] != "3.mp4" for row in rows])
    found = look(decode=3, max_missing=0.5)
    assert (found.videos, found.videos_there, len(found.there)) == (4, 3, 6)
    assert found.trials["clip_id"].tolist() == ["c00", "c10", "c20"]
    text = in_words(found)
    assert "10 items annotated in this split, 10 texts of 4 videos in the table" in text
    assert "they cover 6 of 10 texts of 4 videos (60.0%)" in text
    assert "keeps 2 frames of 16 px of 3 clips (4.61 kB on disk)" in text
    assert "looks for each caption's clip among 3, and the other way round, where the best" in text
    assert "of a clip's captions counts (6 in all); 1 clip without a file is left out" in text


def test_what_was_left_out_is_grouped_by_reason(made: Maker) -> None:
    dropped = [(f"row {i}", "no caption", "a.csv") for i in range(5)]
    dropped += [("row 9", "no such video", "b.csv")]
    dropped += [(f"row {i}", "no label", "a.csv") for i in (6, 7)]
    made(dropped=dropped, annotated=10)
    text = in_words(look())
    assert "5 of a.csv: no caption (the first: row 0, row 1, row 2)" in text
    assert "1 of b.csv: no such video (row 9)" in text
    assert "2 of a.csv: no label (row 6, row 7)" in text
    assert "10 items annotated in this split, 4 clips in the table" in text


def test_classes_without_a_clip_and_prompts(made: Maker) -> None:
    rows = [{"clip_id": f"c{i}", "path": f"{i}.mp4", "label": f"class {i}"} for i in range(2)]
    made(
        n=2, there=2, rows=rows, classes=["class 0", "class 1", "class 2"], templates=["{}", "a {}"]
    )
    text = in_words(look())
    assert "classes 3, 1 of them without a clip; 2 prompts each" in text
    assert "classifies each clip among 3 classes" in text
    assert "captions" not in text


@pytest.mark.parametrize(("words", "cut"), [(75, 0), (76, 1), (500, 1)])
def test_captions_that_clip_would_cut_are_counted(made: Maker, words: int, cut: int) -> None:
    rows = [{"clip_id": "c0", "path": "0.mp4", "text": " ".join(["dog"] * words)}]
    made(n=1, there=1, rows=rows)
    found = look()
    assert found.captions_cut == cut, "a start mark, one token a word, an end mark; 77 in all"
    assert f"1 distinct; {cut} are longer than CLIP's 77 tokens" in in_words(found)


def test_of_many_captions_some_are_read(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"clip_id": f"c{i}", "path": "0.mp4", "text": f"{i} " + "dog " * (100 if i % 2 else 1)}
        for i in range(9)
    ]
    made(n=9, rows=rows)
    monkeypatch.setattr(checked, "MOST_TEXTS", 5)
    found = look()
    assert (found.captions, found.captions_read, found.captions_cut) == (9, 5, 0)
    assert "9 distinct; 0 of 5 read are longer" in in_words(found)


def test_nothing_unprintable_reaches_the_terminal(made: Maker) -> None:
    rows = [{"clip_id": HOSTILE, "path": f"{HOSTILE}.mp4", "text": HOSTILE}]
    made(
        n=1,
        rows=rows,
        found=[False],
        dropped=[(HOSTILE, HOSTILE, HOSTILE)],
        protocol={"data_set": HOSTILE, HOSTILE: HOSTILE, "annotations": {HOSTILE: HOSTILE}},
        notes=[HOSTILE],
    )
    found = look(max_missing=0.0)
    assert all(line.isprintable() for line in report(found).split("\n"))
    assert "\\x1b[2J\\u202egnp.\\nx.mp4" in report(found)


def test_printable() -> None:
    assert printable("Žluťoučký 猫 a b") == "Žluťoučký 猫 a b"
    assert printable("a\tb\x00\x7f\u200b\udcff") == "a\\tb\\x00\\x7f\\u200b\\udcff"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (601_500_000, "602 MB"),
        (29e9, "29 GB"),
        (1.25e12, "1.2 TB"),
        (4e15, "4,000 TB"),
    ],
)
def test_bytes_in_words(count: float, text: str) -> None:
    assert in_bytes(count) == text


def test_bytes_of_many_files_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        (tmp_path / f"{i}").write_bytes(b"x" * i)
    paths = [f"{i}" for i in range(10)]
    assert bytes_of(tmp_path, paths) == 45
    assert bytes_of(tmp_path, [*paths, "gone"]) == 45
    assert bytes_of(tmp_path, []) == 0
    monkeypatch.setattr(checked, "MOST_SIZES", 4)
    assert bytes_of(tmp_path, paths) == round((0 + 3 + 6 + 9) / 4 * 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_missing": 1.5}, "max_missing is 1.5"),
        ({"max_missing": float("nan")}, "max_missing is nan"),
        ({"decode": -1}, "decode is -1"),
    ],
)
def test_wrong_use_is_refused(made: Maker, changes: dict[str, Any], message: str) -> None:
    made()
    with pytest.raises(ValueError, match=message):
        look(**changes)


@pytest.fixture(scope="module")
def tree(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    build_tree(realdata, folder)
    return folder


@pytest.mark.parametrize(
    "loader", ["msrvtt", "didemo", "youcook2", "ucf101", "moments_in_time", "webvid"]
)
def test_the_papers_layouts_with_real_clips(tree: Path, loader: str) -> None:
    found = check(loader, tree / loader, max_missing=0.5, decode=2, rule=RULE)
    assert found.problems == ()
    assert len(found.there) + len(found.data_set.missing) == len(found.data_set.clips)
    assert len(found.trials) == 2 and (found.trials["reason"] == "").any()
    assert found.file_bytes > 0
    assert len(found.data_set.protocol["annotations"]) >= 1
    text = in_words(found)
    for digest in found.data_set.protocol["annotations"].values():
        assert digest[:12] in text
