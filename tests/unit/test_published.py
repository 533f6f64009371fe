"""Which published checkpoint a file is, its numbers, and when they may be compared."""

import dataclasses
import re
import types

import numpy as np
import pytest

from configs import common, evaluate
from tests.conftest import ROOT
from vitpose_jax.convert.released import RELEASED, recognize
from vitpose_jax.evaluation import published
from vitpose_jax.models.settings import SIZES

SNAPSHOT = "hub/models--usyd-community--vitpose-plus-base/snapshots/0f1e2d3c"


@pytest.mark.parametrize("name, key", [
    ("vitpose-b.pth", "vitpose-b"),
    ("/data/weights/ViTPose-B.PTH", "vitpose-b"),
    (r"C:\Downloads\vitpose-b (1).pth", "vitpose-b"),
    ("vitpose-b-simple-0123abcd.pth", "vitpose-b-simple"),
    ("https://host/vitpose%2B_base.pth", "vitpose+_base"),
    ("vitpose_small_up4.pth", "vitpose_small_up4"),
    ("td-hm_ViTPose-base_8xb64-210e_coco-256x192-216eae50_20230314.pth", "td-hm_vitpose-base_8xb64-210e_coco-256x192"),
    ("td-hm_ViTPose-base_8xb64-210e_coco-256x192.pth", "td-hm_vitpose-base_8xb64-210e_coco-256x192"),
    ("usyd-community/vitpose-base-simple", "usyd-community/vitpose-base-simple"),
    ("models/vitpose-base-simple/model.safetensors", "usyd-community/vitpose-base-simple"),
    (SNAPSHOT, "usyd-community/vitpose-plus-base"),
    (f"{SNAPSHOT}/model.safetensors", "usyd-community/vitpose-plus-base"),
    ("vitpose-h-wholebody.pth", "vitpose-h-wholebody"),
])  # fmt: skip
def test_published_files_are_recognised(name, key):
    assert recognize(name) == key


@pytest.mark.parametrize("name", [
    "my-vitpose-b.pth", "vitpose-b-finetuned.pth", "vitpose-b_half.pth", "vitpose-b.onnx", "vitpose-b", "b.pth", "",
    "vitpose-b.pth/epoch_3.pth", "vitpose-base.pth", "model.safetensors", "coco.pth", "vitpose-b-coco.pth",
    SNAPSHOT.replace("usyd-community", "someone"),
])  # fmt: skip
def test_other_files_are_not(name):
    assert recognize(name) is None


def test_every_published_file_is_recognised_as_itself():
    named = {key: entry.file for key, entry in RELEASED.items() if entry.file}
    assert len(named) > 50
    assert {key: recognize(file) for key, file in named.items()} == {key: key for key in named}


def test_the_entries_are_of_models_and_data_sets_that_exist():
    for key, entry in RELEASED.items():
        assert entry.size in SIZES, key
        assert entry.decoder in ("classic", "simple"), key
        assert set(entry.metrics) <= set(published.PROTOCOLS), key
        for metrics in entry.metrics.values():
            for metric, value in metrics.items():
                assert 50 < value < 100 if metric == "PCKh" else 0.2 < value < 1, (key, metric)


def provenance(key: str, **changes) -> dict:
    entry = RELEASED[key]
    return {"source": entry.file, "recognized_as": key, "size": entry.size, "decoder": entry.decoder} | changes


def test_metrics_of_a_published_checkpoint():
    assert published.published_metrics(provenance("vitpose-b")) == {"coco": {"AP": 0.758, "AR": 0.811}}
    plus = published.published_metrics(provenance("vitpose+_huge"))
    assert plus["mpii"] == {"PCKh": 94.2}
    assert plus["wholebody"] == {"AP": 0.612}
    hugging_face = published.published_metrics(provenance("usyd-community/vitpose-plus-huge"))
    assert hugging_face == {name: plus[name] for name in ("coco", "ochuman")}
    assert published.published_metrics(provenance("vitpose-h-multi-crowdpose"))["crowdpose"]["AP (H)"] == 0.656


@pytest.mark.parametrize("other", [
    {}, {"recognized_as": None}, {"recognized_as": "of a later version", "size": "b", "decoder": "classic"},
    provenance("vitpose-b", decoder="simple"), provenance("vitpose-b", size="l"),
])  # fmt: skip
def test_nothing_was_published_for_other_weights(other):
    assert published.published_metrics(other) == {}


