"""Names from annotation files and uploads lead nowhere but below their root.

Every loader is given every hostile name. What a name may lead to is judged by the system itself
(`realpath`) and, for Windows, by pathlib; the loaders' own tests say which message a name gets.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.damaged_videos import write_video
from data_prep import datasets, frame_store, video
from data_prep.clip_frames import ClipRequest, FrameRule
from data_prep.clips import read_clips, validate, write_clips
from data_prep.datasets.base import DataSet
from data_prep.datasets.layout import scan
from data_prep.decode_workers import Failure
from fitclip_kit.slider import own_videos
from tests.data_prep.datasets.examples import EXAMPLES, as_table, lay

OUTSIDE = "outside/secret"  # beside the root; each name means it, or a file of the system
HOSTILE = {
    "up": f"../{OUTSIDE}.mp4",
    "deep_up": f"a/b/../../../{OUTSIDE}.mp4",
    "only_up": "..",
    "absolute": "/etc/passwd",
    "twice_absolute": "//etc/passwd",
    "share": "//host/share/a.mp4",
    "windows_share": "\\\\host\\share\\a.mp4",
    "windows_up": f"..\\{OUTSIDE}.mp4",
    "mixed_up": f"a\\..\\../{OUTSIDE}.mp4",
    "drive": "C:/Windows/a.mp4",
    "drive_relative": "C:a.mp4",
    "device": "/dev/zero",
    "home": "~/a.mp4",
    "variable": "$HOME/a.mp4",
    "address": "http://localhost:9/a.mp4",
    "file_address": "file:///etc/passwd",
    "command": "concat:/etc/passwd|/etc/hosts",
    "nul": f"a\0/../../{OUTSIDE}.mp4",
    "surrogate": "\ud800.mp4",
    "undecodable": "\udcff.mp4",
    "line_end": f"a\n../{OUTSIDE}.mp4",
    "division_slash": f"..\u2215{OUTSIDE}.mp4",
    "full_width": "\uff0e\uff0e\uff0foutside\uff0fsecret.mp4",
    "one_dot_leaders": f"\u2024\u2024/{OUTSIDE}.mp4",  # ".." to whoever normalises to NFKC
    "reversed": "\u202e4pm.a",
    "invisible": f"..\u200b/{OUTSIDE}.mp4",
    "long": "a" * 300 + ".mp4",
    "very_long": "a/" * 3000 + "a.mp4",
    "dot": ".",
    "option": "-rf",
    "blank": "   ",
    "braces": "{0.__class__}.mp4",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with something beside it that is worth stealing."""
    (tmp_path / "outside").mkdir()
    for suffix in ("", ".mp4", ".avi", ".jpg"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{OUTSIDE}{suffix}", "PNG")
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("attack", HOSTILE)
def test_names_in_annotations_lead_nowhere_else(root: Path, example: str, attack: str) -> None:
    loader, options, _, files = EXAMPLES[example]
    lay(root, files(HOSTILE[attack]))
    try:
        data = datasets.load(loader, root, **options)
    except ValueError:
        return
    stays_inside(data)


def stays_inside(data: DataSet) -> None:
    """No path leads out of the root on any system, and none was found, as no video is there."""
    inside = os.path.realpath(data.root)
    for path in data.clips["path"]:
        joined = os.path.realpath(data.root / path)
        assert joined == inside or joined.startswith(f"{inside}{os.sep}"), path
        windows = PureWindowsPath("C:/root", path)
        assert windows.parts[:2] == ("C:\\", "root") and ".." not in windows.parts, path
    assert data.missing["path"].tolist() == data.clips["path"].tolist()


# What a table may hold


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_clips_table_holds_no_way_out(tmp_path: Path, attack: str) -> None:
    try:
        clips = pd.DataFrame({"clip_id": ["one"], "path": [HOSTILE[attack]], "text": ["x"]})
        write_clips(tmp_path / "clips.csv", validate(clips))
    except ValueError:
        return
    back = read_clips(tmp_path / "clips.csv")
    assert back["path"].tolist() == [HOSTILE[attack]]
    stays_inside(DataSet("x", tmp_path, back, back[["clip_id", "path"]], back, 1))


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\x1e", "\u2028", "\x85"])
def test_a_caption_makes_no_row_of_its_own(tmp_path: Path, end: str) -> None:
    row = f'x{end}two,b.mp4,,,"y"{end}'
    clip = {"clip_id": "one", "path": "a.mp4", "text": row, "label": end + "z"}
    write_clips(tmp_path / "clips.csv", pd.DataFrame([clip]))
    back = read_clips(tmp_path / "clips.csv")
    assert back[list(clip)].to_dict("records") == [clip]


# What lies in the root


@pytest.fixture
def odd(root: Path) -> Path:
    """A root with a good clip and things that are no ordinary file, all called videos."""
    Image.new("RGB", (8, 8), "green").save(root / "good.png")
    os.mkfifo(root / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(root):
        listening.bind("socket.mp4")  # a socket's path must be short
    (root / "folder.mp4").mkdir()
    (root / "zero.mp4").symlink_to("/dev/zero")
    (root / "terminal.mp4").symlink_to("/dev/stdin")
    (root / "itself.mp4").symlink_to("itself.mp4")
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    return root


ODD = ("pipe", "socket", "folder", "zero", "terminal", "itself", "gone")


def test_pipes_devices_and_loops_are_no_files(odd: Path) -> None:
    """A pipe without a writer and a terminal would be waited for, and zeros have no end."""
    assert scan(odd) == {"good.png"}
    rows = [("path", "text"), ("good.png", "x"), *((f"{name}.mp4", name) for name in ODD)]
    lay(odd, {"clips.csv": as_table(*rows)})
    data = datasets.load("folder", odd)
    assert data.missing["path"].tolist() == [f"{name}.mp4" for name in ODD]
    annotation = odd / "MSR_VTT.json"
    for name in ODD:
        with pytest.raises(ValueError, match=r"no table of clips under .*; looked for"):
            datasets.load("folder", odd, table=f"{name}.mp4")
        annotation.symlink_to(odd / f"{name}.mp4")
        with pytest.raises(ValueError, match="no captions of MSR-VTT"):
            datasets.load("msrvtt", odd)
        annotation.unlink()


def test_links_of_the_users_own_are_followed(root: Path) -> None:
    """On purpose, as large sets lie on other disks: an annotation cannot make a link."""
    (root / "linked.mp4").symlink_to(root.parent / f"{OUTSIDE}.mp4")
    data = datasets.load("folder", lay(root, {"clips.csv": b"path,text\nlinked.mp4,x\n"}))
    assert data.missing.empty


# What a file may open

PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{path}\n#EXT-X-ENDLIST\n",
    "hls_address": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{path}'\n",
    "concat_beside": "ffconcat version 1.0\nfile beside.ts\n",
    "list": "#EXTM3U\n{path}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" '
    'codecs="mp4v.20.1"><BaseURL>file://{path}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
}


@pytest.mark.parametrize("called", ["list.mp4", "list.m3u8", "list.mpd", "list.ts"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_video_opens_no_other_file(
    root: Path, kind: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(root / "beside.ts", "libx264", 4)
    outside = write_video(root.parent / "outside" / "film.ts", "libx264", 4)
    assert video.decode(outside, first, 8, "pyav").frames.shape == (1, 8, 8, 3)
    (root / called).write_text(PLAYLISTS[kind].format(path=outside))
    with pytest.raises(video.DecodeError):
        video.decode(root / called, first, 8, "pyav")
    # FFmpeg would take file:/x/y.ts, below a root called ".", for the file /x/y.ts.
    monkeypatch.chdir(root)
    with pytest.raises(video.DecodeError, match="cannot be opened"):
        video.decode(Path(f"file:{outside}"), first, 8, "pyav")


def first(times: np.ndarray) -> np.ndarray:
    return np.zeros(1, np.int64)


def test_a_store_opens_no_pipe_or_device_and_bears_long_names(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(_: Any, requests: list[ClipRequest], **__: Any) -> Iterator[tuple[int, Failure]]:
        for number, request in enumerate(requests):
            asked.append(request.path.name)
            yield number, Failure("was asked for")

    monkeypatch.setattr(frame_store, "killable_map", refuse)
    paths = ["good.png", *(f"{name}.mp4" for name in ODD), "a" * 300 + ".mp4", "a/" * 3000 + "a"]
    clips = pd.DataFrame({"clip_id": [str(place) for place in range(len(paths))], "path": paths})
    rule = FrameRule(n_frames=1, size=8)
    store = frame_store.build(clips, odd, tmp_path / "store", rule, progress=False)
    expected = ["was asked for", *["no such file"] * (len(paths) - 1)]
    assert store.failures["reason"].tolist() == expected and asked == ["good.png"]


# Own videos


@pytest.mark.parametrize("attack", [*HOSTILE, "suffix"])
def test_an_uploads_name_is_no_path(
    root: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def decoded(intake: own_videos._Intake, folder: Path, *_: object) -> own_videos.OwnVideos:
        taken.extend(folder / path for _, path in intake.rows)
        failures = pd.DataFrame(intake.failures, columns=["path", "reason"])
        return own_videos.OwnVideos(None, failures)

    monkeypatch.setattr(own_videos, "_decoded", decoded)
    name = {**HOSTILE, "suffix": "a.mp4/../../x.mp4"}[attack]
    before = {path for path in root.parent.rglob("*") if path.is_file()}
    content = b"an uploaded video"
    own = own_videos.from_uploads([(f"{name}.mp4", content)], None, root / "work")  # type: ignore[arg-type]
    made = {path for path in root.parent.rglob("*") if path.is_file()} - before
    assert made == set(taken) and all(path.parent == root / "work" / "uploads" for path in made)
    assert all(path.read_bytes() == content for path in made)
    assert len(made) + len(own.failures) == 1
    assert all(one.isprintable() for one in own.failures["path"])


def test_a_home_that_is_nobodys_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder that can be read"):
        own_videos.from_folder("~no_such_user/videos", None, tmp_path)  # type: ignore[arg-type]
