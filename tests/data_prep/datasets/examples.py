"""Small annotations of every data set: each place where a name becomes a path, with a good name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_prep.datasets import load

Files = dict[str, bytes]


class Example(NamedTuple):
    loader: str
    options: dict[str, Any]
    name: str
    files: Callable[[str], Files]


def as_bytes(text: str) -> bytes:
    """UTF-8; half a letter, which has none, as a bad program writes it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def as_json(content: Any) -> bytes:
    """With a lone surrogate as JSON can hold it."""
    return json.dumps(content).encode()


def as_table(*rows: tuple[str, ...]) -> bytes:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    return as_bytes("\n".join([*quoted, ""]))


def msrvtt(name: str) -> Files:
    caption = {"image_id": name, "caption": "x"}
    files = {"MSR_VTT.json": as_json({"images": [], "annotations": [caption]})}
    return files | {"val_list_jsfusion.txt": as_bytes(name)}


def didemo(name: str) -> Files:
    return {"val_data.json": as_json([{"video": name, "description": "x"}])}


def youcook2(name: str, recipe: str = "226") -> Files:
    header = ("end", "start", "task", "text", "video_id")
    return {"validation_youcook.csv": as_table(header, ("1", "0", recipe, "x", name))}


def youcook2_official(name: str) -> Files:
    step = {"segment": [0, 1], "sentence": "x"}
    record = {"subset": "validation", "recipe_type": "1", "annotations": [step]}
    return {"youcookii_annotations_trainval.json": as_json({"database": {name: record}})}


def coco(name: str) -> Files:
    content = {"images": [{"id": 1, "file_name": name}]}
    content["annotations"] = [{"image_id": 1, "caption": "x"}]
    return {"captions_val2017.json": as_json(content)}


def ucf101(name: str) -> Files:
    entry = f"{name}/v_{name}_g01_c01.avi"
    return {"classInd.txt": as_bytes(f"1 {name}"), "testlist01.txt": as_bytes(entry)}


def moments(name: str) -> Files:
    rows = {"validationSet.csv": as_table((f"x/{name}", "x", "1", "0"))}
    return rows | {"moments_categories.txt": b"x,0\n"}


def webvid(name: str, page: str = "1_2") -> Files:
    rows = (("videoid", "name", "page_dir"), (name, "x", page))
    return {"results_2M_val.csv": as_table(*rows)}


def sentences(name: str) -> Files:
    return {"MSRVTT_JSFUSION_test.csv": as_table(("video_id", "sentence"), (name, "x"))}


def hashes(name: str) -> Files:
    return didemo("1_2_3.mp4") | {"yfcc100m_hash.txt": as_bytes(f"2\t{name}")}


EXAMPLES = {
    "msrvtt": Example("msrvtt", {}, "video1", msrvtt),
    "msrvtt_table": Example("msrvtt", {"captions": "jsfusion"}, "video1", sentences),
    "didemo": Example("didemo", {}, "1@N0_2_3.mp4", didemo),
    "didemo_id": Example("didemo", {}, "22", lambda name: didemo(f"1_{name}_1")),
    "didemo_hash": Example("didemo", {}, "abcdef01", hashes),
    "youcook2": Example("youcook2", {}, "-a_b", youcook2),
    "youcook2_recipe": Example("youcook2", {}, "113", lambda name: youcook2("abc", name)),
    "youcook2_official": Example("youcook2", {"annotation": "official"}, "a", youcook2_official),
    "ucf101": Example("ucf101", {}, "Archery", ucf101),
    "moments_in_time": Example("moments_in_time", {}, "a.mp4", moments),
    "webvid": Example("webvid", {}, "12", webvid),
    "webvid_page": Example("webvid", {}, "1_50", lambda name: webvid("1", name)),
    "cc3m": Example(
        "cc3m", {}, "a.jpg", lambda name: {"gcc3m_val_merge.csv": as_table(("x", "y", name))}
    ),
    "coco": Example("coco", {}, "a.jpg", coco),
    "folder": Example(
        "folder", {}, "a.mp4", lambda name: {"clips.csv": as_table(("path", "text"), (name, "x"))}
    ),
}


def lay(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files under a root, which is returned."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def touch(root: Path, *paths: str) -> None:
    lay(root, dict.fromkeys(paths, b""))


def check_refused(
    root: Path, files: Mapping[str, str | bytes], message: str, loader: str, **options: Any
) -> None:
    """Files are refused with a message that names one of them."""
    with pytest.raises(ValueError, match=message) as caught:
        load(loader, lay(root, files), **options)
    assert any(Path(name).name in str(caught.value) for name in files) or "usable" in message
