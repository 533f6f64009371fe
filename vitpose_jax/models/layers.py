"""Running blocks that are not one stack of equal ones.

Blocks that differ come in periods: those of one period are compiled, each as what it is, and scanned over. And on one
CPU the layers of an encoder may come one by one, see `inference_weights.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def scan_periods(
    blocks: Sequence[nn.Module],
    x: jax.Array,
    params: Any,
    drop_rates: jax.Array,
    expert: jax.Array | None,
    key: jax.Array | None,
    *,
    remat: Callable | None,
    unroll: int,
) -> jax.Array:
    """Runs a period of different blocks again and again, on the parameters that equal blocks would have.

    A group of blocks is the body of the scan, so that each costs what it costs and nothing is chosen at run time.

    Args:
        blocks: `vit.Block`s of one period, unbound; their number divides the depth.
        x: [B, L, D].
        params: of all blocks, leaves [depth, …].
        drop_rates: float32 [depth].
        expert: see `vit.Mlp`.
        key: of stochastic depth; None without.
        remat: a policy: what the backward pass may keep of a block; None: all of it.
        unroll: groups per iteration of the scan.

    Returns:
        [B, L, D].
    """
    depth, period = len(drop_rates), len(blocks)

    def runner(i: int, block: nn.Module) -> Callable[..., jax.Array]:
        def run(x: jax.Array, group: Any) -> jax.Array:
            params, rate, key = jax.tree.map(lambda leaf: leaf[i], group)
            rngs = {} if key is None else {"drop_path": key}
            return block.apply({"params": params}, x, rate, expert, rngs=rngs)[0]

        # A scan of one iteration becomes plain code, in which the compiler would merge what is computed again.
        return jax.checkpoint(run, policy=remat or _all_but_slices, prevent_cse=period == depth)

    runners = [runner(i, block) for i, block in enumerate(blocks)]

    def run_group(x: jax.Array, group: Any) -> tuple[jax.Array, None]:
        for run in runners:
            x = run(x, group)
        return x, None

    stacked = params, drop_rates, None if key is None else jax.random.split(key, depth)
    groups = jax.tree.map(lambda leaf: leaf.reshape(depth // period, period, *leaf.shape[1:]), stacked)
    return jax.lax.scan(run_group, x, groups, unroll=unroll)[0]


def one_by_one(blocks: Sequence[nn.Module], x: jax.Array, params: Sequence[Any], expert: jax.Array | None) -> jax.Array:
    """Runs layers whose weights are not stacked, in inference.

    Args:
        blocks: `vit.Block`s of one period, unbound; their number divides the depth.
        x: [B, L, D].
        params: of each layer.
        expert: see `vit.Mlp`.

    Returns:
        [B, L, D].

    Raises:
        ValueError: for blocks that would train.
    """
    if any(block.train for block in blocks):
        raise ValueError("weights that were prepared for inference cannot be trained; train with those of a checkpoint")

    def runner(block: nn.Module) -> Callable[..., jax.Array]:
        # Traced once, not for every layer.
        return jax.jit(lambda x, params: block.apply({"params": params}, x, jnp.float32(0), expert)[0])

    runners = [runner(block) for block in blocks]
    for layer, of_layer in enumerate(params):
        x = runners[layer % len(runners)](x, of_layer)
    return x


def _all_but_slices(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keeps everything for the backward pass except a block's part of its group's weights, which would be a copy."""
    return primitive.name not in ("slice", "squeeze", "dynamic_slice")
