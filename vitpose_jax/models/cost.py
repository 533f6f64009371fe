"""How much arithmetic a model is."""

from vitpose_jax.models import vit, windows
from vitpose_jax.models.vitpose import ViTPose


def encoder_multiply_accumulates(model: ViTPose) -> int:
    """Multiply-accumulates of the encoder's matrix products, forward, for one crop: what papers call GFLOPs.

    For each block, on L tokens of width D that each see K keys: 4 L D² for qkv and proj, 2 L D F for the MLP, 2 L K D
    for scores and values; decomposed relative positions L (rows + columns) D more. And L 16² 3 D for the patches.

    Source: reproduces ViTPose Table 5, see `docs/transfer.md`.
    """
    fields = model.backbone
    rows, cols = model.patch_grid
    tokens, width = rows * cols, fields["embed_dim"]
    period = windows.pattern(
        (rows, cols),
        **{name: fields[name] for name in ("attention", "window_size", "full_every", "relative_positions")},
    )
    seen = 0  # keys of all blocks of a period
    for block in period:
        in_window = block.size[0] * block.size[1]
        seen += in_window + (tokens // in_window if block.pool else 0)
        if block.relative_positions == "decomposed":
            seen += sum(block.size) / 2
    equal = fields["depth"] * tokens * width * (4 * width + 2 * fields["mlp_dim"])
    attended = fields["depth"] // len(period) * 2 * tokens * width * seen
    return int(equal + attended) + tokens * vit.PATCH_SIZE**2 * 3 * width
