"""WebVid's loader: both column orders, both layouts, captions as they come, broken tables."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import check_refused, lay, touch

ORDERS = {
    "a": ["videoid", "contentUrl", "duration", "page_dir", "name"],
    "b": ["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"],
}
ROWS = {
    "1000000001": ("027701_027750", "A red kite, flown over a beach at dusk"),
    "31000002": ("000001_000050", 'Cat "asleep"; on\na keyboard'),
    "2000003": ("100451_100500", "C" * 400),
}


def table(order: str = "a", rows: dict[str, tuple[str, str]] = ROWS) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(ORDERS[order])
    for video, (page, caption) in rows.items():
        cells = {"videoid": video, "page_dir": page, "name": caption, "duration": "PT00H00M17S"}
        writer.writerow([cells.get(name, "4") for name in ORDERS[order]])
    return buffer.getvalue().encode()


def write(root: Path, content: bytes = table(), name: str = "results_2M_val.csv") -> Path:
    return lay(root, {name: content})


def touch_videos(root: Path, folder: str, by_page: bool, videos: Sequence[str]) -> None:
    pages = {video: f"{ROWS[video][0]}/" if by_page else "" for video in videos}
    touch(root / folder, *(f"{page}{video}.mp4" for video, page in pages.items()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("place", ["results_2M_val.csv", "metadata/results_2M_val.csv"])
def test_both_column_orders(tmp_path: Path, order: str, place: str) -> None:
    data = load("webvid", write(tmp_path, table(order), place))
    assert data.clips["clip_id"].tolist() == list(ROWS)
    assert data.clips["text"].tolist() == [caption for _, caption in ROWS.values()]
    assert (data.annotated, len(data.missing), data.classes, data.templates) == (3, 3, (), ())
    assert data.protocol["captions"] == "each video's one caption, whole"


FOLDERS = {
    "val": ["videos_low_resolution/val/val_lowres", "val/val_lowres", "videos/val", "val"],
    "train": ["videos_low_resolution/train/webvid_lowres", "train/webvid_lowres", "videos/train"],
}


@pytest.mark.parametrize("by_page", [True, False], ids=["by_page", "flat"])
@pytest.mark.parametrize(
    ("split", "folder"),
    [(split, folder) for split in FOLDERS for folder in [*FOLDERS[split], "videos", "."]],
)
def test_both_layouts_in_every_place(
    tmp_path: Path, split: str, folder: str, by_page: bool
) -> None:
    write(tmp_path, name=f"results_2M_{split}.csv")
    touch_videos(tmp_path, folder, by_page, list(ROWS)[:2])
    other = "train" if split == "val" else "val"
    touch_videos(tmp_path, f"videos_low_resolution/{other}", not by_page, list(ROWS)[:1])
    data = load("webvid", tmp_path, split=split)
    prefix = "" if folder == "." else f"{folder}/"
    assert data.clips["path"].tolist() == [
        f"{prefix}{f'{page}/' if by_page else ''}{video}.mp4" for video, (page, _) in ROWS.items()
    ]
    assert data.missing["clip_id"].tolist() == list(ROWS)[2:]
    layout = f"{prefix}{'{page_dir}/' if by_page else ''}{{videoid}}.mp4"
    assert data.protocol["layout"] == layout


def test_the_layout_with_most_videos_is_taken(tmp_path: Path) -> None:
    rows = {f"{k}": ("000001_000050", "x") for k in range(10)}
    write(tmp_path, table(rows=rows))
    touch(tmp_path, "val/0.mp4", *(f"videos/{k}.mp4" for k in (1, 2, 3)), "videos/val/4.mp4")
    data = load("webvid", tmp_path)
    assert data.protocol["layout"] == "videos/{videoid}.mp4"
    assert len(data.missing) == 7
    # Half of them in an earlier folder are not enough.
    touch(tmp_path / "videos", *(f"val/{k}.mp4" for k in range(5)))
    touch(tmp_path / "videos", *(f"{k}.mp4" for k in range(4, 10)))
    data = load("webvid", tmp_path)
    assert (data.protocol["layout"], len(data.missing)) == ("videos/{videoid}.mp4", 1)


def test_a_table_without_page_dir(tmp_path: Path) -> None:
    data = load("webvid", write(tmp_path, b"videoid,name\n5,A cat\n"))
    assert data.missing["path"].tolist() == ["5.mp4"]


def test_rows_without_a_caption_are_listed(tmp_path: Path) -> None:
    rows = {**ROWS, "7": ("000001_000050", ""), "8": ("000001_000050", " \n")}
    data = load("webvid", write(tmp_path, table(rows=rows)))
    assert (len(data.clips), data.annotated) == (3, 5)
    assert data.dropped.values.tolist() == [
        [video, "it has no caption", "results_2M_val.csv"] for video in ("7", "8")
    ]


def test_ids_and_captions_stay_texts(tmp_path: Path) -> None:
    rows = {"0012": ("000001_000050", "NA"), "12": ("000001_000050", "null"), "1": ("1_2", "1.50")}
    data = load("webvid", write(tmp_path, table(rows=rows)))
    assert data.clips["clip_id"].tolist() == ["0012", "12", "1"]
    assert data.clips["text"].tolist() == ["NA", "null", "1.50"]


def with_id(video: str) -> bytes:
    return table(rows={**ROWS, video: ("000001_000050", "x")})


REFUSED = [
    (table() + b"31000002,4,4,1_2,again\n", "videoid '31000002' is there 2 times"),
    (with_id("../31"), r"line 6: '\.\./31' is no videoid"),
    (with_id("1.0e9"), "line 6: '1.0e9' is no videoid"),
    (with_id(""), "line 6: '' is no videoid"),
    (table(rows={"1": ("1_5", "x"), "2": ("../secret", "y")}), r"3: '\.\./secret' is no page_dir"),
    (table(rows={"1": ("", "x")}), "line 2: '' is no page_dir"),
    (table(rows={"1": ("1_2", "")}), "webvid: the annotation .* no usable row"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_broken_tables_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    check_refused(tmp_path, {"results_2M_val.csv": content}, message, "webvid")


def test_the_real_column_orders_are_one_table(realdata: Path, tmp_path: Path) -> None:
    files = [realdata / f"webvid/results_2M_val.layout_{name}.csv" for name in "ab"]
    first, second = (
        load("webvid", write(tmp_path / file.stem, file.read_bytes())) for file in files
    )
    assert first.clips.equals(second.clips)
    assert len(first.clips) == 3
    assert first.clips["text"].iloc[2].count('"') == 2
    pages = [path.split("/")[-2] for path in first.clips["path"]]
    assert pages == ["027701_027750", "000001_000050", "100451_100500"]
