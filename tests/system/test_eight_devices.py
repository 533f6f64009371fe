"""The same update on eight devices as on one, whatever the mesh; what the devices exchange for it."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from tests import tolerances
from tests.conftest import ROOT
from train import train
from vitpose_jax import trees
from vitpose_jax.models import inference_weights
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.training import freezing, sharding, state, tasks, update

NUM_KEYPOINTS = {"coco": 5, "hands": 7, "paws": 2}
MODELS: dict[str, dict] = {
    "dense": {"num_keypoints": {"coco": 5}, "decoder": "simple"},
    "mixed": {"num_keypoints": NUM_KEYPOINTS, "decoder": "classic"},
    "plus": {
        "num_keypoints": NUM_KEYPOINTS, "decoder": "simple", "experts": ("paws", "coco", "hands"), "part_features": 16,
    },
}  # fmt: skip
WINDOWS = {"attention": "shift_pool", "window_size": (2, 3), "relative_positions": "full"}
# What is compared by default: a kind of model, changes to it, what it freezes, and on which meshes.
DEFAULT: tuple[tuple[str, dict, tuple[str, ...], tuple[tuple[int, int, int], ...]], ...] = (
    ("dense", {"drop_path": 0.0}, (), ((1, 1, 8),)),
    ("mixed", {}, (), ((2, 4, 1),)),
    ("plus", WINDOWS, ("backbone/blocks/norm.*", "backbone/patch_embed/.*"), ((1, 8, 1), (2, 2, 2))),
)
CROPS = 16


def model_of(kind: str, **changes) -> ViTPose:
    """Sizes that eight divides, each other than the others."""
    settings = {
        "embed_dim": 64, "depth": 2, "num_heads": 8, "mlp_dim": 128, "image_size": (64, 48), "deconv_filters": 16,
        "drop_path": 0.2, **MODELS[kind],
    }  # fmt: skip
    return vitpose(**{**settings, **changes})


def variables_of(model: ViTPose) -> dict:
    """Values of a size that makes every term of the loss and of the gradients count."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32) * np.float32(0.2)
        return 1 + np.abs(noise) if path.endswith(("scale", "var")) else noise

    return trees.map_with_path(draw, state.variable_shapes(model))


def batch_of(model: ViTPose) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    k = max(model.num_keypoints.values())
    keypoints = np.concatenate([rng.uniform(5, 43, (CROPS, k, 2)), rng.integers(0, 2, (CROPS, k, 1))], -1)
    keypoints[:, 0, 2] = 1
    return {
        "image": rng.integers(0, 256, (CROPS, *model.image_size, 3), dtype=np.uint8),
        "keypoints": keypoints.astype(np.float32),
        "dataset": (np.arange(CROPS) * 7 % 5 % len(model.num_keypoints)).astype(np.int32),
    }


