"""The exact GELU, with a gradient that keeps little."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, computed in float32 where `x` is of less. Its backward pass keeps nothing but `x`.

    `jax.nn.gelu` writes it with erfc, which costs a CPU more and gains nothing here.

    Args:
        x: of any shape and float dtype, which are those of the result.
    """
    exact = _exact(x)
    return (exact * _normal_cdf(exact)).astype(x.dtype)


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    exact = _exact(x)
    density = jnp.exp(-0.5 * exact * exact) * (2 * math.pi) ** -0.5
    return ((gradient * (_normal_cdf(exact) + exact * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _exact(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)
