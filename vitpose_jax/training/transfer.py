"""Weights of one model made to fit another: a plain encoder's into one with experts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitpose_jax.models.vitpose import ViTPose

_MLP = "params/backbone/blocks/mlp"


def expand_into_experts(variables: Mapping[str, Any], model: ViTPose) -> tuple[dict[str, Any], set[str]]:
    """Splits the second layer of every MLP of a plain encoder for a model with experts (ViTPose++).

    The last p outputs go to every expert, so that all are equal at first, the others to the layer that the data sets
    share: the model's features are those of the plain encoder, whichever expert a crop takes.

    Args:
        variables: {path: array} of the other model.
        model: the model to fit.

    Returns:
        ({path: array} with the split layers in place of the whole ones, their paths). As given, without a path, if the
        model has no experts, the variables have them already, or the widths differ.

    Source: `mmcv_custom/checkpoint.py::load_checkpoint` with `part_features`.
    """
    kernel, bias = (variables.get(f"{_MLP}/fc2/{leaf}") for leaf in ("kernel", "bias"))
    embed_dim, part = model.backbone["embed_dim"], model.backbone["part_features"]
    fits = kernel is not None and bias is not None and kernel.shape[-1] == embed_dim
    if not model.experts or f"{_MLP}/experts/kernel" in variables or not fits:
        return dict(variables), set()
    expanded = {}
    for leaf, whole in (("kernel", kernel), ("bias", bias)):
        shared, own = np.split(np.asarray(whole), [embed_dim - part], axis=-1)
        expanded[f"{_MLP}/fc2/{leaf}"] = shared
        expanded[f"{_MLP}/experts/{leaf}"] = np.repeat(own[:, None], len(model.experts), axis=1)
    return {**variables, **expanded}, set(expanded)
