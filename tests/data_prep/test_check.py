"""check and its report, on small data sets made here and on a tiny copy of the paper's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import check as checked
from data_prep.check import Check, check, in_bytes, printable, report
from data_prep.clip_frames import FrameRule
from data_prep.datasets import base
from data_prep.mini_benchmark.build import encode
from tests.paper_tree import build_tree

RULE = FrameRule(n_frames=2, size=16)
HOSTILE = "\x1b[2J\u202egnp.\nx"
PROTOCOL = {"data_set": "Made-Up", "split": "test", "annotations": {"a.csv": "f" * 64}}
Maker = Callable[..., base.DataSet]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Maker:
    """Puts a made-up data set in the loaders' place; it has `n` clips with captions."""

    def make(n: int = 4, there: int = 4, **changes: Any) -> base.DataSet:
        noise = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
        for i in range(there):
            encode(tmp_path / f"{i}.mp4", noise, crf=30)
        arguments: dict[str, Any] = {
            "rows": [
                {"clip_id": f"c{i}", "path": f"{i}.mp4", "text": f"text {i // 2}"} for i in range(n)
            ],
            "annotated": n,
            "found": [i < there for i in range(n)],
            "protocol": PROTOCOL,
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
        (4, {}, "verdict fine"),
        (4, {"annotation_size": base.OFFICIAL}, "verdict fine"),
        (4, {"annotation_size": "3 too many"}, "but the annotation has not the official size"),
        (3, {"annotation_size": "3 too many"}, "verdict usable in part, see above"),
    ],
)
def test_verdicts(made: Maker, there: int, size: dict[str, str], verdict: str) -> None:
    made(there=there, protocol=PROTOCOL | size)
    assert verdict in in_words(look(max_missing=0.5))


def test_no_file_at_all_is_a_problem_whatever_is_allowed(made: Maker) -> None:
    made(n=2, there=0)
    found = look(max_missing=1.0, decode=3)
    assert found.problems == ("none of the 2 clips has a file",)
    assert "a run has nothing to decode" in in_words(found)
    assert "they cover 0 of 2 clips (0.0%)" in in_words(found)
    for there, share in ((2, "2 of 5,000 clips (0.1%)"), (4999, "4,999 of 5,000 clips (99.9%)")):
        made(n=5000, there=0, found=[i < there for i in range(5000)])
        assert f"they cover {share}" in in_words(look(max_missing=1.0))


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


def test_captions_that_clip_would_cut_are_counted(
    made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start mark, one token a word, an end mark; 77 in all."""
    lengths = [74, 75, 76, 75, 500]  # and one token for the number
    rows = [
        {"clip_id": f"c{i}", "path": "0.mp4", "text": f"{i} " + "dog " * words}
        for i, words in enumerate([n - 1 for n in lengths])
    ]
    made(n=5, rows=rows)
    assert "5 distinct; 2 are longer than CLIP's 77 tokens" in in_words(look())
    monkeypatch.setattr(checked, "MOST_TEXTS", 3)
    found = look()
    assert (found.captions, found.captions_read, found.captions_cut) == (5, 3, 2)
    assert "5 distinct; 2 of 3 read are longer" in in_words(found)


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
    assert printable("Žluť 猫 a\tb\x00\u200b\udcff") == "Žluť 猫 a\\tb\\x00\\u200b\\udcff"


def test_bytes_in_words() -> None:
    counts = [0, 999, 1000, 999_600, 601_500_000, 29e9, 1.25e12, 4e15]
    words = "0 B, 999 B, 1 kB, 1 MB, 602 MB, 29 GB, 1.2 TB, 4,000 TB"
    assert ", ".join(map(in_bytes, counts)) == words


def test_bytes_of_many_files_are_estimated(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(n=10, there=10)
    for i in range(10):
        (tmp_path / f"{i}.mp4").write_bytes(b"x" * i)
    assert look().file_bytes == 45
    monkeypatch.setattr(checked, "MOST_SIZES", 4)
    assert look().file_bytes == round((0 + 3 + 6 + 9) / 4 * 10)
    assert "there, about 45 B;" in in_words(look())


def test_wrong_use_is_refused(made: Maker) -> None:
    made()
    wrong: list[tuple[str, Any]] = [
        ("max_missing", 1.5),
        ("max_missing", float("nan")),
        ("decode", -1),
    ]
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            look(**{name: value})


LOADERS = ["msrvtt", "didemo", "youcook2", "ucf101", "moments_in_time", "webvid"]


@pytest.mark.slow
def test_the_papers_layouts_with_real_clips(realdata: Path, tmp_path: Path) -> None:
    build_tree(realdata, tmp_path)
    for loader in LOADERS:
        found = check(loader, tmp_path / loader, max_missing=0.5, decode=2, rule=RULE)
        assert found.problems == ()
        assert len(found.there) + len(found.data_set.missing) == len(found.data_set.clips)
        assert len(found.trials) == 2 and (found.trials["reason"] == "").any()
        assert found.file_bytes > 0
        digests = found.data_set.protocol["annotations"].values()
        assert digests and all(digest[:12] in in_words(found) for digest in digests)
