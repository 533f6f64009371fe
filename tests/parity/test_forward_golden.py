"""Heatmaps and features of full-size models against the original PyTorch code, weights by rule."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.golden import weights
from vitpose_jax import geometry
from vitpose_jax.convert import rules
from vitpose_jax.evaluation.predict import make_predict
from vitpose_jax.keypoints import COCO
from vitpose_jax.models import vit, vitpose

HEADS = {"coco": "keypoint_head"}


def official_shapes(model: vitpose.ViTPose) -> dict[str, tuple[int, ...]]:
    """Shapes of the official state dict of a dense model with one decoder, from the facts of its layout."""
    dim, mlp = model.backbone["embed_dim"], model.backbone["mlp_dim"]
    rows, cols = vit.patch_grid(model.image_size, model.backbone["ratio"])
    shapes = {
        "backbone.pos_embed": (1, 1 + rows * cols, dim),
        "backbone.patch_embed.proj.weight": (dim, 3, 16, 16),
        "backbone.patch_embed.proj.bias": (dim,),
        "backbone.last_norm.weight": (dim,),
        "backbone.last_norm.bias": (dim,),
    }
    for i in range(model.backbone["depth"]):
        block = f"backbone.blocks.{i}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (dim,), f"{block}{norm}.bias": (dim,)}
        for layer, out, into in (
            ("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim), ("mlp.fc1", mlp, dim), ("mlp.fc2", dim, mlp),
        ):  # fmt: skip
            shapes |= {f"{block}{layer}.weight": (out, into), f"{block}{layer}.bias": (out,)}
    (k,) = model.num_keypoints.values()
    if model.decoder == "simple":
        return shapes | {"keypoint_head.final_layer.weight": (k, dim, 3, 3), "keypoint_head.final_layer.bias": (k,)}
    channels = model.deconv_filters
    for i, into in enumerate((dim, channels)):
        head = "keypoint_head.deconv_layers."
        shapes[f"{head}{3 * i}.weight"] = (into, channels, 4, 4)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{head}{3 * i + 1}.{leaf}"] = (channels,)
    return shapes | {"keypoint_head.final_layer.weight": (k, channels, 1, 1), "keypoint_head.final_layer.bias": (k,)}


def golden_variables(model: vitpose.ViTPose) -> dict:
    """The variables of a model under the weight rule."""
    images = jnp.zeros((1, *model.image_size, 3))
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    state = weights.state_dict(official_shapes(model))
    return rules.from_torch(state, shapes, decoder_prefixes=HEADS)


def heatmaps(model, variables, images) -> np.ndarray:
    """NCHW float or NHWC uint8 images to N,K,h,w heatmaps, at the highest precision."""
    if images.dtype != np.uint8:
        images = images.transpose(0, 2, 3, 1)
    with jax.default_matmul_precision("highest"):
        result = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    return np.asarray(result["coco"]).transpose(0, 3, 1, 2)


def features(model, variables, images) -> np.ndarray:
    encoder = vit.ViT(**model.backbone, dtype=model.dtype)
    with jax.default_matmul_precision("highest"):
        result = jax.jit(lambda v, x: encoder.apply(v, vitpose.normalize(x), train=False))(
            {"params": variables["params"]["backbone"]}, images
        )
    return np.asarray(result).transpose(0, 3, 1, 2)


RANDOM_IMAGE = weights.normal("input.random", (3, 256, 192))


def small_model() -> vitpose.ViTPose:
    return vitpose.vitpose(size="s", num_keypoints={"coco": 17})


def test_small_classic_heatmaps_of_a_random_image(forward_golden):
    model = small_model()
    ours = heatmaps(model, golden_variables(model), RANDOM_IMAGE[None])[0]
    np.testing.assert_allclose(ours[:, ::2, ::2], forward_golden["small_random_even_cells"], atol=tolerances.HEATMAP)


def test_a_tanh_gelu_fails(forward_golden, monkeypatch):
    monkeypatch.setattr(vit, "gelu", lambda x: jax.nn.gelu(x, approximate=True))
    model = small_model()
    ours = heatmaps(model, golden_variables(model), RANDOM_IMAGE[None])[0]
    assert np.abs(ours[:, ::2, ::2] - forward_golden["small_random_even_cells"]).max() > 2 * tolerances.HEATMAP


def test_norm_epsilons_on_a_model_whose_activations_make_them_matter(forward_golden):
    model = vitpose.vitpose(
        embed_dim=32, depth=int(forward_golden["eps_depth"]), num_heads=int(forward_golden["eps_heads"]), mlp_dim=128,
        image_size=(64, 48), num_keypoints={"coco": 5}, deconv_filters=int(forward_golden["eps_filters"]),
    )  # fmt: skip
    images = forward_golden["eps_input"]
    shapes = jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, 64, 48, 3)), train=False), jax.random.key(0))
    state = {name[3:]: value for name, value in forward_golden.items() if name.startswith("w::")}
    variables = rules.from_torch(state, shapes, decoder_prefixes=HEADS)
    ours = heatmaps(model, variables, images)
    np.testing.assert_allclose(ours, forward_golden["eps_heatmaps"], atol=tolerances.HEATMAP)


@pytest.mark.parametrize("name, size, decoder", [
    ("vitpose_s_classic", "s", "classic"), ("vitpose_b_classic", "b", "classic"), ("vitpose_b_simple", "b", "simple"),
])  # fmt: skip
def test_photographs(golden_dir, name, size, decoder):
    recorded = np.load(golden_dir / f"1_forward/{name}_256x192.npz")
    index = json.loads((golden_dir / "1_forward/index.json").read_text())["models"][f"{name}_256x192"]
    crops = np.load(golden_dir / "1_forward/inputs.npz")["u8_256x192"]
    model = vitpose.vitpose(size=size, decoder=decoder, num_keypoints={"coco": 17})
    variables = golden_variables(model)
    np.testing.assert_allclose(
        heatmaps(model, variables, crops), recorded["heatmaps"][: len(crops)], atol=tolerances.HEATMAP
    )
    step = index["feature_channel_step"]
    ours = features(model, variables, crops[:1])[0]
    np.testing.assert_allclose(ours[::step], recorded["features0"], atol=tolerances.FEATURE)


PLUS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")


def test_vitpose_plus_with_every_data_set(golden_dir):
    """ViTPose++-S: each data set's expert and decoder, and crops of two data sets in one batch."""
    recorded = np.load(golden_dir / "1_forward/vitpose_plus_s_256x192.npz")
    index = json.loads((golden_dir / "1_forward/index.json").read_text())["models"]["vitpose_plus_s_256x192"]
    keys = json.loads((golden_dir / "1_forward/vitpose_plus_s_256x192.keys.json").read_text())
    crops = np.load(golden_dir / "1_forward/inputs.npz")["u8_256x192"]
    model = vitpose.vitpose(
        size="s", experts=PLUS, part_features=192, num_keypoints=dict(zip(PLUS, index["out_channels"], strict=True))
    )
    prefixes = rules.decoder_prefixes(PLUS)
    shapes = jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, 256, 192, 3)), train=False), jax.random.key(0))
    state = weights.state_dict({name: entry["shape"] for name, entry in keys.items()})
    variables = rules.from_torch(state, shapes, decoder_prefixes=prefixes)
    assert all(name.endswith("num_batches_tracked") for name in state)  # all others were taken
    with jax.default_matmul_precision("highest"):
        own = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, crops)
        experts = jnp.array([PLUS.index("ap10k"), PLUS.index("coco")])
        mixed = jax.jit(lambda v, x, e: model.apply(v, x, train=False, expert=e))(variables, crops, experts)
    for i, name in enumerate(PLUS):
        used = index["inputs_per_dataset"][name]
        step = index["wholebody_heatmap_channel_step"] if name == "wholebody" else 1
        expected = recorded[f"heatmaps_{i}_{name}"]
        ours = np.asarray(own[name]).transpose(0, 3, 1, 2)[used, ::step]
        np.testing.assert_allclose(ours, expected, atol=tolerances.HEATMAP, err_msg=name)
    for row, name in enumerate(("ap10k", "coco")):
        np.testing.assert_allclose(mixed[name][row], own[name][row], atol=tolerances.HEATMAP)


