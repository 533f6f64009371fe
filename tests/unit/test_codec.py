import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from vitpose_jax import codec, keypoints

CROP_SIZE, HEATMAP_SIZE = (256, 192), (64, 48)

encode = jax.jit(codec.encode, static_argnames=("crop_size", "heatmap_size", "sigma"))
decode = jax.jit(codec.decode, static_argnames=("method", "blur_kernel"))
encode_here = functools.partial(encode, crop_size=CROP_SIZE, heatmap_size=HEATMAP_SIZE)


def instances(number: int = 4, margin_cells: float = 0.0, seed: int = 0) -> np.ndarray:
    """float32 [number, 17, 3]: labelled keypoints, uniform at least so many cells away from the map's border."""
    rng = np.random.default_rng(seed)
    margin = margin_cells * 191 / 47
    points = rng.uniform([margin, margin], [191 - margin, 255 - margin], (number, 17, 2))
    return np.concatenate([points, np.ones((number, 17, 1))], axis=-1).astype(np.float32)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dark_by_opencv(heatmap: np.ndarray, kernel: int) -> np.ndarray:
    """One map decoded the long way: the whole map blurred by OpenCV, everything after it in float64."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    blurred = cv2.GaussianBlur(heatmap, (kernel, kernel), 0)
    f = np.pad(np.log(np.clip(blurred.astype(np.float64), 0.001, 50)), 1, mode="edge")[y : y + 3, x : x + 3]
    gradient = np.array([f[1, 2] - f[1, 0], f[2, 1] - f[0, 1]]) / 2
    dxy = (f[2, 2] - f[1, 2] - f[2, 1] + 2 * f[1, 1] - f[1, 0] - f[0, 1] + f[0, 0]) / 2
    hessian = np.array([[f[1, 2] - 2 * f[1, 1] + f[1, 0], dxy], [dxy, f[2, 1] - 2 * f[1, 1] + f[0, 1]]])
    return np.array([x, y]) - np.linalg.solve(hessian + np.finfo(np.float32).eps * np.eye(2), gradient)


# Targets


def test_a_udp_target_is_a_gaussian_around_the_exact_position():
    heatmaps, weights = encode_here(np.array([[[95.5, 60.0, 1.0]]], np.float32), udp=True)
    y, x = np.mgrid[:64, :48]
    mu_x, mu_y = 95.5 * 47 / 191, 60 * 63 / 255
    expected = np.exp(-((x - mu_x) ** 2 + (y - mu_y) ** 2) / 8)
    window = (abs(x - np.round(mu_x)) <= 6) & (abs(y - np.round(mu_y)) <= 6)
    np.testing.assert_allclose(heatmaps[0, ..., 0], np.where(window, expected, 0), atol=tolerances.TARGET)
    assert heatmaps.dtype == weights.dtype == jnp.float32 and weights[0, 0] == 1


def test_an_older_target_peaks_at_exactly_one_on_a_cell():
    heatmaps, _ = encode_here(np.array([[[97.0, 61.9, 1.0]]], np.float32), udp=False)
    assert np.argwhere(heatmaps[0, ..., 0] == 1).tolist() == [[15, 24]]


def test_conventions_may_differ_from_crop_to_crop():
    points = instances(4)
    udp = np.array([True, False, False, True])
    mixed, mixed_weights = encode_here(points, udp=udp)
    for i, flag in enumerate(udp):
        alone, weights = encode_here(points[i : i + 1], udp=flag)
        np.testing.assert_allclose(mixed[i], alone[0], atol=1e-7)
        np.testing.assert_array_equal(mixed_weights[i], weights[0])


@pytest.mark.parametrize(
    ("x", "weight", "empty"),
    [
        (-8.6, 0, True),  # the window ends two cells left of the map
        (-8.4, 1, True),  # … one cell left of it: kept, as in the original
        (-7.4, 1, False),
        (0.0, 1, False),
        (53.4, 1, False),
        (53.6, 0, True),  # the window begins right of the map
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_keypoints_outside(x, weight, empty, axis):
    """`x` in cells; along the other axis the keypoint is in the middle."""
    cells = np.array([20.0, 30.0])
    cells[axis] = x if axis == 0 or x < 0 else x + 16  # the map is 16 cells higher than wide
    points = np.array([[[*cells * 4, 1.0]]], np.float32)
    heatmaps, weights = encode_here(points, udp=False)
    assert weights[0, 0] == weight
    assert (heatmaps.max() == 0) == empty


def test_weights_are_kept_and_unlabelled_keypoints_have_empty_targets():
    points = instances(1)
    points[0, :4, 2] = [0.0, 0.5, 0.6, 2.0]
    heatmaps, weights = encode_here(points, udp=True)
    np.testing.assert_array_equal(weights[0], points[0, :, 2])
    np.testing.assert_array_equal(heatmaps.max(axis=(1, 2))[0] > 0, points[0, :, 2] > 0.5)
    assert heatmaps.max() <= 1  # a weight is no height


def test_coordinates_of_unlabelled_keypoints_may_be_anything():
    points = np.array([[[np.nan, 5.0, 0.0], [np.inf, -np.inf, 0.0], [1e30, 3.0, 0.0]]], np.float32)
    heatmaps, weights = encode_here(points, udp=True)
    assert not heatmaps.any() and not weights.any()


def test_sigma_sets_the_width():
    point = np.array([[[96.0, 128.0, 1.0]]], np.float32)
    for sigma in (1.0, 2.0, 3.0):
        heatmap = np.asarray(encode_here(point, sigma=sigma, udp=False)[0])[0, ..., 0]
        assert heatmap[32, 24 + int(sigma)] == pytest.approx(np.exp(-0.5), abs=1e-6)
        assert np.count_nonzero(heatmap[32]) == 6 * sigma + 1


# Decoders


@pytest.mark.parametrize(
    ("crop_size", "heatmap_size", "sigma", "blur_kernel", "reach"),
    [((256, 192), (64, 48), 2.0, 11, 6), ((384, 288), (96, 72), 3.0, 17, 9)],
)
def test_decoding_undoes_encoding(crop_size, heatmap_size, sigma, blur_kernel, reach):
    """Wherever the blur does not reach the border, beyond which it mirrors the map and so pulls the peak outwards."""
    rng = np.random.default_rng(0)
    size = np.array(crop_size[::-1]) - 1
    margin = reach * size / (np.array(heatmap_size[::-1]) - 1)
    points = rng.uniform(margin, size - margin, (8, 17, 2))
    labelled = np.concatenate([points, np.ones((8, 17, 1))], axis=-1).astype(np.float32)
    heatmaps, _ = encode(labelled, crop_size=crop_size, heatmap_size=heatmap_size, sigma=sigma, udp=True)
    points_hm, scores = decode(heatmaps, method="dark_udp", blur_kernel=blur_kernel)
    decoded = codec.points_to_crop(points_hm, crop_size=crop_size, heatmap_size=heatmap_size, udp=True)
    np.testing.assert_allclose(decoded, points, rtol=0, atol=tolerances.KEYPOINT_FROM_HEATMAP_PX)
    assert scores.min() > 0.88


def test_the_other_decoders_undo_encoding_to_their_precision():
    points = instances(8, margin_cells=2)
    heatmaps, _ = encode_here(points, udp=True)
    for method, cells in (("argmax", 0.5), ("quarter_shift", 0.25)):
        points_hm, _ = decode(heatmaps, method=method)
        expected = points[..., :2] / codec.heatmap_scale(CROP_SIZE, HEATMAP_SIZE, udp=True)
        assert np.abs(points_hm - expected).max() <= cells + 1e-4


@pytest.mark.parametrize(
    ("blur_kernel", "heatmap_size"),
    [(3, (8, 6)), (5, (16, 12)), (7, (16, 12)), (9, (16, 12)), (11, (64, 48)), (11, (8, 6)), (17, (20, 15))],
)
def test_dark_equals_blurring_the_whole_map(blur_kernel, heatmap_size):
    rng, (height, width) = np.random.default_rng(0), heatmap_size
    y, x = np.mgrid[:height, :width][..., None]
    centers = rng.uniform([0, 0], [width - 1, height - 1], (2, 1, 1, 5, 2))
    bumps = np.exp(-((x - centers[..., 0]) ** 2 + (y - centers[..., 1]) ** 2) / 8)
    heatmaps = (bumps + 0.05 * rng.random((2, height, width, 5))).astype(np.float32)
    points_hm, scores = decode(heatmaps, method="dark_udp", blur_kernel=blur_kernel)
    for b, k in np.ndindex(2, 5):
        expected = dark_by_opencv(heatmaps[b, ..., k], blur_kernel)
        np.testing.assert_allclose(points_hm[b, k], expected, rtol=0, atol=2e-4)
        assert scores[b, k] == heatmaps[b, ..., k].max()


@pytest.mark.parametrize(
    ("blur_kernel", "height", "width"), [(3, 4, 1), (5, 5, 8), (7, 5, 8), (9, 5, 8), (11, 8, 6), (17, 20, 4)]
)
def test_the_blur_mirrors_maps_smaller_than_its_window(blur_kernel, height, width):
    heatmap = noise(height, width)
    blurred = np.pad(cv2.GaussianBlur(heatmap, (blur_kernel, blur_kernel), 0), 1, mode="edge")
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1)
    batch = np.broadcast_to(heatmap[None, ..., None], (len(x), height, width, 1))
    cells = jax.jit(codec._blurred_cells, static_argnums=3)(batch, x, y, blur_kernel)
    expected = np.lib.stride_tricks.sliding_window_view(blurred, (3, 3)).reshape(-1, 1, 3, 3)
    np.testing.assert_allclose(cells, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["dark_udp", "quarter_shift", "argmax"])
@pytest.mark.parametrize("height", [0.0, -1.0])
def test_maps_without_a_value_above_zero_have_no_position(method, height):
    points_hm, scores = decode(np.full((2, 16, 12, 3), height, np.float32), method=method)
    np.testing.assert_array_equal(points_hm, np.full((2, 3, 2), -1.0))
    np.testing.assert_array_equal(scores, np.full((2, 3), height))


@pytest.mark.parametrize("blur_kernel", [3, 11])
def test_flat_and_straight_maps_give_finite_points(blur_kernel):
    y, x = np.mgrid[:16, :12].astype(np.float32)
    maps = [np.full_like(x, 0.3), np.full_like(x, 1e-6), np.full_like(x, 1e6), np.exp(x), np.exp(-y), x + y, x * y]
    points_hm, _ = decode(np.stack(maps, axis=-1)[None], method="dark_udp", blur_kernel=blur_kernel)
    assert np.isfinite(points_hm).all()


def test_a_singular_hessian_moves_nothing():
    eps = np.finfo(np.float32).eps
    f = np.zeros((1, 1, 3, 3), np.float32)
    f[..., 1, 2] = f[..., 2, 2] = -eps  # the curvature along x cancels the constant that is added to it
    assert codec._newton_step(jnp.asarray(f)).tolist() == [[[0, 0]]]


def test_a_slope_without_curvature_moves_by_the_added_constant_alone():
    eps = np.finfo(np.float32).eps
    f = np.zeros((1, 1, 3, 3), np.float32) + eps * np.array([-3, 0, 3], np.float32)
    assert codec._newton_step(jnp.asarray(f)).tolist() == [[[3, 0]]]


def test_the_first_of_equal_peaks_in_reading_order_counts():
    heatmap = np.zeros((1, 16, 12, 1), np.float32)
    for y, x in ((9, 2), (5, 7), (5, 9)):
        heatmap[0, y, x] = 1
    assert decode(heatmap, method="argmax")[0].tolist() == [[[7, 5]]]


def test_the_quarter_shift_needs_a_cell_between_the_peak_and_the_border():
    for x, expected in ((0, 0), (1, 1), (2, 2.25), (9, 9.25), (10, 10.25), (11, 11)):
        heatmap = np.zeros((1, 16, 12, 1), np.float32)
        heatmap[0, 8, x] = 1
        heatmap[0, 8, x + 1 : x + 2] = 0.5
        assert decode(heatmap, method="quarter_shift")[0].tolist() == [[[expected, 8]]]


@pytest.mark.parametrize("method", ["dark_udp", "quarter_shift", "argmax"])
@pytest.mark.parametrize("shape", [(2, 8, 6, 17), (3, 64, 48, 1), (1, 2, 2, 3), (1, 1, 1, 1), (1, 1, 7, 2)])
def test_any_shape(method, shape):
    heatmaps = np.abs(noise(*shape)) + 0.1
    points_hm, scores = decode(heatmaps, method=method)
    assert points_hm.shape == (shape[0], shape[3], 2) and scores.shape == (shape[0], shape[3])
    assert np.isfinite(points_hm).all()
    np.testing.assert_array_equal(scores, heatmaps.max(axis=(1, 2)))


@pytest.mark.parametrize("method", ["dark_udp", "quarter_shift", "argmax"])
def test_bfloat16_maps_are_read_in_float32(method):
    heatmaps = jnp.asarray(encode_here(instances(2), udp=True)[0], jnp.bfloat16)
    points_hm, scores = decode(heatmaps, method=method)
    expected, _ = decode(heatmaps.astype(jnp.float32), method=method)
    assert points_hm.dtype == scores.dtype == jnp.float32
    np.testing.assert_array_equal(points_hm, expected)


def test_batches_of_more_cells_than_float32_can_count():
    """64 x 133 maps have more than 2^24 cells, beyond which the original's float32 indices go wrong."""
    heatmaps = np.zeros((64, 64, 48, 133), np.float32)
    rng = np.random.default_rng(0)
    x, y = rng.integers(8, 40, (64, 133)), rng.integers(8, 56, (64, 133))
    b, k = np.mgrid[:64, :133]
    heatmaps[b, y, x, k] = 1
    points_hm, _ = decode(heatmaps, method="dark_udp")
    np.testing.assert_allclose(points_hm, np.stack([x, y], axis=-1), atol=1e-4)