def split(dataset: str, name: str, num_images: int):
    """The part of a `Split` that tells what is evaluated on."""
    images = types.SimpleNamespace(image_id=np.arange(num_images))
    return types.SimpleNamespace(dataset=types.SimpleNamespace(name=dataset), name=name, images=images)


def test_the_published_evaluation_needs_no_warning():
    numbers, (sentence,) = published.reference(
        provenance("vitpose-b"), split("coco", "val", 5000), image_size=(256, 192), settings=evaluate.get_config().eval
    )
    assert numbers == {"AP": 0.758, "AR": 0.811}
    assert "detector" in sentence
    assert "flip test" in sentence
    mpii = provenance("vitpose+_small")
    config = evaluate.get_config("mpii")
    settings = {**common.evaluator_settings(config, "mpii"), "suppression": "none"}  # which has no part in PCKh
    assert len(published.reference(mpii, split("mpii", "val", 7), image_size=(256, 192), settings=settings)[1]) == 1


@pytest.mark.parametrize("change, phrase", [
    ({"boxes": "annotations"}, "boxes annotations instead of detections"),
    ({"flip_test": False}, "flip_test False instead of True"),
    ({"detections_file": "mine.json"}, "detections_file mine.json instead of the published boxes"),
    ({"detection_score_threshold": 0.3}, "detection_score_threshold 0.3 instead of 0.0"),
    ({"suppression": "none"}, "suppression none instead of oks"),
    ({"oks_threshold": 0.8}, "oks_threshold 0.8 instead of 0.9"),
    ({"min_keypoint_score": 0.0}, "min_keypoint_score 0.0 instead of 0.2"),
    ({"batch_size": 1}, None),
])  # fmt: skip
def test_other_settings_are_warned_of(change, phrase):
    settings = evaluate.get_config().eval
    settings.update(change)
    _, sentences = published.reference(
        provenance("vitpose-l"), split("coco", "val", 5000), image_size=(256, 192), settings=settings
    )
    expected = [] if phrase is None else [f"WARNING: coco: this evaluation is not the published one: {phrase}."]
    assert sentences[1:] == expected


def test_other_data_is_warned_of():
    settings = evaluate.get_config().eval
    _, (_, warning) = published.reference(
        provenance("vitpose-b"), split("coco", "train", 16), image_size=(384, 288), settings=settings
    )
    assert "split train instead of val; 16 images instead of 5000; crops of 384x288 instead of 256x192" in warning
    for other in (provenance("vitpose-h-wholebody"), {}):  # nothing was published for these on COCO
        assert published.reference(other, split("coco", "val", 5000), image_size=(256, 192), settings=settings) == (
            {},
            [],
        )


def test_a_note_is_part_of_the_sentence():
    _, (sentence,) = published.reference(
        provenance("vitpose-b-multi-coco"), split("coco", "val", 5000), image_size=(256, 192),
        settings=evaluate.get_config().eval,
    )  # fmt: skip
    assert "Note: CrowdPose's training images" in sentence


def test_the_document_shows_the_table():
    """Renewed by: python -m vitpose_jax.evaluation.published"""
    text = (ROOT / "docs" / "parity.md").read_text()
    begin, end = "<!-- published checkpoints -->\n", "<!-- end -->\n"
    assert text.split(begin)[1].split(end)[0] == published.markdown_table()


def test_the_document_is_complete():
    text = (ROOT / "docs" / "parity.md").read_text()
    traps = text.split("## The original's traps")[1].split("\n## ")[0]
    verdicts = dict(re.findall(r"^\| (\d+) \|.*\| (same|different|n/a) \| .+ \|$", traps, re.MULTILINE))
    assert [int(number) for number in verdicts] == list(range(1, 49))
    named = re.findall(r"`(tests/[a-z_/]+\.py)", text)
    assert len(set(named)) > 8
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_table_has_a_row_and_a_command_for_each_checkpoint():
    rows = published.markdown_table().splitlines()[2:]
    assert len(rows) == len(RELEASED)
    (giant,) = [row for row in rows if "ViTPose-G" in row]
    assert "not released" in giant
    assert "python" not in giant
    for row, entry in zip(rows, RELEASED.values(), strict=True):
        assert ("needs the weights" in row) == entry.released
        assert not entry.file or f"--input {entry.file} " in row


def test_protocols_are_settings_of_the_evaluation():
    for protocol in published.PROTOCOLS.values():
        assert set(protocol.settings) <= set(evaluate.get_config().eval)
        assert dataclasses.replace(protocol, boxes="annotations").settings["boxes"] == "annotations"
