"""What the settings of a model may be: its sizes, its types, and the checks of what a config or a model file says."""

from collections.abc import Mapping

import jax.numpy as jnp

from vitpose_jax.models import decoders, vit

# (embed_dim, depth, num_heads, mlp_dim). S to H: the released configs. G: the authors released none (theirs is a
# ViTAE-G); this is the published plain ViT-g of the same size, about 1.0 B parameters.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "s": (384, 12, 12, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def encoder_fields(
    size: str | None, embed_dim: int | None, depth: int | None, num_heads: int | None, mlp_dim: int | None
) -> dict[str, int]:
    """The four numbers of an encoder: a size's, where they are not given.

    Raises:
        ValueError: for an unknown size, a missing or not positive number, or heads that do not divide the width.
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"model size must be one of {sorted(SIZES)} or None, not {size!r}")
    names = ("embed_dim", "depth", "num_heads", "mlp_dim")
    values = [
        given if given is not None else default
        for given, default in zip(
            (embed_dim, depth, num_heads, mlp_dim), SIZES[size] if size else (None,) * 4, strict=True
        )
    ]
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        raise ValueError(f"without a model size, {missing} must be given too")
    fields = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    not_positive = {name: value for name, value in fields.items() if value < 1}
    if not_positive:
        raise ValueError(f"these model settings must be positive: {not_positive}")
    if fields["embed_dim"] % fields["num_heads"]:
        raise ValueError(f"num_heads {fields['num_heads']} does not divide embed_dim {fields['embed_dim']}")
    return fields


def check_choices(**settings: str) -> None:
    """Raises ValueError unless `decoder`, `remat` and `dtype`, as far as they are given, are known ones."""
    known: Mapping[str, Mapping] = {"decoder": decoders.DECODERS, "remat": vit.REMAT_POLICIES, "dtype": DTYPES}
    for name, value in settings.items():
        if value not in known[name]:
            raise ValueError(f"model {name} must be one of {sorted(known[name])}, not {value!r}")


def check_token(token_dim: int | None, token_position: bool, *, windowed: bool) -> None:
    """Raises ValueError unless a knowledge token's settings, see `vitpose`, fit each other and the attention."""
    if token_dim is None and token_position:
        raise ValueError("model token_position is about a knowledge token, and token_dim says that there is none")
    if token_dim is not None and token_dim < 1:
        raise ValueError(f"model token_dim must be positive, or None without a knowledge token, not {token_dim}")
    if token_dim and windowed:
        raise ValueError(
            "a knowledge token has no place on the grid of patches: with model token_dim, attention must be 'full' and "
            "relative_positions None"
        )


def check_experts(
    experts: tuple[str, ...], part_features: int | None, num_keypoints: Mapping[str, int], embed_dim: int
) -> None:
    """Raises ValueError unless the experts' settings, see `vitpose`, fit each other and the model."""
    if not experts:
        if part_features:
            raise ValueError(
                f"part_features is {part_features}, but the model has no experts; name them or leave it out"
            )
        return
    if part_features is None or not 0 < part_features < embed_dim:
        raise ValueError(f"a model with experts needs part_features between 1 and {embed_dim - 1}, not {part_features}")
    if len(set(experts)) != len(experts):
        raise ValueError(f"a data set is named twice among the experts {experts}")
    without = sorted(set(num_keypoints) - set(experts))
    if without:
        raise ValueError(f"the data sets {without} have a decoder but no expert; experts are {experts}")
