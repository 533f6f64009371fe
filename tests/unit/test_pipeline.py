"""The training stream is a pure function of (seed, step); the evaluation stream shows every instance once."""

import dataclasses
import functools
import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.coco_folder import write_coco
from vitpose_jax import geometry
from vitpose_jax.data import build, datasets, pipeline, streams
from vitpose_jax.data.augment import Augment
from vitpose_jax.data.order import ByImage
from vitpose_jax.keypoints import KeypointSet

CROP_SIZE = (32, 24)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder / "source", train=6, val=4, people=2)
    build.build("coco", folder / "source", folder / "built")
    return folder / "built"


@pytest.fixture(scope="module")
def train(data_dir):
    return datasets.open_split(data_dir, "train")


@pytest.fixture(scope="module")
def val(data_dir):
    return datasets.open_split(data_dir, "val")


@pytest.fixture(scope="module")
def smaller(val):
    """A split with three keypoints instead of 17, and without UDP."""
    keypoint_set = KeypointSet("three", ("a", "b", "c"), (("b", "c"),), (), ("a",), (0.1,) * 3, ((0, 0, 0),) * 3, ())
    instances = dataclasses.replace(val.instances, keypoints=val.instances.keypoints[:, :3])
    dataset = dataclasses.replace(val.dataset, keypoint_set=keypoint_set, udp=False)
    return dataclasses.replace(val, dataset=dataset, instances=instances)


def global_batches(sources, count, *, shares=None, **arguments):
    """The first global batches of a stream, put together from the rows that each process makes."""
    arguments = {"crop_size": CROP_SIZE, "batch_size": 4, "seed": 0, "num_threads": 1, **arguments}
    size = arguments["batch_size"]
    batches = [{} for _ in range(count)]
    for rows in shares or [list(range(size))]:
        stream = pipeline.train_stream(sources, **arguments, rows=rows)
        for batch, part in zip(batches, itertools.islice(stream, count), strict=True):
            for key, values in part.items():
                batch.setdefault(key, np.empty((size, *values.shape[1:]), values.dtype))[rows] = values
        stream.close()
    return batches


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture(params=["one source", "a mix"])
def sources(request, train, smaller):
    if request.param == "one source":
        return [pipeline.TrainSource(train, Augment())]
    return [pipeline.TrainSource(train, Augment(), 10.0), pipeline.TrainSource(smaller, Augment(flip_prob=0.2), 4.0)]


@pytest.mark.parametrize("by_image", [False, True])
def test_batches_depend_on_seed_and_step_alone(sources, by_image):
    batches = functools.partial(global_batches, sources, by_image=by_image)
    expected = batches(7)  # an epoch of the first source is two and a half batches
    assert len({batch["image"].tobytes() for batch in expected}) == 7
    assert_same(batches(7, num_threads=3, prefetch=5), expected)
    for shares in ([[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]):
        assert_same(batches(7, shares=shares), expected)
    for start in (1, 3):
        assert_same(batches(7 - start, start_step=start, shares=[[0, 1], [2, 3]]), expected[start:])
    other = batches(1, seed=1)
    assert (other[0]["image"] != expected[0]["image"]).any()


def test_worker_processes_make_the_same_batches_and_touch_no_device(train, monkeypatch):
    sources = [pipeline.TrainSource(train, Augment())]
    expected, by_image = (global_batches(sources, 5, by_image=together) for together in (False, True))
    monkeypatch.setenv("JAX_PLATFORMS", "none such")  # any use of a device in a worker would now raise
    assert_same(global_batches(sources, 5, num_workers=2, prefetch=1), expected)
    assert_same(global_batches(sources, 2, num_workers=1, start_step=3, by_image=True), by_image[3:])


@pytest.mark.parametrize("by_image", [False, True])
def test_an_epoch_shows_every_instance_once_in_a_new_order(train, by_image):
    plain = Augment(flip_prob=0, half_body_prob=0, scale_factor=0, rotation_prob=0, center_jitter_prob=0)
    batches = global_batches([pipeline.TrainSource(train, plain)], 2, batch_size=len(train), by_image=by_image)
    first, second = ([crop.tobytes() for crop in batch["keypoints"]] for batch in batches)
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(train) == 10
    assert first != second


def test_by_image_people_follow_one_another_and_an_image_is_decoded_once(train, monkeypatch):
    images = train.instances.image
    order = ByImage(np.arange(len(train)), images, seed=3)
    epochs = np.array([order[place] for place in range(2 * len(train))]).reshape(2, -1)
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(train)))
        assert np.count_nonzero(np.diff(images[epoch])) == len(set(images)) - 1
    assert list(images[epochs[0]]) != list(images[epochs[1]])
    assert len(order) % len(train) == 0

    def decoded(by_image: bool) -> list[int]:
        """Images in the order in which the first batch, and maybe a part of later ones, had them decoded."""
        found: list[int] = []
        decode = datasets.Split.pixels
        with monkeypatch.context() as patch:
            patch.setattr(datasets.Split, "pixels", lambda split, image: found.append(image) or decode(split, image))
            global_batches([pipeline.TrainSource(train, Augment())], 1, batch_size=len(train), by_image=by_image)
        return found

    monkeypatch.setattr(pipeline, "_DECODED_IMAGES", 1)
    assert sorted(decoded(by_image=True)[: len(set(images))]) == sorted(set(images))
    assert sorted(decoded(by_image=False)[: len(images)]) == sorted(images)


