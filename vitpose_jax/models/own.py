"""Layers in which each crop has weights of its own: its data set's."""

import functools

import jax
import jax.numpy as jnp

from vitpose_jax.models.placement import CROPS, placed
from vitpose_jax.models.products import matmul, product


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def own_product(x: jax.Array, kernels: jax.Array, index: jax.Array, rows_axis: str | None = None) -> jax.Array:
    """Multiplies the rows of each crop with the matrix that the crop's index names.

    Each crop's matrix is copied, and the copies are multiplied in one batched product: crops need not be sorted,
    shapes are static, and a batch that is split over devices stays where it is. A crop has so many rows that the
    product outweighs the copy. The copies are made anew for the backward pass instead of being kept. There, the crops'
    gradients are added up for each matrix by a product with ones and zeros: unlike adding one by one in place, it has
    the same result in every run on a GPU, and it is an ordinary reduction over the batch where that is split.

    Args:
        x: [B, L, C]; its dtype is that of the computation and of the result.
        kernels: [G, C, F], in any float dtype; gradients come back in it, summed in float32.
        index: int32 [B], in 0 … G-1.
        rows_axis: mesh axis that C is split over.

    Returns:
        [B, L, F].
    """
    return matmul(x, _copies(kernels, index, x.dtype, rows_axis))


def _copies(kernels: jax.Array, index: jax.Array, dtype: jnp.dtype, rows_axis: str | None) -> jax.Array:
    # Where the matrices are split over fsdp, a device fetches the G matrices, not the copies of its crops.
    whole = placed(kernels.astype(dtype), None, rows_axis, None)
    return placed(whole[index], CROPS, rows_axis, None)


def _forward(x, kernels, index, rows_axis):
    return own_product(x, kernels, index, rows_axis), (x, kernels, index)


def _backward(rows_axis, kept, gradient):
    x, kernels, index = kept
    to_x = product("blf,bcf->blc", gradient, _copies(kernels, index, x.dtype, rows_axis), x.dtype)
    # Transposed, [F, C]: it is the narrower factor that a CPU then has to transpose.
    by_crop = jnp.einsum("blf,blc->bfc", gradient, x, preferred_element_type=jnp.float32)
    by_crop = placed(by_crop, CROPS, None, rows_axis)  # summed over crops where they are: only sums are exchanged
    members = jax.nn.one_hot(index, len(kernels), dtype=jnp.float32)
    to_kernels = jnp.einsum("bg,bfc->gfc", members, by_crop, precision=jax.lax.Precision.HIGHEST)
    return to_x, to_kernels.swapaxes(1, 2).astype(kernels.dtype), None


own_product.defvjp(_forward, _backward)


def own_vector(vectors: jax.Array, index: jax.Array) -> jax.Array:
    """The vector that each crop's index names: float32 [G, C] to [B, C], by a product with ones and zeros as above."""
    members = jax.nn.one_hot(index, len(vectors), dtype=vectors.dtype)
    return jnp.einsum("bg,gc->bc", members, vectors, precision=jax.lax.Precision.HIGHEST)
