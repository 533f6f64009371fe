"""How much arithmetic a model is."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from vitpose_jax.models import vit, windows
from vitpose_jax.models.vitpose import ViTPose


def encoder_multiply_accumulates(model: ViTPose) -> int:
    """Multiply-accumulates of the encoder's matrix products, forward, for one crop: what papers call GFLOPs.

    For each block, on L tokens of width D that each see K keys: 4 L D² for qkv and proj, 2 L D F for the MLP, 2 L K D
    for scores and values; decomposed relative positions L (rows + columns) D more. And L 16² 3 D for the patches. A
    knowledge token is one more token, and what its projection costs.

    Source: reproduces ViTPose Table 5, see `docs/transfer.md`.
    """
    fields = model.backbone
    rows, cols = model.patch_grid
    extra, width = int(fields["token_dim"] > 0), fields["embed_dim"]
    tokens = rows * cols + extra
    period = windows.pattern(
        (rows, cols),
        **{name: fields[name] for name in ("attention", "window_size", "full_every", "relative_positions")},
    )
    seen = 0.0  # keys of all blocks of a period
    for block in period:
        in_window = block.size[0] * block.size[1]
        seen += in_window + extra + (tokens // in_window if block.pool else 0)
        if block.relative_positions == "decomposed":
            seen += sum(block.size) / 2
    equal = fields["depth"] * tokens * width * (4 * width + 2 * fields["mlp_dim"])
    attended = fields["depth"] // len(period) * 2 * tokens * width * seen
    projection = fields["token_dim"] * width if fields["token_dim"] not in (0, width) else 0
    return int(equal + attended) + rows * cols * vit.PATCH_SIZE**2 * 3 * width + projection


def multiply_accumulates(function: Callable, *arguments: Any) -> int:
    """Multiply-accumulates of all matrix products of a function, those in a scan as often as it runs.

    Counted before compiling; XLA's own count takes a scan's body once.

    Args:
        function: what is counted; may be jitted, may hold gradients. Has no convolutions, as none of our models has.
        arguments: arrays, or their shapes.
    """
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            factor, product = (side[0].aval.shape for side in (equation.invars, equation.outvars))
            total += math.prod(product) * math.prod(factor[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(_products(inside) for inside in jaxprs_in_params(equation.params))
    return total