def test_a_stream_of_single_crops(train):
    for by_image in (False, True):
        batches = global_batches([pipeline.TrainSource(train, Augment())], 2, batch_size=1, by_image=by_image)
        assert [batch["image"].shape for batch in batches] == [(1, *CROP_SIZE, 3)] * 2


def test_a_plain_crop_is_what_geometry_says(train):
    plain = Augment(flip_prob=0, half_body_prob=0, scale_factor=0, rotation_prob=0, center_jitter_prob=0)
    (batch,) = global_batches([pipeline.TrainSource(train, plain)], 1, batch_size=10)
    assert (batch["image"].dtype, batch["keypoints"].dtype, batch["dataset"].dtype) == (np.uint8, np.float32, np.int32)
    found = {keypoints.tobytes(): image for keypoints, image in zip(batch["keypoints"], batch["image"], strict=True)}
    for instance in range(len(train)):
        bbox = train.instances.bbox_xywh[instance]
        matrix = geometry.crop_matrix(geometry.bbox_to_box_cxcywh(bbox, aspect_ratio=0.75), CROP_SIZE, udp=True)
        keypoints = train.instances.keypoints[instance].copy()
        keypoints[:, :2] = geometry.transform(matrix, keypoints[:, :2])
        pixels = train.pixels(train.instances.image[instance])
        np.testing.assert_array_equal(found[keypoints.tobytes()], geometry.cut_crop(pixels, matrix, CROP_SIZE))


def test_a_mix_follows_its_weights_and_pads_keypoints(train, smaller):
    pair = [pipeline.TrainSource(train, Augment()), pipeline.TrainSource(smaller, Augment())]
    for weights, shares in (((None, None), (10 / 16, 6 / 16)), ((1, 3), (0.25, 0.75))):
        mix = [dataclasses.replace(source, weight=weight) for source, weight in zip(pair, weights, strict=True)]
        assert streams.shares(mix) == pytest.approx(shares)
        (batch,) = global_batches(mix, 1, batch_size=64)
        np.testing.assert_allclose(np.bincount(batch["dataset"]) / 64, shares, atol=0.02)
        few = batch["dataset"] == 1
        assert batch["keypoints"].shape == (64, 17, 3)
        assert not batch["keypoints"][few, 3:].any()
        assert batch["keypoints"][~few, 3:, 2].any()


def test_the_jitter_of_the_centre_is_fixed_for_a_run_unless_asked(train):
    only_jitter = Augment(flip_prob=0, half_body_prob=0, scale_factor=0, rotation_prob=0, center_jitter_prob=1)

    def crops(augment, **arguments):
        batches = global_batches([pipeline.TrainSource(train, augment)], 2, batch_size=10, **arguments)
        return [{crop.tobytes() for crop in batch["image"]} for batch in batches]

    first, second = crops(only_jitter)
    assert first == second
    assert first.isdisjoint(crops(only_jitter, seed=1)[0])
    assert first.isdisjoint(crops(dataclasses.replace(only_jitter, center_jitter_prob=0))[0])
    first, second = crops(dataclasses.replace(only_jitter, jitter_each_epoch=True))
    assert first.isdisjoint(second)


