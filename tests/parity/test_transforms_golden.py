"""Boxes, warps and random views against values recorded from the original code."""

import json
import pathlib

import jax
import numpy as np
import pytest

from tests import tolerances
from tests.golden import reduce_transforms
from vitpose_jax import codec, geometry
from vitpose_jax.data import augment
from vitpose_jax.keypoints import KeypointSet

encode = jax.jit(codec.encode, static_argnames=("crop_size", "heatmap_size", "udp"))
RECORDED = dict(np.load(pathlib.Path(reduce_transforms.__file__).with_name("transforms.npz")))


def group(name: str) -> dict[str, np.ndarray]:
    """The recorded values under one name, by their last part."""
    values = {key[len(name) + 1 :]: value for key, value in RECORDED.items() if key.startswith(f"{name}/")}
    assert values, name
    return values


def numbers(name: str) -> list[str]:
    return sorted({"/".join(key.split("/")[:2]) for key in RECORDED if key.startswith(f"{name}/")})


def box_of(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The original's centre and size in units of 200 pixels as one box."""
    return np.concatenate([center, np.asarray(scale, np.float64) * 200])


def keypoints_of(joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    return np.concatenate([joints[:, :2], visible[:, :1]], axis=1)


def keypoint_set(sample: dict[str, np.ndarray]) -> KeypointSet:
    """A keypoint set with the recorded mirror pairs and upper body."""
    names = tuple(f"keypoint_{i}" for i in range(sample["num_joints"]))
    return KeypointSet(
        name="recorded",
        names=names,
        swap=tuple((names[a], names[b]) for a, b in sample["flip_pairs"]),
        skeleton=(),
        upper_body=tuple(names[i] for i in sample["upper_body_ids"]),
        sigmas=(0.1,) * len(names),
        colors=((0, 0, 0),) * len(names),
        skeleton_colors=(),
    )


class Replay:
    """Gives recorded draws back, and fails where another kind of draw was recorded, or none."""

    def __init__(self, draws: np.ndarray, is_normal: np.ndarray):
        self.left = list(zip(np.ravel(draws).tolist(), np.ravel(is_normal).tolist(), strict=True))

    def take(self, is_normal: bool) -> float:
        value, recorded_normal = self.left.pop(0)
        assert recorded_normal == is_normal
        return value

    def random(self, size=None):
        return self.take(False) if size is None else np.array([self.take(False) for _ in range(size)])

    def standard_normal(self):
        return self.take(True)


def test_the_reduced_values_are_the_recorded_ones(golden_dir):
    full = reduce_transforms.collect(golden_dir)
    assert full.keys() == RECORDED.keys()
    for key, value in full.items():
        np.testing.assert_array_equal(RECORDED[key], value, err_msg=key)


@pytest.mark.parametrize("size", ["192x256", "288x384", "256x256"])
def test_boxes(size):
    recorded = group("boxes_and_small_warps")
    width, height = map(int, size.split("x"))
    boxes = geometry.bbox_to_box_cxcywh(recorded["bbox_xywh"], aspect_ratio=width / height)
    expected = np.concatenate([recorded[f"center_{size}"], recorded[f"scale_{size}"] * 200], axis=1)
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=tolerances.WARP_MATRIX)


def test_center_jitter():
    recorded = group("box_jitter")
    for i, bbox in enumerate(recorded["bbox_xywh"]):
        draws = np.concatenate([recorded["gate_draw"][i : i + 1], recorded["shift_draws"][i]])
        rng = Replay(draws[~np.isnan(draws)], np.zeros(np.sum(~np.isnan(draws)), bool))
        box = geometry.bbox_to_box_cxcywh(bbox, aspect_ratio=0.75)
        box = augment.Augment().jitter_center(box, bbox, rng)
        assert not rng.left
        expected = box_of(recorded["center"][i], recorded["scale"][i])
        np.testing.assert_allclose(box, expected, rtol=0, atol=tolerances.WARP_MATRIX)


@pytest.mark.parametrize("udp", [True, False])
def test_small_warps(udp):
    recorded, kind = group("boxes_and_small_warps"), "udp" if udp else "plain"
    for i, (*box, rotation) in enumerate(recorded["warp_params_cx_cy_sx_sy_rot"]):
        box = box_of(np.array(box[:2]), np.array(box[2:]))
        matrix = geometry.crop_matrix(box, (64, 48), rotation_deg=rotation, udp=udp)
        np.testing.assert_allclose(matrix, recorded[f"warp{i}_{kind}_matrix"], rtol=0, atol=tolerances.WARP_MATRIX)
        assert_same_crop(geometry.cut_crop(recorded["warp_image"], matrix, (64, 48)), recorded[f"warp{i}_{kind}"])


@pytest.mark.parametrize("name", numbers("half_body"))
def test_half_body(name):
    recorded = group(name)
    keypoints = keypoints_of(recorded["joints"], recorded["visible"])
    upper_body = np.isin(np.arange(len(keypoints)), recorded["upper_body_ids"])
    rng = Replay(np.array([-1.0 if recorded["upper_first"] else 1.0]), np.array([True]))
    box = augment.half_body_box(keypoints, upper_body, aspect_ratio=0.75, rng=rng)
    assert not rng.left
    if "center" not in recorded:
        assert box is None
    else:
        expected = box_of(recorded["center"], recorded["scale"])
        np.testing.assert_allclose(box, expected, rtol=0, atol=tolerances.WARP_MATRIX)


@pytest.mark.parametrize("name", numbers("samples"))
def test_crop_matrix_and_keypoints(name):
    recorded = group(name)
    keypoints = keypoints_of(recorded["joints"], recorded["visible"])
    width = int(recorded["image_width"])
    crop_size = tuple(recorded["crop_size"])
    if "bbox" in recorded:  # not for MPII
        box = geometry.bbox_to_box_cxcywh(recorded["bbox"], aspect_ratio=crop_size[1] / crop_size[0])
        expected = box_of(recorded["center"], recorded["scale"])
        np.testing.assert_allclose(box, expected, rtol=0, atol=tolerances.WARP_MATRIX)

    box, flip_index = box_of(recorded["center"], recorded["used_scale"]), keypoint_set(recorded).flip_index
    if recorded["flip"]:
        box, mirrored = augment.mirror(box, keypoints, image_width=width, flip_index=flip_index)
        np.testing.assert_array_equal(box[:2], recorded["flipped_center"])
        expected = keypoints_of(recorded["flipped_joints"], recorded["flipped_visible"])
        # The original moves keypoints without a label to the image's corner.
        np.testing.assert_array_equal(mirrored * mirrored[:, 2:], expected)
    view = augment.View(box, float(recorded["rotation"]), bool(recorded["flip"]))
    matrix, crop_keypoints = augment.train_transform(
        view, keypoints, image_width=width, crop_size=crop_size, flip_index=flip_index, udp=bool(recorded["use_udp"])
    )
    mirrored_to_crop = geometry.compose(matrix, geometry.flip_matrix(width)) if recorded["flip"] else matrix
    np.testing.assert_allclose(mirrored_to_crop, recorded["matrix"], rtol=0, atol=tolerances.WARP_MATRIX)
    if "matrix_inv" in recorded:
        inverse = geometry.invert(mirrored_to_crop)
        np.testing.assert_allclose(inverse, recorded["matrix_inv"], rtol=0, atol=tolerances.WARP_MATRIX)
    assert_same_keypoints(crop_keypoints, recorded["crop_joints"], bool(recorded["use_udp"] and not recorded["flip"]))


def jittered_box(case: dict[str, np.ndarray], sample: dict[str, np.ndarray], settings: augment.Augment) -> np.ndarray:
    """The case's box as its data set's list was built: every instance before it drew from the same generator."""
    if "bbox" not in sample:
        return box_of(sample["center"], sample["scale"])
    rng = np.random.RandomState(case["numpy_seed"])  # the kind of generator that the original draws from
    box = geometry.bbox_to_box_cxcywh(sample["bbox"], aspect_ratio=0.75)
    for _ in range(case["db_index"]):
        settings.jitter_center(box, sample["bbox"], rng)
    return settings.jitter_center(box, sample["bbox"], rng)


@pytest.mark.parametrize("name", numbers("augmentation"))
def test_random_views(name):
    case = group(name)
    sample = group(f"samples/{case['sample']:02d}")
    keypoints = keypoints_of(sample["joints"], sample["visible"])
    settings = augment.Augment(
        half_body_prob=0.0 if case["is_mpii"] else 0.3, half_body_min_keypoints=6 if case["is_crowdpose"] else 8
    )
    box = jittered_box(case, sample, settings)
    np.testing.assert_allclose(box, box_of(case["box_center"], case["box_scale"]), rtol=0, atol=tolerances.WARP_MATRIX)

    def view_with(**changes) -> augment.View:
        rng = Replay(case["draws"], case["draw_is_normal"])
        view = augment.Augment(**{**vars(settings), **changes}).sample(
            box,
            keypoints,
            image_width=int(sample["image_width"]),
            aspect_ratio=0.75,
            keypoint_set=keypoint_set(sample),
            rng=rng,
        )
        assert not rng.left
        return view

    unscaled = view_with(scale_factor=0.0)
    expected = box_of(case["center_after_half_body"], case["scale_after_half_body"])
    np.testing.assert_allclose(unscaled.box_cxcywh, expected, rtol=0, atol=tolerances.WARP_MATRIX)

    view = view_with()
    expected = box_of(case["center_after_half_body"], case["scale"])
    np.testing.assert_allclose(view.box_cxcywh, expected, rtol=0, atol=tolerances.WARP_MATRIX)
    assert view.flipped == case["flipped"]
    assert view.rotation_deg == pytest.approx(float(case["rotation"]), abs=1e-9)

    udp = bool(case["use_udp"])
    _, crop_keypoints = augment.train_transform(
        view,
        keypoints,
        image_width=int(sample["image_width"]),
        crop_size=(256, 192),
        flip_index=keypoint_set(sample).flip_index,
        udp=udp,
    )
    np.testing.assert_array_equal(crop_keypoints[:, 2], case["visible"][:, 0])
    assert_same_keypoints(crop_keypoints, case["crop_joints"], udp and not view.flipped)
    _, weights = encode(crop_keypoints[None], crop_size=(256, 192), heatmap_size=(64, 48), udp=udp)
    np.testing.assert_array_equal(weights[0], case["target_weight"][:, 0])


def cut_view(image: np.ndarray, view: augment.View, crop_size: tuple[int, int], *, udp: bool) -> np.ndarray:
    matrix, _ = augment.train_transform(
        view, np.zeros((1, 3)), image_width=image.shape[1], crop_size=crop_size, flip_index=np.array([0]), udp=udp
    )
    return geometry.cut_crop(image, matrix, crop_size)


@pytest.mark.parametrize("name", numbers("samples"))
def test_crops_of_photographs(name, golden_dir):
    recorded, number = group(name), name.split("/")[1]
    sample = json.loads((golden_dir / "4_transforms/index.json").read_text())["samples"][int(number)]
    opencv4 = np.load(golden_dir / "4_transforms/samples.npz")[f"s{number}/crop"]
    opencv5 = opencv4 + np.load(golden_dir / "4_transforms/samples_numpy2_opencv5.npz")[f"s{number}/crop_minus_main"]

    image = geometry.decode_jpeg((golden_dir / sample["image"]).read_bytes())
    flipped = bool(recorded["flip"])
    box = box_of(recorded["flipped_center" if flipped else "center"], recorded["used_scale"])
    view = augment.View(box, float(recorded["rotation"]), flipped)
    crop = cut_view(image, view, tuple(recorded["crop_size"]), udp=bool(recorded["use_udp"]))
    assert_same_crop(crop, opencv4, opencv5)


@pytest.mark.parametrize("name", numbers("augmentation"))
def test_mean_colours_of_randomly_viewed_photographs(name, golden_dir):
    case, number = group(name), name.split("/")[1]
    path = json.loads((golden_dir / "4_transforms/augmentation.json").read_text())[int(number)]["image"]
    image = geometry.decode_jpeg((golden_dir / path).read_bytes())
    box = box_of(case["center_after_half_body"], case["scale"])
    view = augment.View(box, float(case["rotation"]), bool(case["flipped"]))
    mean = cut_view(image, view, (256, 192), udp=bool(case["use_udp"])).mean(axis=(0, 1))
    expected = np.load(golden_dir / "4_transforms/augmentation.npz")[f"{number}/crop_mean_rgb"]
    np.testing.assert_allclose(mean, expected, rtol=0, atol=tolerances.CROP_MEAN_LEVELS)


def assert_same_keypoints(ours: np.ndarray, recorded: np.ndarray, compare_all: bool) -> None:
    """Compares the labelled keypoints; of the others the original moves some and not others, and no one looks."""
    compared = slice(None) if compare_all else ours[:, 2] > 0
    np.testing.assert_allclose(
        ours[compared, :2], recorded[compared, :2], rtol=0, atol=tolerances.KEYPOINT_FROM_HEATMAP_PX
    )


def assert_same_crop(ours: np.ndarray, *recorded: np.ndarray) -> None:
    """Fails unless a crop is within the bounds of one of the recorded ones."""
    outcomes = []
    for crop in recorded:
        difference = np.abs(ours.astype(np.int32) - crop.astype(np.int32))
        outcomes.append((difference.max(), difference.mean(), np.mean(difference > 1)))
    bounds = (
        tolerances.CROP_MAX_LEVELS, tolerances.CROP_MEAN_LEVELS, tolerances.CROP_MORE_THAN_ONE_LEVEL_FRACTION
    )  # fmt: skip
    assert any(all(np.array(outcome) <= bounds) for outcome in outcomes), outcomes