def test_unknown_choices_are_refused():
    heatmaps = noise(1, 8, 6, 1)
    with pytest.raises(ValueError, match=r"'darkpose' is unknown.*dark_udp"):
        codec.decode(heatmaps, method="darkpose")
    with pytest.raises(ValueError, match="blur_kernel is 10"):
        codec.decode(heatmaps, method="dark_udp", blur_kernel=10)
    with pytest.raises(ValueError, match="heatmap_size"):
        codec.heatmap_scale(CROP_SIZE, (64, 1), udp=True)


# Maps between spaces


def test_points_reach_the_edges_of_the_crop():
    corner = jnp.array([47.0, 63.0])
    sizes = {"crop_size": CROP_SIZE, "heatmap_size": HEATMAP_SIZE}
    assert codec.points_to_crop(corner, **sizes, udp=True).tolist() == pytest.approx([191, 255])
    assert codec.points_to_crop(corner, **sizes, udp=False).tolist() == [188, 252]


def test_points_go_through_each_crops_own_matrix():
    matrices, points = noise(3, 2, 3), noise(3, 5, 2, seed=1)
    expected = np.einsum("bij,bkj->bki", matrices[..., :2], points) + matrices[:, None, :, 2]
    np.testing.assert_allclose(codec.points_to_image(points, matrices), expected, rtol=1e-5, atol=1e-6)


