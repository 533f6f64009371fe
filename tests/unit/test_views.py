"""Crops for pre-training: regions as the recipe draws them, a stream that is a pure function of (seed, step)."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tests.coco_folder import write_coco
from vitpose_jax import geometry
from vitpose_jax.data import build, views
from vitpose_jax.data.views import RandomResizedCrop, ViewSource, central, open_views

CROP = (32, 24)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder / "source", train=6, val=4, people=2)
    build.build("coco", folder / "source", folder / "built")
    return folder / "built"


def test_regions_have_the_areas_and_shapes_asked_for():
    rng = np.random.default_rng(0)
    augment = RandomResizedCrop()
    region = (10, 20, 400, 300)
    drawn = np.array([augment.sample(region, aspect_ratio=0.75, rng=rng) for _ in range(2000)])
    x, y, w, h = drawn.T
    assert (x >= 10).all() and (y >= 20).all() and (x + w <= 410).all() and (y + h <= 320).all()
    stretch = w / h / 0.75
    assert 0.74 < stretch.min() < 0.78 and 1.28 < stretch.max() < 1.36
    share = w * h / (400 * 300)
    assert 0.19 < share.min() < 0.22
    # Log-uniform: as many wider as narrower ones, of regions small enough that all shapes fit.
    assert abs((stretch[share < 0.4] > 1).mean() - 0.5) < 0.05


def test_a_region_of_a_shape_that_never_fits_gives_its_middle():
    augment = RandomResizedCrop(min_area=0.9)
    assert augment.sample((0, 0, 1000, 10), aspect_ratio=1.0, rng=np.random.default_rng(0)) == (493, 0, 13, 10)
    assert central((0, 0, 100, 50), aspect_ratio=1.0) == (25, 0, 50, 50)
    assert central((5, 0, 30, 100), aspect_ratio=1.5) == (5, 40, 30, 20)


def test_resizing_is_pillows_on_the_cut_out_region():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = Image.fromarray(image).crop((10, 5, 60, 45)).resize((24, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(geometry.resize_region(image, (10, 5, 50, 40), CROP), np.asarray(expected))


@pytest.mark.parametrize("what, count", [("images", 5), ("people", 10)])
def test_what_a_split_offers(data_dir, what, count):
    found = open_views(data_dir, "train", what, crop_size=CROP)
    assert len(found) == count and found.dataset_name == "coco"
    image, region = views.decoded(found[count - 1])
    x, y, w, h = region
    assert min(x, y) >= 0 and x + w <= image.shape[1] and y + h <= image.shape[0]
    assert (region == (0, 0, image.shape[1], image.shape[0])) == (what == "images")


def test_a_persons_region_is_that_of_its_pose_crop(data_dir):
    found = open_views(data_dir, "train", "people", crop_size=CROP)
    dataset, instances = found.split.dataset, found.split.instances
    box = dataset.regions(instances.bbox_xywh[3], aspect_ratio=0.75)
    np.testing.assert_array_equal(found[3].box_cxcywh, box)
    image, (x, y, w, h) = views.decoded(found[3])
    left, top = np.maximum(np.floor(box[:2] - box[2:] / 2), 0)
    right, bottom = np.minimum(np.ceil(box[:2] + box[2:] / 2), image.shape[1::-1])
    assert (x, y, x + w, y + h) == (left, top, right, bottom)


def batches(sources, count, *, processes=1, **arguments) -> np.ndarray:
    """The first global batches, in stream order: uint8 [count, B, H, W, 3]."""
    arguments = {"crop_size": CROP, "batch_size": 4, "seed": 0, "num_threads": 1, **arguments}
    result = np.zeros((count, arguments["batch_size"], *CROP, 3), np.uint8)
    for rows in np.array_split(np.arange(arguments["batch_size"]), processes):
        stream = views.train_stream(sources, **arguments, rows=rows)
        for i, batch in enumerate(itertools.islice(stream, count)):
            assert batch.keys() == {"image"}
            result[i, rows] = batch["image"]
        stream.close()
    return result


def test_the_stream_depends_on_seed_and_step_alone(data_dir):
    sources = [
        ViewSource(open_views(data_dir, "train", "people", crop_size=CROP), RandomResizedCrop(), 2.0),
        ViewSource(open_views(data_dir, "train", "images", crop_size=CROP), RandomResizedCrop(flip_prob=0.0), 1.0),
    ]
    straight = batches(sources, 5)
    np.testing.assert_array_equal(batches(sources, 2, start_step=3), straight[3:])
    np.testing.assert_array_equal(batches(sources, 5, processes=2), straight)
    np.testing.assert_array_equal(batches(sources, 2, num_workers=2), straight[:2])
    assert (batches(sources, 1, seed=1) != straight[0]).any()


def test_half_of_the_crops_are_mirrored(data_dir):
    split = open_views(data_dir, "train", "images", crop_size=CROP)
    whole = {"min_area": 1.0, "max_stretch": 1.0}
    plain, flipped = (batches([ViewSource(split, RandomResizedCrop(**whole, flip_prob=p))], 3) for p in (0.0, 1.0))
    np.testing.assert_array_equal(plain[..., ::-1, :], flipped)
    mixed = batches([ViewSource(split, RandomResizedCrop(**whole))], 12).reshape(-1, *CROP, 3)
    known = batches([ViewSource(split, RandomResizedCrop(**whole, flip_prob=0.0))], 12).reshape(-1, *CROP, 3)
    share = np.mean([(a != b).any() for a, b in zip(mixed, known, strict=True)])
    assert 0.25 < share < 0.75


def test_evaluation_shows_every_row_once(data_dir):
    split = open_views(data_dir, "val", "people", crop_size=CROP)
    rows = np.arange(len(split))
    seen = []
    for own_rows in ([0, 1, 2], [3, 4, 5]):
        for batch in views.eval_stream(split, rows, crop_size=CROP, batch_size=6, rows=own_rows):
            assert batch["image"].shape == (3, *CROP, 3)
            seen += batch["row"].tolist()
    assert sorted(seen) == [-1] * (-len(rows) % 6) + rows.tolist()


@pytest.mark.parametrize("settings", [
    {"min_area": 0.0}, {"min_area": 0.5, "max_area": 0.4}, {"max_stretch": 0.9}, {"flip_prob": 1.5},
])  # fmt: skip
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RandomResizedCrop(**settings)


def test_other_views_are_refused(data_dir):
    with pytest.raises(ValueError, match="'images', 'people'"):
        open_views(data_dir, "train", "boxes", crop_size=CROP)
