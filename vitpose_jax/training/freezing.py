"""Training a part of a model: parameters that stay as they are have no gradient, no decay and no optimizer state."""

import re
from collections.abc import Sequence
from typing import Any

from vitpose_jax import trees
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import state as train_state

# Which of the named choices freeze a parameter. The last norm and the decoders are always trained.
# Source: `vit.py::ViT._freeze_stages`: `freeze_attn`, `freeze_ffn`, and what the two freeze together.
FREEZE_TABLE: tuple[tuple[str, frozenset[str]], ...] = (
    ("backbone/(pos_embed|cls_token)", frozenset({"ffn", "encoder"})),
    ("backbone/patch_embed/(kernel|bias)", frozenset({"ffn", "encoder"})),
    ("backbone/blocks/norm1/(scale|bias)", frozenset({"mhsa", "encoder"})),
    ("backbone/blocks/attn/.+", frozenset({"mhsa", "encoder"})),
    ("backbone/blocks/norm2/(scale|bias)", frozenset({"ffn", "encoder"})),
    ("backbone/blocks/mlp/.+", frozenset({"ffn", "encoder"})),
    ("backbone/knowledge/.+", frozenset({"ffn", "encoder"})),
    ("backbone/last_norm/(scale|bias)", frozenset()),
    ("(decoders|mae_decoder)/.+", frozenset()),
)
CHOICES = ("mhsa", "ffn", "encoder")


def frozen_paths(params: Any, freeze: Sequence[str]) -> set[str]:
    """Paths of the parameters that are not trained.

    Args:
        params: the model's parameters or their shapes.
        freeze: names of `CHOICES`, and regular expressions over whole parameter paths.

    Raises:
        ValueError: for an expression that is none or matches no parameter, or if nothing is left to train.
    """
    choices = trees.match(FREEZE_TABLE, trees.flatten(params), name="freezing")
    frozen: set[str] = set()
    for each in freeze:
        if each in CHOICES:
            frozen |= {path for path, names in choices.items() if each in names}
            continue
        try:
            found = {path for path in choices if re.fullmatch(each, path)}
        except re.error as error:
            raise ValueError(f"freeze: {each!r} is no regular expression: {error}") from error
        if not found:
            raise ValueError(
                f"freeze: {each!r} is none of {list(CHOICES)} and matches no parameter; expressions are over whole "
                f"paths, such as {next(iter(choices))!r}"
            )
        frozen |= found
    if frozen == set(choices):
        raise ValueError(f"freeze {tuple(freeze)} leaves nothing to train")
    return frozen


def trainable(params: Any, freeze: Sequence[str]) -> Any:
    """The part of a model's parameters, or of their shapes, that is trained: the same tree without the frozen ones."""
    if not freeze:
        return params
    frozen = frozen_paths(params, freeze)
    return trees.unflatten({path: leaf for path, leaf in trees.flatten(params).items() if path not in frozen})


def joined(params: Any, trained: Any) -> Any:
    """All parameters, those of `trained` (from `trainable`) as they are there."""
    return trees.unflatten(trees.flatten(params) | trees.flatten(trained))


def model_in_training(model: ViTPose, freeze: Sequence[str]) -> ViTPose:
    """The model whose loss is trained: blocks of which nothing is trained drop no paths, they only encode.

    Source: `vit.py::ViT._freeze_stages`, which puts fully frozen blocks, and only those, into evaluation mode.
    """
    params = train_state.variable_shapes(model)["params"]
    if "blocks" in trainable(params, freeze).get("backbone", {}):
        return model
    return model.clone(backbone={**model.backbone, "drop_path": 0.0})
