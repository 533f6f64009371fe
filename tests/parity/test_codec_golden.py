"""Targets, decoders, flip test and training accuracy against values recorded from the original code."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from tests import tolerances
from tests.golden import reduce_codec
from vitpose_jax import codec, geometry

REDUCED = dict(np.load(pathlib.Path(reduce_codec.__file__).with_name("codec.npz")))

encode = jax.jit(codec.encode, static_argnames=("crop_size", "heatmap_size", "sigma", "udp"))
decode = jax.jit(codec.decode, static_argnames=("method", "blur_kernel"))

# The original's names of its decoders: method, size of the blur, convention of the map to image pixels.
DECODERS = {
    "udp_k11": ("dark_udp", 11, True),
    "udp_k17": ("dark_udp", 17, True),
    "udp_k3": ("dark_udp", 3, True),
    "default": ("quarter_shift", 11, False),
    "argmax": ("argmax", 11, False),
}


@functools.cache
def everything(golden: pathlib.Path) -> dict[str, np.ndarray]:
    return reduce_codec.collect(golden, everything=True)


@pytest.fixture(params=["reduced", "full"])
def recorded(request) -> dict[str, np.ndarray]:
    return REDUCED if request.param == "reduced" else everything(request.getfixturevalue("golden_dir"))


def channels_last(heatmaps: np.ndarray) -> np.ndarray:
    return np.moveaxis(heatmaps, -3, -1)


def to_image(points_hm: jax.Array, center: np.ndarray, scale: np.ndarray, heatmap_size: tuple, udp: bool) -> np.ndarray:
    """Heatmap cells to image pixels through a crop four times the heatmap's size."""
    crop_size = (heatmap_size[0] * 4, heatmap_size[1] * 4)
    boxes = np.concatenate([center, scale * 200], axis=1)
    matrices = [geometry.invert(geometry.crop_matrix(box, crop_size, udp=udp)) for box in boxes]
    points_crop = codec.points_to_crop(points_hm, crop_size=crop_size, heatmap_size=heatmap_size, udp=udp)
    return np.asarray(codec.points_to_image(points_crop, np.array(matrices, np.float32)))


def decode_to_image(heatmaps, center, scale, decoder: str) -> tuple[np.ndarray, np.ndarray]:
    method, blur_kernel, udp = DECODERS[decoder]
    points, scores = decode(channels_last(heatmaps), method=method, blur_kernel=blur_kernel)
    return to_image(points, center, scale, heatmaps.shape[-2:], udp), np.asarray(scores)


def assert_points(ours: np.ndarray, recorded: np.ndarray) -> None:
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=tolerances.KEYPOINT_FROM_HEATMAP_PX)


def test_the_reduced_values_are_the_recorded_ones(golden_dir):
    full = reduce_codec.collect(golden_dir, everything=False)
    assert full.keys() == REDUCED.keys()
    for key, value in full.items():
        np.testing.assert_array_equal(REDUCED[key], value, err_msg=key)


def test_targets(recorded):
    names = {"/".join(key.split("/")[:2]) for key in recorded if key.startswith("targets/")}
    for name in sorted(names):
        target = recorded[f"{name}/target"]
        heatmaps, weights = encode(
            recorded[f"{name}/keypoints"][None],
            crop_size=tuple(recorded[f"{name}/crop_size"].tolist()),
            heatmap_size=target.shape[1:],
            sigma=float(recorded[f"{name}/sigma"]),
            udp=bool(recorded[f"{name}/udp"]),
        )
        np.testing.assert_allclose(heatmaps[0], channels_last(target), rtol=0, atol=tolerances.TARGET, err_msg=name)
        np.testing.assert_array_equal(weights[0], recorded[f"{name}/weight"][:, 0], err_msg=name)


@pytest.mark.parametrize(
    ("name", "sigma", "udp"), [("udp_s2", 2.0, True), ("udp_s3", 3.0, True), ("msra_s2", 2.0, False)]
)
def test_targets_at_and_beyond_the_border(name, sigma, udp):
    joints, visible = REDUCED["target_edges/joints"], REDUCED["target_edges/visible"]
    keypoints = np.concatenate([joints[:, :2], visible[:, :1]], axis=1)[None]
    heatmaps, weights = encode(keypoints, crop_size=(256, 192), heatmap_size=(64, 48), sigma=sigma, udp=udp)
    target = channels_last(REDUCED[f"target_edges/target_{name}"])
    np.testing.assert_allclose(heatmaps[0], target, rtol=0, atol=tolerances.TARGET)
    np.testing.assert_array_equal(weights[0], REDUCED[f"target_edges/weight_{name}"][:, 0])


@pytest.mark.parametrize(
    ("prefix", "decoder"),
    [
        (prefix, name)
        for prefix in ("", "big_", "real_")
        for name in DECODERS
        if f"decode/{prefix}{name}_preds" in REDUCED
    ],
)
def test_decoders(recorded, prefix, decoder):
    values = {key.removeprefix(f"decode/{prefix}"): value for key, value in recorded.items()}
    points, scores = decode_to_image(values["heatmaps"], values["center"], values["scale"], decoder)
    assert_points(points, values[f"{decoder}_preds"])
    if f"{decoder}_maxvals" in values:
        np.testing.assert_array_equal(scores, values[f"{decoder}_maxvals"][..., 0])


