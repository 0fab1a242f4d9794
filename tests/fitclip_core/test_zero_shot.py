"""evaluate() against ranks counted by hand, with a model whose features are given."""

import numpy as np
import pandas as pd
import pytest
import torch

from fitclip_core.encoders import ClipEncoder
from fitclip_core.zero_shot import evaluate, prepare, rank, text_side, video_side


class GivenFeatures(torch.nn.Module):
    """Its features: of a picture, the mean of each channel; of a text, one vector a letter."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        counts = torch.stack([(tokens == ord(c)).sum(1) for c in "rgb"], 1).float()
        return counts + 1e-9


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text.ljust(8)[:8]] for text in texts])


ENCODER = ClipEncoder(
    GivenFeatures(), letters, image_size=2, mean=(0, 0, 0), std=(1, 1, 1), name="given"
)


CLIPS = {
    "red": ("r", "r"),
    "purple": ("rrb", "rb"),
    "green": ("g", "ggr"),
    "blue": ("b", "b"),
    "grey": ("rgb", "rrggbb"),
}


class Colours:
    """A source of two-frame clips, each frame of one colour given as letters of rgb.

    As a frame store it counts what is read, and with `ids` a clip is known by several of them.
    """

    def __init__(
        self, ids: dict[str, list[str]] | None = None, /, **clips: tuple[str, str]
    ) -> None:
        self.clip_ids = list(clips)
        self.frame_counts = np.full(len(clips), 2)
        colours = [[[60 * frame.count(c) for c in "rgb"] for frame in f] for f in clips.values()]
        self.data = np.array(colours, np.uint8)[:, :, None, None].repeat(2, 2).repeat(2, 3)
        self.read: list[int] = []
        if ids is not None:
            names = {name: [name, *ids.get(name, [])] for name in clips}
            self.places = {one: self.clip_ids.index(name) for name in clips for one in names[name]}

    def frames(self, indices: np.ndarray) -> np.ndarray:
        self.read += indices.tolist()
        return self.data[indices]


SOURCE = Colours(**CLIPS)
IDS = {"red": ["red2", "red3"], "green": ["green2"]}


def table(**texts: str | None) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": list(texts), "text": list(texts.values())})


def slow_feature(letter_groups: tuple[str, ...]) -> np.ndarray:
    vectors = [np.array([group.count(c) for c in "rgb"], float) for group in letter_groups]
    return sum(v / np.linalg.norm(v) for v in vectors) / len(vectors)


def slow_rank(scores: list[float], right: int) -> float:
    others = [s for i, s in enumerate(scores) if i != right]
    above = sum(s > scores[right] + 1e-6 for s in others)
    return 1 + above + sum(abs(s - scores[right]) <= 1e-6 for s in others) / 2


TEXTS = {"red": "r", "purple": "b", "green": "gr", "blue": "b", "grey": "r"}


def test_a_trial_serves_several_models_and_lists_clips_without_frames() -> None:
    clips = table(red="r", lost="b", green="g", blue="r")
    trial = prepare(clips, SOURCE)
    assert trial.task == "retrieval"
    assert trial.coverage == {"clips": 4, "measured": 3, "missing": ["lost"]}
    videos, texts = video_side(ENCODER, trial), text_side(ENCODER, trial)
    assert videos.shape == texts.shape == (3, 3)
    outcomes = rank(trial, videos, texts)
    pd.testing.assert_frame_equal(outcomes, evaluate(ENCODER, clips, SOURCE))
    pd.testing.assert_frame_equal(outcomes, evaluate(ENCODER, clips.drop(1), SOURCE))
    swapped = rank(trial, videos.flip(0), texts)["rank"]  # the red clip's features and the blue's
    assert swapped.tolist() == [3, 1, 1, 2, 1, 1.5]
    with pytest.raises(ValueError, match="2 video features for 3 rows"):
        rank(trial, videos[:2], texts)
    with pytest.raises(ValueError, match="NaN"):
        rank(trial, videos * float("nan"), texts)


# clip_id -> path, start, text; red has three captions, two of them the same, and so has a segment.
SEVERAL = {
    "red": ("a.mp4", np.nan, "r"),
    "purple": ("b.mp4", 1.0, "b"),
    "red2": ("a.mp4", np.nan, "rb"),
    "green": ("b.mp4", 2.0, "gr"),
    "blue": ("c.mp4", np.nan, "b"),
    "red3": ("a.mp4", np.nan, "r"),
    "green2": ("b.mp4", 2.0, "rgb"),
    "grey": ("d.mp4", np.nan, "r"),
}
VIDEO = ["red", "purple", "red", "green", "blue", "red", "green", "grey"]


def several() -> pd.DataFrame:
    clips = pd.DataFrame.from_dict(SEVERAL, orient="index", columns=["path", "start", "text"])
    return clips.assign(end=np.nan).reset_index(names="clip_id")


def slow_several(rows: list[int]) -> list[float]:
    """Text-to-video of each of the rows of `SEVERAL`, then video-to-text of each video."""
    names = [VIDEO[row] for row in rows]
    videos = {name: slow_feature(CLIPS[name]) for name in dict.fromkeys(names)}
    texts = [slow_feature((list(SEVERAL.values())[row][2],)) for row in rows]
    ranks = []
    for text, name in zip(texts, names, strict=True):
        scores = [video @ text for video in videos.values()]
        ranks.append(slow_rank(scores, list(videos).index(name)))
    for name, video in videos.items():
        others = [video @ text for text, of in zip(texts, names, strict=True) if of != name]
        own = [video @ text for text, of in zip(texts, names, strict=True) if of == name]
        ranks.append(min(slow_rank([one, *others], 0) for one in own))
    return ranks


@pytest.mark.parametrize("without", [[], [0], [2, 4], [1, 7], [0, 2, 5]])
def test_rows_of_one_video_are_its_texts(without: list[int]) -> None:
    rows = [row for row in range(8) if row not in without]
    source = Colours(IDS, **CLIPS)
    outcomes = evaluate(ENCODER, several().iloc[rows], source)
    expected = slow_several(rows)
    assert outcomes["rank"].tolist() == expected
    assert not without or expected != slow_several(list(range(8)))
    names = [list(SEVERAL)[row] for row in rows]
    firsts = [
        name
        for place, name in enumerate(names)
        if VIDEO[rows[place]] not in [VIDEO[row] for row in rows[:place]]
    ]
    assert outcomes["item"].tolist() == [*names, *firsts]
    assert len(source.read) == len(set(source.read)) == len(firsts), "each video is encoded once"
    directions = ["text_to_video"] * len(names) + ["video_to_text"] * len(firsts)
    assert outcomes["direction"].tolist() == directions
    assert outcomes.columns.tolist() == ["item", "direction", "rank", "label", "predicted"]
    assert outcomes["rank"].dtype == np.float64
    assert outcomes[["label", "predicted"]].isna().all(axis=None)
    coverage = {"clips": len(rows), "measured": len(rows), "missing": []}
    more = {"videos": len(firsts), "videos_measured": len(firsts)}
    assert outcomes.attrs["coverage"] == coverage | (more if len(firsts) < len(rows) else {})


def test_a_source_of_one_entry_a_row_gives_the_same() -> None:
    copies = {name: CLIPS[of] for name, of in zip(SEVERAL, VIDEO, strict=True)}
    found = evaluate(ENCODER, several(), Colours(**copies))
    assert found["rank"].tolist() == slow_several(list(range(8)))
    only_first = evaluate(ENCODER, several(), Colours(**CLIPS))
    pd.testing.assert_frame_equal(only_first, found)
    nameless = several().drop(columns=["path", "start", "end"])
    source = Colours(IDS, **CLIPS)
    of_source = evaluate(ENCODER, nameless, source)
    pd.testing.assert_frame_equal(of_source, found)
    assert of_source.attrs == found.attrs


def test_a_video_without_frames_leaves_out_all_its_texts() -> None:
    source = Colours(**{name: CLIPS[name] for name in ("purple", "green", "blue", "grey")})
    outcomes = evaluate(ENCODER, several(), source)
    assert outcomes["rank"].tolist() == slow_several([1, 3, 4, 6, 7])
    assert outcomes.attrs["coverage"] == {
        "clips": 8,
        "measured": 5,
        "missing": ["red", "red2", "red3"],
        "videos": 5,
        "videos_measured": 4,
    }


def test_a_label_given_twice_for_a_video_counts_once() -> None:
    labels = ["r", "b", "r", "g", "b", "r", "g", "r"]
    clips = several().drop(columns="text").assign(label=labels)
    once = evaluate(ENCODER, clips.iloc[[0, 1, 3, 4, 7]], Colours(**CLIPS), templates=["{}"])
    twice = evaluate(ENCODER, clips, Colours(**CLIPS), templates=["{}"])
    pd.testing.assert_frame_equal(twice, once)
    assert len(twice) == 5
    assert twice.attrs["coverage"] == {"clips": 5, "measured": 5, "missing": [], "rows": 8}
    fewer = Colours(blue=CLIPS["blue"], green=CLIPS["green"])
    coverage = evaluate(ENCODER, clips, fewer, templates=["{}"]).attrs["coverage"]
    assert coverage == {"clips": 5, "measured": 2, "missing": ["red", "purple", "grey"], "rows": 8}
    clips.loc[2, "label"] = "b"
    with pytest.raises(ValueError, match=r"'red' and 'red2' are one video .* 'r' and 'b'"):
        evaluate(ENCODER, clips, Colours(**CLIPS), templates=["{}"])


def labelled(**labels: str) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": list(labels), "label": list(labels.values())})


@pytest.mark.parametrize("classes", [None, ["rb", "g", "gb", "r", "b", "rgb"]])
def test_classification_ranks_and_predictions(classes: list[str] | None) -> None:
    clips = labelled(blue="b", red="r", purple="rb", green="r", lost="g")
    prompts = ["{}", "rg {}"]
    outcomes = evaluate(ENCODER, clips, SOURCE, classes=classes, templates=prompts)
    ranked = classes or ["b", "g", "r", "rb"]  # "g" has no decoded clip, but is a class
    means = {c: (slow_feature((c,)) + slow_feature(("rg" + c,))) / 2 for c in ranked}
    for row in outcomes.to_dict("records"):
        scores = [slow_feature(CLIPS[row["item"]]) @ mean for mean in means.values()]
        assert row["rank"] == slow_rank(scores, ranked.index(row["label"]))
        assert row["predicted"] == ranked[int(np.argmax(scores))]
    assert outcomes["label"].tolist() == ["b", "r", "rb", "r"]
    assert set(outcomes["direction"]) == {"classification"}
    assert outcomes["rank"].max() > 1
    assert outcomes.attrs["coverage"]["missing"] == ["lost"]
    turned = evaluate(ENCODER, clips, SOURCE, classes=ranked[::-1], templates=prompts)
    pd.testing.assert_frame_equal(outcomes, turned)


def test_tied_classes_are_predicted_in_alphabetical_order() -> None:
    for classes in (["r", "rr", "rrr"], ["rrr", "r", "rr"]):
        outcome = evaluate(ENCODER, labelled(red="rr"), SOURCE, templates=["{}"], classes=classes)
        assert outcome["rank"].tolist() == [2]  # three equal features share the mid-rank
        assert outcome["predicted"].tolist() == ["r"]


def test_renormalising_lengthens_the_mean_of_unlike_frames() -> None:
    source = Colours(alike=("rrg", "rrg"), unlike=("r", "g"))
    clips = table(alike="b", unlike="rg")
    # Against "rg": alike has cosine 3 / sqrt(10) = 0.95; unlike has 0.71 as a mean of unit
    # vectors, and 1 once that mean is renormalised.
    assert evaluate(ENCODER, clips, source)["rank"].tolist()[1] == 2
    assert evaluate(ENCODER, clips, source, renormalise=True)["rank"].tolist()[1] == 1


def test_renormalising_lengthens_the_mean_of_unlike_prompts() -> None:
    # Against the mean of "r" and "bbbr" the clip has 0.80, against that of "rgb" and "bbbrgb"
    # 0.85; divided by the means' lengths it is the other way round.
    source, clips = Colours(clip=("rrrrgbbb", "rrrrgbbb")), labelled(clip="r", lost="rgb")
    for renormalise, predicted in ((False, "rgb"), (True, "r")):
        outcome = evaluate(
            ENCODER, clips, source, templates=["{}", "bbb{}"], renormalise=renormalise
        )
        assert outcome["predicted"].tolist() == [predicted]


ALL = labelled(red="r", blue="b", green="g")
BOTH = table(red="r", blue="b").assign(label=["r", "b"])


def test_task_is_decided_by_the_filled_column() -> None:
    assert len(evaluate(ENCODER, BOTH, SOURCE, task="retrieval")) == 4
    assert len(evaluate(ENCODER, BOTH, SOURCE, task="classification", templates=["{}"])) == 2
    assert len(evaluate(ENCODER, BOTH.assign(label=np.nan), SOURCE)) == 4


@pytest.mark.parametrize(
    ("clips", "options", "problem"),
    [
        (BOTH, {}, "both texts and labels"),
        (BOTH[["clip_id"]], {}, "neither text nor label"),
        (table(red="r"), {"task": "ranking"}, "task is 'ranking'"),
        (table(red="r"), {"task": "classification"}, "lacks"),
        (table(red="r").drop(columns="clip_id"), {}, "'clip_id', which the clips table lacks"),
        (table(red="r", blue=None), {}, "1 clips have no text, the first is 'blue'"),
        (table(red="r"), {"templates": ["{}"]}, "leave templates and classes out"),
        (labelled(red="r"), {}, "needs a list of prompt templates"),
        (labelled(red="r"), {"templates": ["{} {}"]}, "'{} {}' must hold"),
        (table(red="r"), {"classes": ["r"]}, "leave templates and classes out"),
        (ALL, {"templates": ["{}"], "classes": ["r", "x"]}, "2 labels are not .* is 'b'"),
        (ALL, {"templates": ["{}"], "classes": []}, "not among the 0 classes"),
        (ALL, {"templates": ["{}"], "classes": ["r", "b", "r"]}, "class 'r' is given 2 times"),
        (pd.concat([table(red="r")] * 2), {}, "'red' appears 2 times"),
        (table(lost="r"), {}, "none of the 1 clips"),
    ],
)
def test_unclear_requests_are_refused(clips: pd.DataFrame, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        evaluate(ENCODER, clips, SOURCE, **options)
