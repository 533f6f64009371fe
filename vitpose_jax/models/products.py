"""Matrix products that are fast on every backend, forward and backward; in bfloat16 they are summed in float32."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitpose_jax.models.placement import on_cpu

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def product(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`jnp.einsum` of two arrays, whose gradients are the products that a CPU is fast at.

    Those that differentiation writes by itself differ in two ways. Of a bfloat16 product with a float32 result they are
    products of float32 arrays, several times slower. And of weights they come transposed, which XLA's CPU backend
    leaves to a slower routine.

    Args:
        spec: each letter stands in at least two of the three terms.
        x: in the dtype of the computation.
        y: the same.
        dtype: of the result.
    """
    return _product(spec, x, y, jnp.dtype(dtype))


def _summed(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    # A CPU multiplies bfloat16 fast only where the result is float32.
    summed: Any = jnp.float32 if x.dtype == jnp.bfloat16 and on_cpu() else dtype
    return jnp.einsum(spec, x, y, preferred_element_type=summed).astype(dtype)


_product = jax.custom_vjp(_summed, nondiff_argnums=(0, 3))


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
    to_x = to_y = None
    if y is not None:
        gradient = gradient.astype(y.dtype)
        to_x = _summed(f"{result},{right}->{left}", gradient, y, y.dtype)
    if x is not None:
        to_y = _gradient_of_right(spec, x, gradient.astype(x.dtype))
    return to_x, to_y


def _gradient_of_right(spec: str, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Of a product's second factor."""
    factors, result = spec.split("->")
    left, right = factors.split(",")
    if gradient.size >= x.size or not on_cpu():
        return _summed(f"{left},{result}->{right}", x, gradient, x.dtype)
    # Before it multiplies, a CPU transposes the first factor: better the smaller one. The barrier keeps XLA from
    # turning them round again.
    turned = "".join(sorted(right, key=left.__contains__))
    found = jax.lax.optimization_barrier(_summed(f"{result},{left}->{turned}", gradient, x, x.dtype))
    return jnp.einsum(f"{turned}->{right}", found)


_product.defvjp(_forward, _backward, symbolic_zeros=True)


def dot_general(
    x: jax.Array,
    y: jax.Array,
    dimension_numbers: Any,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`product` as Flax's dense layers take it: the first's last axes by the second's first ones."""
    del precision, preferred_element_type  # Flax's layers here set none
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


BITS = jnp.uint16  # of bfloat16 numbers


def as_bits(weights: jax.Array) -> jax.Array:
    """bfloat16 weights as their bits, for a CPU, where XLA turns a stack of layers into float32 before it slices it."""
    return jax.lax.bitcast_convert_type(weights, BITS)


def as_weights(array: jax.Array) -> jax.Array:
    """Undoes `as_bits`; other arrays stay as they are."""
    return jax.lax.bitcast_convert_type(array, jnp.bfloat16) if array.dtype == BITS else array


def moved(move: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`move(x)`, of a function that slices, pads with zeros, joins and reshapes.

    bfloat16 numbers move as their bits on a CPU, where XLA would turn them into float32 for it and back.

    Args:
        move: linear; what it returns has the dtype of what it takes, also of unsigned integers.
        x: of any shape and float dtype, which is that of the result.
    """
    if x.dtype != jnp.bfloat16 or not on_cpu():
        return move(x)

    @jax.custom_vjp
    def by_bits(x: jax.Array) -> jax.Array:
        return as_weights(move(as_bits(x)))

    back = jax.linear_transpose(move, x)
    by_bits.defvjp(lambda x: (by_bits(x), None), lambda _, gradient: back(gradient))
    return by_bits(x)


def promote_dtype(*arrays: jax.Array | None, dtype: Any = None, inexact: bool = True) -> list[Any]:
    """Flax's, for weights that may be bits."""
    weights = (None if array is None else as_weights(array) for array in arrays)
    return nn.dtypes.promote_dtype(*weights, dtype=dtype, inexact=inexact)