# Flip test


def test_flipping_twice_is_the_identity():
    heatmaps, flip_index = noise(2, 8, 6, 17), keypoints.COCO.flip_index
    once = codec.flip_heatmaps(heatmaps, flip_index, shift=False)
    assert not np.array_equal(once, heatmaps)
    np.testing.assert_array_equal(codec.flip_heatmaps(once, flip_index, shift=False), heatmaps)
    np.testing.assert_array_equal(codec.merge_flip(heatmaps, once, flip_index, shift=False), heatmaps)


def test_the_shift_moves_the_flipped_maps_one_cell_to_the_right():
    heatmaps, flip_index = noise(2, 8, 6, 17), keypoints.COCO.flip_index
    plain, shifted = (codec.flip_heatmaps(heatmaps, flip_index, shift=shift) for shift in (False, True))
    np.testing.assert_array_equal(shifted[:, :, 1:], plain[:, :, :-1])
    np.testing.assert_array_equal(shifted[:, :, 0], plain[:, :, 0])


@pytest.mark.parametrize("udp", [True, False])
def test_maps_of_the_mirrored_crop_come_back_in_place(udp):
    """Each convention has its own axis of symmetry: the older one needs the shift."""
    points = instances(4, margin_cells=8)
    points[..., 0] = points[..., 0].round() if udp else points[..., 0].round() // 4 * 4
    mirrored = points[:, keypoints.COCO.flip_index]
    mirrored[..., 0] = (191 if udp else 192) - mirrored[..., 0]
    heatmaps, _ = encode_here(points, udp=udp)
    back = codec.flip_heatmaps(encode_here(mirrored, udp=udp)[0], keypoints.COCO.flip_index, shift=not udp)
    np.testing.assert_allclose(decode(back, method="argmax")[0], decode(heatmaps, method="argmax")[0])
    np.testing.assert_allclose(back, heatmaps, atol=1e-4 if udp else 1e-7)