def test_a_single_instance_makes_a_stream(train):
    single = dataclasses.replace(train, instances=train.instances.take(slice(1)))
    batches = global_batches([pipeline.TrainSource(single, Augment())], 2)
    assert batches[0]["image"].any()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_shows_every_instance_once(val, processes):
    boxes = datasets.detection_boxes(val)  # 8 boxes: the last of the global batches of 6 is padded
    streams = [
        list(
            pipeline.eval_stream(
                boxes, val, crop_size=CROP_SIZE, udp=True, batch_size=6, rows=np.split(np.arange(6), processes)[process]
            )
        )
        for process in range(processes)
    ]
    assert [len(batches) for batches in streams] == [2] * processes
    batches = list(itertools.chain(*streams))
    assert all(batch["image"].shape == (6 // processes, *CROP_SIZE, 3) for batch in batches)
    rows = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert sorted(rows["instance"][rows["valid"]]) == list(range(8))
    assert (~rows["valid"]).sum() == 4
    for instance, image, crop_to_image in zip(
        *(rows[key][rows["valid"]] for key in ("instance", "image", "crop_to_image")), strict=True
    ):
        box = geometry.bbox_to_box_cxcywh(boxes.bbox_xywh[instance], aspect_ratio=0.75)
        matrix = geometry.crop_matrix(box, CROP_SIZE, udp=True)
        np.testing.assert_array_equal(image, geometry.cut_crop(val.pixels(boxes.image[instance]), matrix, CROP_SIZE))
        np.testing.assert_allclose(crop_to_image, geometry.invert(matrix), rtol=1e-6, atol=1e-5)
    assert (rows["image"].dtype, rows["crop_to_image"].dtype) == (np.uint8, np.float32)
    assert (rows["instance"].dtype, rows["valid"].dtype) == (np.int32, np.bool_)


def test_evaluation_decodes_each_image_once(val, monkeypatch):
    decoded = []
    original = geometry.decode_jpeg
    monkeypatch.setattr(pipeline, "_DECODED_IMAGES", 1)
    monkeypatch.setattr(geometry, "decode_jpeg", lambda data: decoded.append(data) or original(data))
    boxes = datasets.detection_boxes(val)
    boxes = boxes.take(np.random.default_rng(0).permutation(len(boxes)))
    arguments = {"crop_size": CROP_SIZE, "udp": True, "batch_size": 3, "num_threads": 1}
    assert sum(batch["valid"].sum() for batch in pipeline.eval_stream(boxes, val, **arguments)) == 8
    assert len(decoded) == 4


def test_evaluation_in_worker_processes(val):
    arguments = {"crop_size": CROP_SIZE, "udp": False, "batch_size": 4}
    expected = list(pipeline.eval_stream(val.instances, val, **arguments))
    stream = pipeline.eval_stream(val.instances, val, **arguments, num_workers=1)
    assert_same(list(stream), expected)
    stream.close()


def test_a_broken_image_in_the_store_is_named(train):
    class Broken:
        def __getitem__(self, row):
            return {"image": b"\xff\xd8 cut off"}

    broken = dataclasses.replace(train, _records=Broken())
    with pytest.raises(ValueError, match=r"image 0000000000\d\d\.jpg of Split\(coco train"):
        global_batches([pipeline.TrainSource(broken, Augment())], 1)


def test_arguments_that_do_not_fit(train, val):
    source = pipeline.TrainSource(train, Augment())
    empty = train.instances.take(slice(0))
    for sources, arguments, words in (
        ([], {}, "at least one source"),
        ([dataclasses.replace(source, weight=0.0)], {}, "weight above 0"),
        ([dataclasses.replace(source, weight=0.2), source], {}, "give every data set one, or none"),
        ([dataclasses.replace(source, split=dataclasses.replace(train, instances=empty))], {}, "needs instances"),
        ([source], {"batch_size": 3, "rows": (0, 1)}, "equal share of the 3 rows"),
        ([source], {"rows": (0, 4)}, "equal share of the 4 rows"),
        ([source], {"rows": ()}, "equal share"),
        ([source], {"start_step": -1}, "0 or more"),
        ([source], {"num_workers": -1}, "num_workers"),
        ([source], {"prefetch": 0}, "prefetch"),
    ):
        with pytest.raises(ValueError, match=words):
            pipeline.train_stream(sources, **{"crop_size": CROP_SIZE, "batch_size": 4, "seed": 0, **arguments})
    with pytest.raises(ValueError, match="no instance"):
        pipeline.eval_stream(empty, val, crop_size=CROP_SIZE, udp=True, batch_size=4)
    with pytest.raises(ValueError, match="equal share"):
        pipeline.eval_stream(val.instances, val, crop_size=CROP_SIZE, udp=True, batch_size=4, rows=(0, 1, 2))


def test_data_loading_does_not_need_jax():
    code = "import sys; sys.modules['jax'] = None; import vitpose_jax.data.pipeline, vitpose_jax.data.build"
    root = pathlib.Path(pipeline.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root)
