"""The paper's protocol beside records written as the sweep writes them."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep import datasets
from figures import paper_protocol
from figures.paper import MODELS, TITLES, paper_table
from figures.paper_protocol import differences, protocol_items
from fitclip_kit.store.files import json_digest
from fitclip_kit.store.results import Cell

FIXED = ["resizing", "unreadable videos", "padding of short clips", "ties", "median rank"]
# Of a student that was trained just as the paper's: what the kit's training has no setting for.
ALWAYS = ["rounding of the student's weights"]
TRAINED = ["crops of", "interpolation of crops", "validation loss", "views of teacher and student"]
DATA = ["steps", "unlabelled pool", "training frames", "validation clips"]
STUDENT = ", ".join([*DATA, *FIXED, *ALWAYS, *TRAINED])
UCF101_TEMPLATES = [
    f"a {medium} of {article} person{verb} {{}}."
    for verb in ("", " using", " doing", " during", " performing", " practicing")
    for article, medium in product(("a", "the"), ("photo", "video", "example", "demonstration"))
]
OPENAI_VITB16 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"


RECIPE: dict[str, Any] = {
    "steps": 900,
    "validate_every": 30,
    "seed": 0,
    "learning_rate": 3e-6,
    "weight_decay": 0.01,
    "temperature": 0.015,
    "teacher_temperature": 0.015,
    "labelled_share": 0.9999,
    "labelled_batch": 64,
    "unlabelled_batch": 64,
    "crop_scale": [0.5, 1.0],
    "best_step": 120,
    "material": {
        "labelled_clips": 4500,
        "unlabelled_clips": 9000,
        "shared_clips": 0,
        "validation_clips": 1000,
        "frames": 4,
        "stored_draws": 3,
    },
}


def record(alpha=0.4, **changes):
    """A record of MSR-VTT measured just as the paper did."""
    key = Cell(alpha=alpha, labelled_share=0.9999, labelled_clips=4500, draw=0, data_set="msrvtt")
    return {
        "cell": vars(key),
        "coverage": {"clips": 1000, "measured": 1000, "missing": []},
        "protocol": {
            "data_set": "MSR-VTT",
            "split": "1ka_test",
            "captions": "first caption of MSR_VTT.json",
            "frame_rule": {"n_frames": 4, "size": 224, "draws_per_interval": 0, "seed": 0},
            "weights": {"teacher": OPENAI_VITB16, "student": "1234"},
            "model": {"architecture": "ViT-B-16-quickgelu", "weights": "openai"},
            "templates": [],
            "classes": None,
            "renormalise": False,
        }
        | ({"training": RECIPE} if alpha else {})
        | changes,
    }


def statuses(items):
    return dict(zip(items["item"], items["status"], strict=True))


def test_the_papers_own_protocol_differs_only_where_the_kit_always_does():
    for alpha, model in ((0, "teacher"), (0.4, "fused"), (1, "student")):
        items = protocol_items([record(alpha)], model, "msrvtt")
        found = statuses(items)
        expected = STUDENT if alpha else ", ".join(FIXED)
        unlike = [item for item, status in found.items() if status != "same"]
        assert ", ".join(unlike) == differences(items) == expected
        assert ("alpha" in found) == (model == "fused")
        assert ("labelled_share" in found) == (model != "teacher")
        assert "prompts" not in found
        assert items.loc[items["status"] == "same", "paper"].notna().all()


@pytest.mark.parametrize(
    ("path", "value", "item", "here"),
    [
        ("data_set", "embedded: msrvtt", "data set", "embedded: msrvtt"),
        ("split", "full_test", "split", "full_test"),
        ("captions", "JSFusion sentence", "captions", "JSFusion sentence"),
        ("renormalise", True, "mean features renormalised", "yes"),
        ("model.architecture", "ViT-B-16", "teacher's architecture", "ViT-B-16"),
        ("weights.teacher", "f" * 64, "teacher's weights", "sha256 ffffffffffff"),
        ("frame_rule.n_frames", 8, "frames", "8"),
        ("frame_rule.size", 40, "picture size", "40 px"),
        ("frame_rule.draws_per_interval", 2, "frame choice", "2 at random in each interval"),
        ("training.learning_rate", 6e-4, "learning rate", "0.0006"),
        ("training.weight_decay", 0.0, "weight decay", "0"),
        ("training.temperature", 0.07, "student's temperature", "0.07"),
        ("training.teacher_temperature", 0.01, "teacher's temperature", "0.01"),
        ("training.teacher_temperature", None, "teacher's temperature", "its own logit_scale"),
        ("training.labelled_batch", 32, "labelled clips a step", "32"),
        ("training.unlabelled_batch", 16, "unlabelled clips a step", "16"),
        ("training.validate_every", 10, "validated every", "10 steps"),
        ("training.crop_scale", [0.08, 1], "crops", "0.08 to 1 of the picture"),
    ],
)
def test_what_was_done_otherwise_differs_and_nothing_else(path, value, item, here):
    part, _, name = path.rpartition(".")
    change = {part: record()["protocol"][part] | {name: value}} if part else {name: value}
    found = protocol_items([record(**change)], "fused", "msrvtt")
    assert found.set_index("item").loc[item, "here"] == here
    plain = statuses(protocol_items([record()], "fused", "msrvtt"))
    assert plain[item] == "same"
    assert statuses(found) == plain | {item: "differs"}


@pytest.mark.parametrize(
    ("absent", "items"),
    [
        (["data_set"], ["data set"]),
        (["frame_rule"], ["frames", "frame choice", "picture size"]),
        (["model", "weights"], ["teacher's architecture", "teacher's weights"]),
        (["renormalise"], ["mean features renormalised"]),
    ],
)
def test_what_a_record_does_not_say_is_never_taken_for_the_same(absent, items):
    one = record()
    for name in absent:
        del one["protocol"][name]
    found = protocol_items([one], "fused", "msrvtt")
    assert differences(found) == f"{STUDENT}; not recorded: {', '.join(items)}"
    assert set(found.set_index("item").loc[items, "here"]) == {"not recorded"}


SEVERAL = {"clips": 3350, "measured": 3350, "videos": 3349, "videos_measured": 3349}
SIZE = "999 videos in 1ka_test; officially there are 1,000"


@pytest.mark.parametrize(
    ("part", "change", "item", "here", "status"),
    [
        ("coverage", {"measured": 987}, "clips measured", "987 of 1,000", "differs"),
        ("coverage", {"measured": 987}, "clips", "1,000", "same"),
        ("coverage", SEVERAL, "clips", "3,350 texts of 3,349 videos", "differs"),
        ("coverage", SEVERAL, "clips measured", "all", "same"),
        ("protocol", {"annotation_size": "official"}, "clips", "1,000", "same"),
        ("protocol", {"annotation_size": SIZE}, "clips", f"1,000 (annotation: {SIZE})", "differs"),
        ("cell", {"alpha": 0.3}, "alpha", "0.3", "differs"),
        ("cell", {"labelled_clips": 36000}, "labelled_clips", "36,000", "differs"),
        ("cell", {"labelled_share": 0.99}, "labelled_share", "0.99", "differs"),
    ],
)
def test_coverage_and_cell(part, change, item, here, status):
    one = record()
    one[part] = one[part] | change
    found = protocol_items([one], "fused", "msrvtt").set_index("item")
    assert list(found.loc[item, ["here", "status"]]) == [here, status]


def test_what_was_not_covered_and_sizes_printed_otherwise():
    found = statuses(protocol_items([record() | {"coverage": {}}], "fused", "msrvtt"))
    asked = ("clips", "clips printed in table 1", "clips measured")
    assert {found[item] for item in asked} == {"not recorded"}
    one = record() | {"coverage": {"clips": 3350, "measured": 3350, "missing": []}}
    found = statuses(protocol_items([one], "fused", "youcook2"))
    assert found["clips"] == "same"  # the official code's
    assert found["clips printed in table 1"] == "differs"  # 3,305


def test_draws_and_labels_alone():
    draws = [record() for _ in range(3)]
    assert differences(protocol_items(draws, "fused", "msrvtt")) == f"draws, {STUDENT}"
    draws[1] = record(captions="every caption")
    found: Any = protocol_items(draws, "fused", "msrvtt").set_index("item")
    both = ["first caption of MSR_VTT.json / every caption", "differs"]
    assert list(found.loc["captions", ["here", "status"]]) == both
    del draws[2]["protocol"]["captions"]
    assert statuses(protocol_items(draws, "fused", "msrvtt"))["captions"] == "not recorded"
    one = record()
    one["cell"] |= {"labelled_clips": 36000, "labelled_share": 1.0}
    found = protocol_items([one], "wise_ft", "msrvtt").set_index("item")
    assert found.loc["labelled_share", "status"] == "same"
    assert list(found.loc["labelled_clips"]) == ["not recorded", "36,000", "not recorded"]
    early = "early stopping (patience 10), the step with the lowest validation loss is kept"
    assert list(found.loc["stopping rule", ["paper", "status"]]) == [early, "differs"]
    absent = {"teacher's temperature", "unlabelled pool", "views of teacher and student"}
    assert not absent & set(found.index), "it is trained on labels alone"


def test_what_a_student_was_trained_on_stands_beside_the_papers():
    small = {"labelled_clips": 50, "unlabelled_clips": 40, "shared_clips": 2}
    one = record(training=RECIPE | {"material": RECIPE["material"] | small})
    here = protocol_items([one], "fused", "msrvtt").set_index("item")["here"]
    assert here["steps"] == "900"
    assert here["unlabelled pool"] == "40 clips, 2 labelled among them"
    assert here["training frames"] == "3 stored draws of each of 4 intervals"
    assert here["validation clips"] == "1,000"
    # A set that is smaller than a batch is one.
    assert here[["labelled clips a step", "unlabelled clips a step"]].tolist() == ["50", "40"]


@pytest.mark.parametrize("training", [{}, {"released": "fitclip_student"}])
def test_a_student_that_was_trained_elsewhere_has_no_recipe(training):
    """Nor one among others that were trained here."""
    wanted = {*paper()["training"], *DATA, *TRAINED, "stopping rule", "teacher's temperature"}
    for records in ([record(training=training)], [record(), record(training=training)]):
        found = protocol_items(records, "fused", "msrvtt").set_index("item")
        assert set(found.loc[sorted(wanted), "here"]) == {"not recorded"}
        assert set(found.loc[sorted(wanted), "status"]) == {"not recorded"}
        assert found.loc[ALWAYS[0], "status"] == "differs", "that is done here, when it is fused"
        for item in ("labelled_share", "labelled_clips"):
            assert (found.loc[item, "status"] == "not recorded") == ("released" in training)


def test_references_have_their_checkpoint_and_no_teacher():
    one = record(model={"file": "webvid2m-4f_stformer_b_16_224.pth.tar"})
    one["cell"] = vars(Cell(model="frozen_in_time_webvid", data_set="msrvtt"))
    items = protocol_items([one], "frozen_in_time_webvid", "msrvtt")
    assert differences(items) == ", ".join([*FIXED, "interpolation"])
    assert "teacher's architecture" not in statuses(items)
    other = protocol_items([one], "frozen_in_time_cc3m_webvid", "msrvtt")
    assert statuses(other)["checkpoint"] == "differs"


@pytest.mark.parametrize(
    ("records", "model", "data_set", "match"),
    [
        ([record()], "fused", "webvid_val", "no data set 'webvid_val'; it has msrvtt, youcook2"),
        ([record()], "fusion", "msrvtt", "no model 'fusion'; it has teacher, student"),
        ([], "fused", "msrvtt", "no record of fused on msrvtt"),
    ],
)
def test_unknown_names_and_no_record_are_refused(records, model, data_set, match):
    with pytest.raises(ValueError, match=match):
        protocol_items(records, model, data_set)


# the data file


def paper():
    text = (Path(paper_protocol.__file__).parent / "paper_protocol.yaml").read_text()
    return yaml.safe_load(text)


def test_the_file_covers_every_model_and_data_set_of_the_tables():
    assert set(paper()["data_sets"]) == set(TITLES)
    assert set(paper()["models"]) == set(MODELS.values())
    # Every value is text: an unquoted number or date would never equal what is recorded.
    for part in ("data_sets", "models"):
        for values in paper()[part].values():
            assert {type(value) for value in values.values()} <= {str, type(None)}
    for part in ("measurement", "retrieval", "training"):
        assert {type(value) for value in paper()[part].values()} == {str}


def test_printed_sizes_are_those_of_table_1():
    for part in ("1b", "1c"):
        printed = paper_table(part)["samples"]
        for name, items in paper()["data_sets"].items():
            if TITLES[name] in printed.index:
                noted = items["clips printed in table 1"].partition(", the number of")[0]
                assert noted == f"{printed[TITLES[name]]:,}"


def digested(classes):
    """As the sweep records them."""
    return {"number": len(classes), "sha256": json_digest(sorted(classes))} if classes else None


def test_the_48_templates_and_101_names_by_the_official_rule(realdata):
    lines = (realdata / "ucf101" / "ucfTrainTestlist" / "classInd.txt").read_text().split("\n")
    folders = [line.split()[1] for line in lines if line.strip()]
    names = [" ".join(re.findall("[a-zA-Z][^A-Z]*", folder)) for folder in folders]
    openai = ["Hand Stand Pushups" if name == "Handstand Pushups" else name for name in names]
    for templates, classes, status, here in (
        (UCF101_TEMPLATES[::-1], names, "same", "48 templates, "),
        (UCF101_TEMPLATES[:-1], openai, "differs", "47 templates, "),
        (["{}"], openai, "differs", "class name alone"),
    ):
        one = record(templates=list(templates), classes=digested(classes))
        found: Any = protocol_items([one], "teacher", "ucf101").set_index("item")
        assert found.loc[["prompts", "classes"], "status"].tolist() == [status] * 2
        assert found.loc["prompts", "here"].startswith(here)
        assert found.loc["classes", "here"].startswith("101 names, ")


def on_disk(name, realdata, folder):
    """A root from which the loader reads the official annotation; no video is there."""
    if name == "msrvtt":
        lists = folder / "structured-symlinks"
        lists.mkdir(parents=True)
        source = realdata / "msrvtt" / "structured-symlinks" / "val_list_jsfusion.txt"
        (lists / source.name).write_bytes(source.read_bytes())
        videos = source.read_text().split()
        captions = [{"image_id": video, "caption": f"a {video}"} for video in videos]
        (folder / "annotation").mkdir()
        (folder / "annotation" / "MSR_VTT.json").write_text(
            json.dumps({"images": [{"id": video} for video in videos], "annotations": captions})
        )
        return folder
    if name == "mit":
        source = realdata / "moments_in_time" / "moments_categories.layout_v1.txt"
        (folder / "moments_categories.txt").write_bytes(source.read_bytes())
        classes = [line.split(",")[0] for line in source.read_text().split()]
        rows = [f"{one}/yt-{n}.mp4,{one},3,0" for one in classes for n in range(100)]
        (folder / "validationSet.csv").write_text("\n".join(rows) + "\n")
        return folder
    return realdata / name


LOADERS = {name: "moments_in_time" if name == "mit" else name for name in TITLES}


@pytest.mark.parametrize("name", LOADERS)
def test_the_loaders_defaults_are_the_papers_protocol(name, realdata, tmp_path):
    loaded = datasets.load(LOADERS[name], on_disk(name, realdata, tmp_path))
    one = record()
    for item in ("data_set", "split", "captions"):
        del one["protocol"][item]
    one["protocol"] |= loaded.protocol
    one["protocol"] |= {
        "templates": list(loaded.templates),
        "classes": digested(loaded.classes),
    }
    one["coverage"] = {"clips": len(loaded.clips), "measured": len(loaded.clips), "missing": []}
    items = protocol_items([one], "fused", name)
    printed = ["clips printed in table 1"] if name in ("youcook2", "didemo", "ucf101") else []
    assert differences(items) == ", ".join([*printed, STUDENT])