# Accuracy


def test_accuracy_counts_labelled_keypoints_within_a_twentieth():
    points = instances(4)
    target, weights = encode_here(points, udp=True)
    accuracy = jax.jit(codec.heatmap_accuracy)
    assert accuracy(target, target, weights) == 1
    assert accuracy(target, target, jnp.zeros_like(weights)) == 0
    assert accuracy(-target, target, weights) == 0
    wrong = target.at[0, ..., :2].set(0)  # two keypoints of one crop in four
    assert accuracy(wrong, target, weights) == pytest.approx(1 - 2 * 0.25 / 17)
    assert accuracy(wrong, target, weights.at[0, :2].set(0)) == 1


def test_accuracy_measures_x_by_the_height_and_y_by_the_width():
    def peak(x: int, y: int) -> np.ndarray:
        return np.zeros((1, 64, 48, 1), np.float32) + ((np.mgrid[:64, :48] == [[[y]], [[x]]]).all(0))[None, ..., None]

    target, ones = peak(20, 20), np.ones((1, 1), np.float32)
    # A twentieth of 64 cells is 3.2, of 48 cells 2.4.
    outcomes = [
        float(codec.heatmap_accuracy(peak(x, y), target, ones)) for x, y in ((23, 20), (24, 20), (20, 22), (20, 23))
    ]
    assert outcomes == [1, 0, 1, 0]


def test_accuracy_can_stand_beside_a_differentiated_loss():
    target, weights = encode_here(instances(1), udp=True)

    def loss(pred: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (pred**2).sum(), codec.heatmap_accuracy(pred, target, weights)

    gradient, accuracy = jax.jit(jax.grad(loss, has_aux=True))(target)
    np.testing.assert_allclose(gradient, 2 * target)
    assert accuracy == 1
