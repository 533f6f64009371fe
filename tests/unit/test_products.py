"""Products: in bfloat16 as exact as bfloat16 can be, and so are their gradients, none of which is a float32 product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests.random_models import random_model
from vitpose_jax import trees
from vitpose_jax.models import inference_weights, placement, products, vit
from vitpose_jax.models.products import dot_general, matmul, product

SPECS = [
    ("...qd,...kd->...qk", (2, 3, 5, 4), (2, 3, 6, 4)),
    ("blc,bcf->blf", (2, 5, 4), (2, 4, 3)),
    ("rc,cf->rf", (5, 4), (4, 3)),
]


def gradients(function, x, y, cotangent):
    result, backward = jax.vjp(function, x, y)
    return (result, *backward(cotangent.astype(result.dtype)))


@pytest.mark.parametrize(("spec", "left", "right"), SPECS, ids=lambda value: str(value))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_products_and_gradients(spec, left, right, dtype):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16).astype(dtype) for shape in (left, right))
    wide = [each.astype(jnp.float32) for each in (x, y)]
    cotangent = jnp.asarray(rng.integers(-3, 4, jnp.einsum(spec, *wide).shape), jnp.float32)
    want = gradients(lambda x, y: jnp.einsum(spec, x, y, precision="highest"), *wide, cotangent)
    for result_dtype in (dtype, jnp.float32):
        found = gradients(lambda x, y, result_dtype=result_dtype: product(spec, x, y, result_dtype), x, y, cotangent)
        assert [each.dtype for each in found] == [result_dtype, dtype, dtype]
        for ours, exact in zip(found, want, strict=True):
            tolerance = 2**-8 if ours.dtype == jnp.bfloat16 else 1e-6
            np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=tolerance, atol=tolerance)


def products_in(jaxpr) -> list:
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(tuple(side.aval.dtype for side in (*equation.invars, *equation.outvars)))
        for inside in jaxprs_in_params(equation.params):
            found += products_in(inside)
    return found


def test_no_product_of_a_bfloat16_block_is_in_float32():
    """Forward and backward; on a CPU, where bfloat16 products are fast only so, results are float32."""
    block = vit.Block(2, 16, 0, 0, 1e-6, jnp.bfloat16, train=False, stochastic=False)
    x = jnp.ones((2, 6, 8), jnp.bfloat16)
    variables = block.init(jax.random.key(0), x, 0.0, None)

    def loss(variables, x):
        return block.apply(variables, x, 0.0, None)[0].astype(jnp.float32).sum()

    found = products_in(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(variables, x).jaxpr)
    assert len(found) == 3 * 6
    narrow, wide = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    assert set(found) == {(narrow, narrow, wide)}


def test_elsewhere_results_are_bfloat16():
    """A program for a described mesh is traced on a CPU and does not run there."""
    x = jnp.ones((2, 2), jnp.bfloat16)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        found = products_in(jax.make_jaxpr(lambda x: matmul(x, x))(x).jaxpr)
    assert found == [(jnp.dtype(jnp.bfloat16),) * 3]


def test_dense_layers_and_rows():
    x, y = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(20.0).reshape(4, 5)
    narrow = [each.astype(jnp.bfloat16) for each in (x, y)]
    for found in (matmul(*narrow), dot_general(*narrow, (((2,), (0,)), ((), ())))):
        np.testing.assert_allclose(found.astype(jnp.float32), x @ y, rtol=2**-8)
    heads = jnp.ones((2, 2, 5), jnp.bfloat16)  # [N, d, D], contracted over two axes
    two = dot_general(jnp.ones((3, 2, 2), jnp.bfloat16), heads, (((1, 2), (0, 1)), ((), ())))
    assert two.shape == (3, 5) and float(two[0, 0]) == 4.0
    with pytest.raises(NotImplementedError, match="batch"):
        dot_general(*narrow, (((2,), (0,)), ((0,), (1,))))


@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_prepared_weights_give_the_same_heatmaps_to_the_bit(decoder):
    loaded = random_model(decoder=decoder, depth=1, dtype="bfloat16")
    crops = np.random.default_rng(0).integers(0, 256, (1, *loaded.model.image_size, 3), dtype=np.uint8)
    small = inference_weights.prepared(loaded.model, loaded.variables)
    ours, want = (jax.jit(lambda v, c: loaded.model.apply(v, c, train=False))(each, crops)["coco"]
                  for each in (small, loaded.variables))  # fmt: skip
    np.testing.assert_array_equal(ours, want)
    sizes = [sum(leaf.nbytes for leaf in trees.flatten(each).values()) for each in (small, loaded.variables)]
    assert sizes[0] < 0.6 * sizes[1]
    plain = random_model(depth=1)
    assert inference_weights.prepared(plain.model, plain.variables) is plain.variables


def test_weights_that_come_as_bits_are_the_same_weights():
    loaded = random_model(dtype="bfloat16")
    stacked = [path for path, leaf in trees.flatten(inference_weights.prepared(loaded.model, loaded.variables)).items()
               if leaf.dtype == products.BITS]  # fmt: skip
    assert stacked and all(path.startswith("params/backbone/blocks/") for path in stacked)
    weights = jnp.asarray([1.0, -0.1, 3e38], jnp.bfloat16)
    np.testing.assert_array_equal(products.as_weights(products.as_bits(weights)), weights)
    assert products.as_weights(weights) is weights


LARGE_BLOCKS = {"embed_dim": 512, "mlp_dim": 2048, "depth": 2}  # 12 MiB a block in float32


@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": "bfloat16", "embed_dim": 768}, {"attention": "shift", "window_size": (2, 3)},
     {"experts": ("coco", "ap10k"), "part_features": 128}],
    ids=["float32", "bfloat16", "windows", "experts"],
)  # fmt: skip
def test_large_blocks_come_layer_by_layer_on_one_cpu(settings):
    loaded = random_model(**LARGE_BLOCKS | settings)
    crops = np.random.default_rng(0).integers(0, 256, (2, *loaded.model.image_size, 3), dtype=np.uint8)
    variables = jax.device_put(loaded.variables)
    layers = inference_weights.prepared(loaded.model, variables)
    assert [type(inference_weights._blocks(each)) for each in (layers, variables)] == [tuple, dict]
    apply = jax.jit(lambda variables, crops: loaded.model.apply(variables, crops, train=False)["coco"])
    found, want = apply(layers, crops), apply(variables, crops)
    if loaded.model.dtype == jnp.float32:
        np.testing.assert_allclose(found, want, atol=2e-5 * float(jnp.abs(want).max()))
    else:  # which roundings XLA leaves out depends on what it sees at once
        exact = random_model(**LARGE_BLOCKS | settings | {"dtype": "float32"}).model
        exact = exact.apply(variables, crops, train=False)["coco"]
        errors = [float(jnp.abs(each - exact).mean()) for each in (found, want)]
        assert 0 < errors[0] < 1.1 * errors[1]
    again = inference_weights.stacked(layers)
    jax.tree.map(np.testing.assert_array_equal, again, inference_weights._rounded(loaded.model, variables))
    assert inference_weights.stacked(again) is again
    assert inference_weights.prepared(loaded.model, layers) is layers
    twice = inference_weights.prepared(loaded.model, inference_weights._rounded(loaded.model, variables))
    jax.tree.map(np.testing.assert_array_equal, twice, layers)
    with pytest.raises(ValueError, match="prepared for inference cannot be trained"):
        loaded.model.apply(layers, crops, train=True, mutable=["batch_stats"])


def test_small_blocks_stay_a_stack():
    loaded = random_model()
    variables = jax.device_put(loaded.variables)
    assert inference_weights.prepared(loaded.model, variables) is variables


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_are_moved_as_they_are_and_gradients_go_back(dtype):
    def move(x):
        x = jnp.pad(x, ((1, 0), (0, 0)))
        return jnp.concatenate([x[:-1], x[1:]], axis=1).reshape(-1)

    x = jnp.asarray([[1.0, -0.1, 3e38], [0.0, jnp.inf, -2.5]], dtype)
    moved, back = jax.vjp(functools.partial(products.moved, move), x)
    cotangent = jnp.arange(12.0).astype(dtype)
    by_bits = "u16[" in str(jax.make_jaxpr(functools.partial(products.moved, move))(x))
    assert moved.dtype == dtype and by_bits == (dtype == jnp.bfloat16)
    np.testing.assert_array_equal(moved, move(x))
    np.testing.assert_array_equal(back(cotangent)[0], jax.vjp(move, x)[1](cotangent)[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_and_its_gradient(dtype):
    x = jnp.linspace(-6, 6, 101).astype(dtype)
    exact = functools.partial(jax.nn.gelu, approximate=False)
    wide = x.astype(jnp.float32)
    for ours, want in ((vit.gelu(x), exact(wide)), (jax.grad(lambda x: vit.gelu(x).astype(jnp.float32).sum())(x),
                                                    jax.grad(lambda x: exact(x).sum())(wide))):  # fmt: skip
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), want, atol=1e-6, rtol=2**-8 if dtype != jnp.float32 else 1e-5
        )


@pytest.mark.parametrize(("count", "calls"), [(3, [3]), (8, [8]), (16, [8]), (19, [8, 3])])
def test_crops_go_through_in_chunks(count, calls):
    sizes = []

    def function(variables, x, y):
        sizes.append(len(x))
        return {"sum": variables + x + y[:, :1], "y": y}

    x, y = jnp.arange(2.0 * count).reshape(count, 2), jnp.arange(3.0 * count).reshape(count, 3)
    found = jax.jit(placement.in_chunks(function))(jnp.float32(1), x, y)
    assert sizes == calls
    np.testing.assert_array_equal(found["sum"], 1 + x + y[:, :1])
    np.testing.assert_array_equal(found["y"], y)