def test_decoders_at_the_border_and_on_odd_maps():
    values = {key.removeprefix("edge_cases/"): value for key, value in REDUCED.items()}
    heatmaps, center, scale = values["heatmaps"], values["center"], values["scale"]
    points, scores = decode_to_image(heatmaps, center, scale, "default")
    assert_points(points, values["default_preds"])
    np.testing.assert_array_equal(scores, values["default_maxvals"][..., 0])
    np.testing.assert_array_equal(decode(channels_last(heatmaps), method="argmax")[0], values["argmax"])

    points, scores = decode_to_image(heatmaps, center, scale, "udp_k11")
    np.testing.assert_array_equal(scores, values["udp_maxvals"][..., 0])
    # On a map without a value above 0 the original reads its neighbour in memory: there is nothing to equal.
    empty = ~(values["udp_maxvals"][0, :, 0] > 0)
    assert set(values["names"][empty]) == {"all_zero", "all_negative", "all_zero_last"}
    assert_points(points[:, ~empty], values["udp_preds"][:, ~empty])
    points_hm, _ = decode(channels_last(heatmaps), method="dark_udp")
    assert_points(points_hm[:, ~empty], values["udp_heatmap_coords"][:, ~empty])
    np.testing.assert_array_equal(points_hm[:, empty], np.full((1, 3, 2), -1.0))


def test_an_empty_map_leaves_the_next_one_alone():
    values = {key.removeprefix("edge_cases/zero_first_"): value for key, value in REDUCED.items()}
    center, scale = REDUCED["edge_cases/center"], REDUCED["edge_cases/scale"]
    points, scores = decode_to_image(values["heatmaps"], center, scale, "udp_k11")
    np.testing.assert_array_equal(scores, values["maxvals"][..., 0])
    assert_points(points[:, 1], values["preds"][:, 1])


def test_blur():
    """The blurred logarithm around every cell, borders included."""
    heatmaps = channels_last(REDUCED["edge_cases/heatmaps"][:, :4])
    expected = channels_last(REDUCED["edge_cases/blurred_log_heatmaps_first4"])
    height, width = expected.shape[:2]
    padded = np.pad(expected, [(1, 1), (1, 1), (0, 0)], mode="edge")
    blurred_cells = jax.jit(codec._blurred_cells, static_argnums=3)
    for y, x in [(0, 0), (0, width - 1), (height - 1, 0), (2, 5), (5, 2), (30, 20), (height - 1, width - 1), (63, 7)]:
        cells = blurred_cells(heatmaps, np.full((1, 4), x), np.full((1, 4), y), 11)[0]
        ours = np.log(np.clip(cells, 0.001, 50))
        np.testing.assert_allclose(
            ours, np.moveaxis(padded[y : y + 3, x : x + 3], -1, 0), rtol=0, atol=tolerances.HEATMAP
        )


def test_flip_test(recorded):
    values = {key.removeprefix("decode/"): value for key, value in recorded.items()}
    heatmaps = channels_last(values["heatmaps"])
    flip_index = np.arange(heatmaps.shape[-1])
    for left, right in values["flip_pairs"]:
        flip_index[[left, right]] = right, left
    for shift, prefix, decoder in ((False, "flip", "udp_k11"), (True, "flip_shift", "default")):
        back = values[f"{prefix}_back_person0_first4"]
        ours = codec.flip_heatmaps(heatmaps, flip_index, shift=shift)
        np.testing.assert_array_equal(np.moveaxis(ours[0], -1, 0)[: len(back)], back)

        merged = codec.merge_flip(np.roll(heatmaps, 1, axis=0), heatmaps, flip_index, shift=shift)
        merged = np.moveaxis(np.asarray(merged), -1, 1)
        points, scores = decode_to_image(merged, values["center"], values["scale"], decoder)
        assert_points(points, values[f"{prefix}_avg_preds"])
        np.testing.assert_array_equal(scores, values[f"{prefix}_avg_maxvals"][..., 0])


@pytest.mark.parametrize("udp", [False, True])
def test_points_to_image(udp):
    values = {key.removeprefix("accuracy_and_nms/tp_"): value for key, value in REDUCED.items()}
    points = to_image(values["coords"][None], values["center"][None], values["scale"][None], (64, 48), udp)
    assert_points(points[0], values[f"udp{int(udp)}"])


def test_heatmap_accuracy():
    values = {key.removeprefix("accuracy_and_nms/"): value for key, value in REDUCED.items()}
    size = tuple(values["heatmap_size_HW"])

    def peaks(points: np.ndarray) -> np.ndarray:
        """Heatmaps with a single cell set; none for the point (-1, -1)."""
        heatmaps = np.zeros((points.shape[0], *size, points.shape[1]), np.float32)
        for b, k in np.ndindex(*points.shape[:2]):
            x, y = points[b, k].astype(int)
            if x >= 0:
                heatmaps[b, y, x, k] = 1
        return heatmaps

    pred, target = peaks(values["pred_argmax"]), peaks(values["target_argmax"])
    np.testing.assert_array_equal(decode(pred, method="argmax")[0], values["pred_argmax"])
    accuracy = jax.jit(codec.heatmap_accuracy)
    assert float(accuracy(pred, target, values["mask"])) == pytest.approx(float(values["avg_acc"]), abs=1e-6)
    for k, expected in enumerate(values["acc"]):  # -1 where the keypoint counts nowhere
        only = values["mask"] & (np.arange(len(values["acc"])) == k)
        assert float(accuracy(pred, target, only)) == pytest.approx(max(float(expected), 0.0), abs=1e-6)
