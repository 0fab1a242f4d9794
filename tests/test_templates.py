"""Prompt templates: one rule at every place where they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from data_prep.datasets import load
from fitclip_core import zero_shot
from fitclip_kit.engine.sources import read_sources
from fitclip_kit.slider.own_videos import OwnVideos
from tests.tiny_clip import RandomClips, tiny_encoder

REFUSED = ["", "a video", "{", "}", "{}{}", "{name}", "{name} {}", "{{}}", "{ }", "{} {", "}{}"]
ACCEPTED = ["{}", "a video of {}.", "{}, 100% (sure)"]
CLIPS = pd.DataFrame(
    {"clip_id": ["clip0", "clip1"], "path": ["x.mp4", "y.mp4"], "label": ["a", "b"]}
)


def by_evaluate(template: str, _: Path) -> None:
    zero_shot.evaluate(tiny_encoder(0), CLIPS, RandomClips(2), templates=[template])


def by_prepare(template: str, _: Path) -> None:
    """Before anything is encoded."""
    zero_shot.prepare(CLIPS, RandomClips(2), templates=[template])


def by_the_encoder(template: str, _: Path) -> None:
    tiny_encoder(0).encode_classes(["a", "b"], [template])


def by_the_folder_loader(template: str, folder: Path) -> None:
    CLIPS.to_csv(folder / "clips.csv", index=False)
    load("folder", folder, prompt=template)


def by_a_sources_file(template: str, folder: Path) -> None:
    content = f"""\
data_sets:
  mine: {{loader: folder, root: x, prompt: "{template}"}}
models: {{teacher: {{file: x.pt}}}}
"""
    (folder / "sources.yaml").write_text(content)
    read_sources(folder / "sources.yaml")


def by_the_slider(template: str, _: Path) -> None:
    OwnVideos(None, pd.DataFrame()).with_texts("a\nb", [template])


WAYS = [
    by_evaluate,
    by_prepare,
    by_the_encoder,
    by_the_folder_loader,
    by_a_sources_file,
    by_the_slider,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("template", REFUSED)
def test_stray_braces_are_refused_in_the_same_words(
    tmp_path: Path, way: Callable[[str, Path], None], template: str
) -> None:
    with pytest.raises(ValueError) as caught:
        way(template, tmp_path)
    reason = f"template {template!r} must hold {{}} once, for the class name, and no other brace"
    assert str(caught.value).endswith(reason)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("template", ACCEPTED)
def test_the_others_pass(tmp_path: Path, way: Callable[[str, Path], None], template: str) -> None:
    way(template, tmp_path)


def test_a_text_is_no_list_of_templates() -> None:
    with pytest.raises(ValueError, match=r"templates are the text 'a \{\}'; give a list of texts"):
        tiny_encoder(0).encode_classes(["a"], "a {}")
