"""Where activations live when a step is split over devices.

XLA decides it where nothing is said, and follows the parameters: with those split over `fsdp` it would split the width
of the tokens and give every device all crops. So the places that matter say it. The mesh is known while
`training.sharding.on_mesh` traces a function; elsewhere, as on one device, nothing here does anything.
"""

import jax
from jax.sharding import PartitionSpec

CROPS = ("data", "fsdp")  # mesh axes that a batch is split over


def placed(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x`, each dimension split over the mesh axes named for it; None: whole on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
