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


class Colours:
    """A source of two-frame clips, each frame of one colour given as letters of rgb."""

    def __init__(self, **clips: tuple[str, str]) -> None:
        self.clip_ids = list(clips)
        self.frame_counts = np.full(len(clips), 2)
        colours = [[[60 * frame.count(c) for c in "rgb"] for frame in f] for f in clips.values()]
        self.data = np.array(colours, np.uint8)[:, :, None, None].repeat(2, 2).repeat(2, 3)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.data[indices]


SOURCE = Colours(
    red=("r", "r"),
    purple=("rrb", "rb"),
    green=("g", "ggr"),
    blue=("b", "b"),
    grey=("rgb", "rrggbb"),
)


def table(**texts: str) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": list(texts), "text": list(texts.values())})


def slow_feature(letter_groups: tuple[str, ...]) -> np.ndarray:
    vectors = [np.array([group.count(c) for c in "rgb"], float) for group in letter_groups]
    return sum(v / np.linalg.norm(v) for v in vectors) / len(vectors)


def slow_rank(scores: list[float], right: int) -> float:
    others = [s for i, s in enumerate(scores) if i != right]
    above = sum(s > scores[right] + 1e-6 for s in others)
    return 1 + above + sum(abs(s - scores[right]) <= 1e-6 for s in others) / 2


CLIPS = {
    "red": ("r", "r"),
    "purple": ("rrb", "rb"),
    "green": ("g", "ggr"),
    "blue": ("b", "b"),
    "grey": ("rgb", "rrggbb"),
}
TEXTS = {"red": "r", "purple": "b", "green": "gr", "blue": "b", "grey": "r"}


def test_retrieval_ranks_in_both_directions() -> None:
    outcomes = evaluate(ENCODER, table(**TEXTS), SOURCE)
    videos = [slow_feature(frames) for frames in CLIPS.values()]
    texts = [slow_feature((text,)) for text in TEXTS.values()]
    scores = np.array([[v @ t for t in texts] for v in videos])
    expected = [slow_rank(list(scores[:, i]), i) for i in range(5)]
    expected += [slow_rank(list(scores[i]), i) for i in range(5)]
    assert outcomes["rank"].tolist() == expected
    assert {1.0, 1.5} < set(expected)  # the table has ties and misses
    assert outcomes["item"].tolist() == [*CLIPS, *CLIPS]
    assert outcomes["direction"].tolist() == ["text_to_video"] * 5 + ["video_to_text"] * 5
    assert outcomes["rank"].dtype == np.float64
    assert outcomes[["label", "predicted"]].isna().all(axis=None)
    assert outcomes.attrs["coverage"] == {"clips": 5, "measured": 5, "missing": []}


def test_clips_without_frames_are_listed_not_measured() -> None:
    full = evaluate(ENCODER, table(red="r", green="g"), SOURCE)
    partial = evaluate(ENCODER, table(red="r", lost="b", green="g"), SOURCE)
    pd.testing.assert_frame_equal(full, partial)
    assert partial.attrs["coverage"] == {"clips": 3, "measured": 2, "missing": ["lost"]}


def test_a_trial_serves_several_models() -> None:
    trial = prepare(table(red="r", lost="b", green="g", blue="r"), SOURCE)
    assert trial.task == "retrieval"
    assert trial.coverage == {"clips": 4, "measured": 3, "missing": ["lost"]}
    videos, texts = video_side(ENCODER, trial), text_side(ENCODER, trial)
    assert videos.shape == texts.shape == (3, 3)
    whole = evaluate(ENCODER, table(red="r", lost="b", green="g", blue="r"), SOURCE)
    pd.testing.assert_frame_equal(rank(trial, videos, texts), whole)
    swapped = rank(trial, videos.flip(0), texts)["rank"]  # the red clip's features and the blue's
    assert swapped.tolist() == [3, 1, 1, 2, 1, 1.5]
    with pytest.raises(ValueError, match="2 video features for 3 rows"):
        rank(trial, videos[:2], texts)
    with pytest.raises(ValueError, match="NaN"):
        rank(trial, videos * float("nan"), texts)


class Shared(Colours):
    """As a frame store: a clip is known by several ids, and counts how often it is read."""

    def __init__(self, ids: dict[str, list[str]], **clips: tuple[str, str]) -> None:
        super().__init__(**clips)
        names = {name: [name, *ids.get(name, [])] for name in clips}
        self.places = {one: self.clip_ids.index(name) for name in clips for one in names[name]}
        self.read: list[int] = []

    def frames(self, indices: np.ndarray) -> np.ndarray:
        self.read += indices.tolist()
        return super().frames(indices)


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
    ids = {"red": ["red2", "red3"], "green": ["green2"]}
    source = Shared(ids, **CLIPS)
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
    source = Shared({"red": ["red2", "red3"], "green": ["green2"]}, **CLIPS)
    pd.testing.assert_frame_equal(evaluate(ENCODER, nameless, source), found)


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


def test_features_of_other_rows_do_not_fit_a_trial_of_several_texts() -> None:
    trial = prepare(several(), Colours(**CLIPS))
    videos, texts = video_side(ENCODER, trial), text_side(ENCODER, trial)
    assert videos.shape == texts.shape == (8, 3)
    assert torch.equal(videos[[0, 2, 5]], videos[[0]].expand(3, 3))
    with pytest.raises(ValueError, match="5 video features for 8 rows"):
        rank(trial, videos[:5], texts)


def test_order_is_the_tables() -> None:
    ordered = evaluate(ENCODER, table(**TEXTS), SOURCE).set_index(["direction", "item"])["rank"]
    backwards = evaluate(ENCODER, table(**TEXTS).iloc[::-1], SOURCE)
    assert backwards["item"].tolist()[:5] == list(TEXTS)[::-1]
    found = backwards.set_index(["direction", "item"])["rank"].sort_index()
    pd.testing.assert_series_equal(found, ordered.sort_index())


