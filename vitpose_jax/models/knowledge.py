"""The knowledge token: one token that every crop has besides its patches (ViTPose §3.5).

It is learned with a trained teacher that stays as it is, and then given to a student, whose blocks it goes through.
Nothing behind the blocks sees it. What the paper leaves open is said in `docs/transfer.md`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class KnowledgeToken(nn.Module):
    """The token, projected where it was learned in another width.

    Attributes:
        embed_dim: D, width of the encoder's tokens.
        token_dim: width of the token: that of the encoder it was learned with.
        dtype: of the projection.
    """

    embed_dim: int
    token_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns: [1, 1, D]."""
        token = self.param("token", nn.initializers.normal(stddev=0.02), (1, 1, self.token_dim), jnp.float32)
        if self.token_dim == self.embed_dim:
            return token
        kernel_init = nn.initializers.lecun_normal()  # keeps the size of the token's values, whatever the widths are
        return nn.Dense(self.embed_dim, dtype=self.dtype, kernel_init=kernel_init, name="proj")(token)