def recorder(freeze: Sequence[str]) -> optax.GradientTransformation:
    """An optimizer that only keeps the gradients, as its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, freezing.trainable(params, freeze)),
        lambda gradients, state, params=None: (jax.tree.map(jnp.zeros_like, gradients), gradients),
    )


def updated(
    model: ViTPose,
    mesh: jax.sharding.Mesh,
    accumulate: int = 1,
    *,
    freeze: Sequence[str] = (),
    loss: tasks.Loss | None = None,
    batch: dict[str, jax.Array] | None = None,
) -> tuple[state.TrainState, dict, str]:
    """(state after one update on a mesh, metrics, text of the compiled program); by default of the pose loss."""
    udp = {name: name == "coco" for name in model.num_keypoints}
    loss, tx = loss or tasks.pose_loss(model, udp=udp, sigma=2.0), recorder(freeze)
    step = update.make_train_step(loss, tx, lambda step: 1e-3, jax.random.key(2), accumulate=accumulate, freeze=freeze)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.abstract_state(model, tx, mesh))
    start = state.init_state(model, tx, jax.random.key(0), mesh, variables_of(model))
    batch = batch or sharding.global_batch(batch_of(model), mesh)
    lowered = jax.jit(sharding.on_mesh(step, mesh), out_shardings=(places, None)).lower(start, batch)
    compiled = lowered.compile({"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})
    return *compiled(start, batch), compiled.as_text()


def assert_same(found: tuple, expected: tuple) -> None:
    """The same loss, gradients and running statistics, each within its tolerance."""
    loss = float(expected[1]["loss"])
    assert float(found[1]["loss"]) == pytest.approx(loss, rel=tolerances.SAME_UPDATE_LOSS_RELATIVE)
    for part in ("opt_state", "batch_stats"):
        ours, theirs = (trees.flatten(jax.device_get(getattr(result[0], part))) for result in (found, expected))
        assert ours.keys() == theirs.keys()
        for path, leaf in theirs.items():
            off, norm = np.linalg.norm(ours[path] - leaf), np.linalg.norm(leaf)
            assert norm > 0, path
            assert off <= tolerances.SAME_UPDATE_GRADIENT_RELATIVE * norm, f"{path}: {off / norm:.1e}"


def exchanged(text: str) -> dict[str, int]:
    """Bytes of the results of a compiled program's collectives, by kind; what stands in a loop counts once."""
    sizes = {"f32": 4, "s32": 4, "u32": 4, "u8": 1, "pred": 1}
    found: dict[str, int] = {}
    for result, kind in re.findall(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            found[kind] = found.get(kind, 0) + sizes[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return found


def layers_are_apart(model: ViTPose, params: dict) -> bool:
    """Whether inference would take the layers one by one, however small they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference_weights, "_SMALLEST_APART", 0)
        return isinstance(inference_weights.prepared(model, {"params": params})["params"]["backbone"]["blocks"], tuple)


def compare_meshes(kind: str, changes: dict, freeze: Sequence[str], meshes: Sequence[tuple[int, int, int]]) -> None:
    """What the subprocess below runs, on eight devices."""
    model = model_of(kind, **changes)
    one = updated(model, sharding.make_mesh(data=1, devices=jax.devices()[:1]), freeze=freeze)
    for data, fsdp, tensor in meshes:
        print(kind, data, fsdp, tensor, flush=True)
        mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
        found = updated(model, mesh, freeze=freeze)
        assert_same(found, one)
        kernel = found[0].opt_state["backbone"]["blocks"]["attn"]["qkv"]["kernel"]  # [layers, D, 3, N, d]
        assert kernel.sharding.shard_shape(kernel.shape) == (2, 64 // fsdp, 3, 8 // tensor, 8)
        assert [layers_are_apart(model, each[0].params) for each in (one, found)] == [True, False]
        if tensor == 1:
            # Parameters are gathered twice, gradients summed once, and no crop goes anywhere.
            sizes = exchanged(found[2])
            assert "all-to-all" not in sizes
            assert 0 < sum(sizes.values()) < 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(one[0].params))
    if kind == "dense":
        plain = model_of(kind, drop_path=0.0)  # parts draw other blocks to drop
        assert_same(updated(plain, mesh, accumulate=2), one if plain == model else updated(plain, mesh))


@pytest.mark.parametrize("changes, message", [
    ({"mesh.tensor": 8}, r"mesh.tensor = 8 does not divide 6 \(heads"),
    ({"train.accumulate": 3}, r"train.batch_size .* 8 times 3 parts = 24, not 64; the nearest: 48 and 72"),
])  # fmt: skip
def test_sizes_fail_before_data_is_opened(changes, message, monkeypatch):
    config = quickstart.get_config()
    config.datasets.synthetic.dir = "nowhere"
    config.update_from_flattened_dict({"model.num_heads": 6, "model.embed_dim": 192, "train.batch_size": 64, **changes})
    axes = {"data": 8 // config.mesh.tensor, "fsdp": 1, "tensor": config.mesh.tensor}
    mesh = jax.sharding.AbstractMesh(tuple(axes.values()), tuple(axes))  # of more devices than are here
    monkeypatch.setattr(sharding, "make_mesh", lambda **settings: mesh)
    with pytest.raises(ValueError, match=message):
        train(config, "nowhere")


def on_eight_devices(compared: Sequence[tuple]) -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    code = "from tests.system.test_eight_devices import compare_meshes\n" + "\n".join(
        f"compare_meshes(*{arguments!r})" for arguments in compared
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def test_meshes_give_the_update_of_one_device():
    on_eight_devices(DEFAULT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_any_mesh_gives_the_update_of_one_device(kind):
    on_eight_devices([(kind, {}, (), ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)))])