def test_keypoints_through_the_flip_test(golden_dir):
    """From crops to image pixels, both passes, DARK-UDP decoding."""
    recorded = np.load(golden_dir / "1_forward/vitpose_s_classic_256x192.npz")
    inputs = np.load(golden_dir / "1_forward/inputs.npz")
    model = small_model()
    predict = make_predict(model, dataset="coco", flip_index=COCO.flip_index, udp=True, flip_test=True, blur_kernel=11)
    boxes = np.concatenate([inputs["center"], inputs["scale"] * 200], axis=1)
    crop_to_image = np.stack([geometry.invert(geometry.crop_matrix(box, (256, 192), udp=True)) for box in boxes])
    with jax.default_matmul_precision("highest"):
        points, scores = jax.jit(predict)(golden_variables(model), inputs["u8_256x192"], crop_to_image)
    expected = recorded["flip_preds"]
    found = expected[..., 2] > 0  # of a map without a positive value the original reads memory beside it
    assert found.sum() >= 30
    limit = tolerances.KEYPOINT_THROUGH_FLIP_TEST_PX
    np.testing.assert_allclose(np.asarray(points)[found], expected[found, :2], atol=limit)
    np.testing.assert_allclose(scores, expected[..., 2], atol=tolerances.HEATMAP)