def labelled(**labels: str) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": list(labels), "label": list(labels.values())})


def test_classification_ranks_and_predictions() -> None:
    clips = labelled(blue="b", red="r", purple="rb", green="r", lost="g")
    outcomes = evaluate(ENCODER, clips, SOURCE, templates=["{}", "rg {}"])
    classes = ["b", "g", "r", "rb"]  # "g" has no decoded clip, but is a class
    means = [(slow_feature((c,)) + slow_feature(("rg" + c,))) / 2 for c in classes]
    for row in outcomes.to_dict("records"):
        scores = [slow_feature(CLIPS[row["item"]]) @ mean for mean in means]
        assert row["rank"] == slow_rank(scores, classes.index(row["label"]))
        assert row["predicted"] == classes[int(np.argmax(scores))]
    assert outcomes["label"].tolist() == ["b", "r", "rb", "r"]
    assert (outcomes["rank"] == 1).tolist() == (outcomes["label"] == outcomes["predicted"]).tolist()
    assert set(outcomes["direction"]) == {"classification"}
    assert outcomes["rank"].max() > 1
    assert outcomes.attrs["coverage"]["missing"] == ["lost"]


def test_classes_given_are_those_ranked_in_any_order() -> None:
    clips = labelled(blue="b", red="r", purple="rb", green="r")
    classes = ["rb", "g", "gb", "r", "b", "rgb"]
    outcomes = evaluate(ENCODER, clips, SOURCE, templates=["{}", "rg {}"], classes=classes)
    means = {c: (slow_feature((c,)) + slow_feature(("rg" + c,))) / 2 for c in classes}
    for row in outcomes.to_dict("records"):
        scores = {c: slow_feature(CLIPS[row["item"]]) @ mean for c, mean in means.items()}
        right = list(scores).index(row["label"])
        assert row["rank"] == slow_rank(list(scores.values()), right)
        assert scores[row["predicted"]] == max(scores.values())
    turned = evaluate(ENCODER, clips, SOURCE, templates=["{}", "rg {}"], classes=classes[::-1])
    pd.testing.assert_frame_equal(outcomes, turned)
    fewer = evaluate(ENCODER, clips, SOURCE, templates=["{}", "rg {}"])
    assert (outcomes["rank"] > fewer["rank"]).any()  # the further classes play a part
    same = evaluate(ENCODER, clips, SOURCE, templates=["{}", "rg {}"], classes=["r", "rb", "b"])
    pd.testing.assert_frame_equal(fewer, same)


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
    source = Colours(clip=("rrrrgbbb", "rrrrgbbb"))
    clips = labelled(clip="r", lost="rgb")
    prompts = {
        label: [slow_feature((f"{p}{label}",)) for p in ("", "bbb")] for label in ("r", "rgb")
    }
    scores = {label: slow_feature(("rrrrgbbb",)) @ sum(p) for label, p in prompts.items()}
    lengths = {label: np.linalg.norm(sum(p)) for label, p in prompts.items()}
    assert scores["r"] < scores["rgb"]
    assert scores["r"] / lengths["r"] > scores["rgb"] / lengths["rgb"]
    for renormalise, predicted in ((False, "rgb"), (True, "r")):
        outcome = evaluate(
            ENCODER, clips, source, templates=["{}", "bbb{}"], renormalise=renormalise
        )
        assert outcome["predicted"].tolist() == [predicted]


def test_task_is_decided_by_the_filled_column() -> None:
    both = table(red="r", blue="b").assign(label=["r", "b"])
    with pytest.raises(ValueError, match="both texts and labels"):
        evaluate(ENCODER, both, SOURCE)
    assert len(evaluate(ENCODER, both, SOURCE, task="retrieval")) == 4
    assert len(evaluate(ENCODER, both, SOURCE, task="classification", templates=["{}"])) == 2
    assert len(evaluate(ENCODER, both.assign(label=np.nan), SOURCE)) == 4
    with pytest.raises(ValueError, match="neither text nor label"):
        evaluate(ENCODER, both[["clip_id"]], SOURCE)


@pytest.mark.parametrize(
    ("clips", "options", "problem"),
    [
        (table(red="r"), {"task": "ranking"}, "task is 'ranking'"),
        (table(red="r"), {"task": "classification"}, "lacks"),
        (table(red="r").drop(columns="clip_id"), {}, "'clip_id', which the clips table lacks"),
        (table(red="r", blue=None), {}, "1 clips have no text, the first is 'blue'"),  # type: ignore[arg-type]
        (table(red="r"), {"templates": ["{}"]}, "leave templates and classes out"),
        (labelled(red="r"), {}, "needs prompt templates"),
        (table(red="r"), {"classes": ["r"]}, "leave templates and classes out"),
        (
            labelled(red="r", blue="b", green="g"),
            {"templates": ["{}"], "classes": ["r", "x"]},
            "2 labels are not among the 2 classes, the first is 'b'",
        ),
        (labelled(red="r"), {"templates": ["{}"], "classes": []}, "not among the 0 classes"),
        (
            labelled(red="r"),
            {"templates": ["{}"], "classes": ["r", "b", "r"]},
            "class 'r' is given 2 times",
        ),
        (pd.concat([table(red="r")] * 2), {}, "'red' appears 2 times"),
        (table(lost="r"), {}, "none of the 1 clips"),
    ],
)
def test_unclear_requests_are_refused(clips: pd.DataFrame, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        evaluate(ENCODER, clips, SOURCE, **options)
