"""Matrix products in bfloat16 that are summed in float32, forward and backward, fast on every backend."""

from typing import Any

import jax
import jax.numpy as jnp

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def product(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`jnp.einsum` of two arrays.

    In float32 nothing else than that. In bfloat16 the gradients are products in bfloat16, too: those of a product with
    a float32 result would otherwise be products of float32 arrays, several times slower.

    Args:
        spec: each letter stands in at least two of the three terms.
        x: in the dtype of the computation.
        y: the same.
        dtype: of the result.
    """
    if x.dtype != jnp.bfloat16:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)
    return _bfloat16_product(spec, x, y, jnp.dtype(dtype))


def _summed(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    # A CPU multiplies bfloat16 fast only where the result is float32.
    summed: Any = jnp.float32 if _for_cpu() else dtype
    return jnp.einsum(spec, x, y, preferred_element_type=summed).astype(dtype)


_bfloat16_product = jax.custom_vjp(_summed, nondiff_argnums=(0, 3))


def _forward(spec: str, x: Any, y: Any, dtype: jnp.dtype) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    """Keeps a factor only where the other one's gradient is asked for: of a frozen weight there is none."""
    kept = (x.value if y.perturbed else None, y.value if x.perturbed else None)
    return _summed(spec, x.value, y.value, dtype), kept


def _backward(
    spec: str, dtype: jnp.dtype, kept: tuple[jax.Array | None, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    del dtype
    x, y = kept
    factors, result = spec.split("->")
    left, right = factors.split(",")
    gradient = gradient.astype(jnp.bfloat16)
    return (
        None if y is None else _summed(f"{result},{right}->{left}", gradient, y, gradient.dtype),
        None if x is None else _summed(f"{left},{result}->{right}", x, gradient, gradient.dtype),
    )


_bfloat16_product.defvjp(_forward, _backward, symbolic_zeros=True)


def _for_cpu() -> bool:
    """Whether what is traced will run on a CPU; a mesh may be of devices that are only described."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    return mesh.abstract_device is not None and mesh.abstract_device.platform == "cpu"


def dot_general(
    x: jax.Array,
    y: jax.Array,
    dimension_numbers: Any,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`product` as Flax's dense layers take it: the first's last axes by the second's first ones."""
    if x.dtype != jnp.bfloat16:
        return jax.lax.dot_general(x, y, dimension_numbers, precision, preferred_element_type)
    ((contracted, _), (batch, _)) = dimension_numbers
    if batch:  # Flax's layers here have none
        raise NotImplementedError("a dense layer with batch axes")
    left = _LETTERS[: x.ndim]
    shared = "".join(left[axis] for axis in contracted)
    added = _LETTERS[x.ndim : x.ndim + y.ndim - len(contracted)]
    kept = "".join(letter for letter in left if letter not in shared)
    return product(f"{left},{shared}{added}->{kept}{added}", x, y, x.dtype)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """x [..., C] by y [C, F], or x [B, L, C] by y [B, C, F]; in the dtype of both."""
    if y.ndim == 3:
        return product("blc,bcf->blf", x, y, x.dtype)
    return dot_general(x, y, (((x.ndim - 1,), (0,)), ((), ())))
