"""Starting a run from the weights of another model: leaf by leaf, nothing skipped silently."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitpose_jax import trees
from vitpose_jax.models import pos_embed
from vitpose_jax.models.mae import MAE
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import checkpoint
from vitpose_jax.training import state as train_state

_POS_EMBEDS = ("backbone/pos_embed", "mae_decoder/pos_embed")
_RELATIVE = "backbone/blocks/attn/rel_pos/"
_TOKEN, _PROJECTION = "params/backbone/knowledge/token", "backbone/knowledge/proj/"
_EXPERTS = "backbone/blocks/mlp/experts"
_MLP = "params/backbone/blocks/mlp"


def init_from(
    path: str, model: ViTPose | MAE, *, key: jax.Array, fresh: Sequence[str] = (), token: str = ""
) -> tuple[dict, dict[str, list[str]]]:
    """Variables of a new run from the weights of other models.

    Leaves of equal path and shape are restored; the MLPs of a plain encoder are expanded into experts where this model
    has them; the position embedding is resized to this model's patch grid, relative positions to its windows; relative
    positions that the checkpoint has not start at zero, which is what it trained with; leaves that a pattern of `fresh`
    matches are initialised as usual, whatever the checkpoint holds.

    Args:
        path: as for `load_model`; "" for fresh values, all but the token.
        model: the new run's model.
        key: for the fresh leaves.
        fresh: regular expressions over whole paths, such as "decoders/.*".
        token: the same as `path`, of a model whose knowledge token is taken; its projection starts fresh if `path` has
            none. "" for none.

    Returns:
        ({"params", "batch_stats"}, {"restored" | "expanded" | "resized" | "fresh" | "unused": paths}).

    Raises:
        ValueError: if nothing matched, a pattern matches no leaf, or a leaf is neither found nor declared fresh.
    """
    own_token = {_TOKEN: knowledge_token(token, model)} if token else {}
    initial = train_state.init_variables(model, key)
    if not path:
        return {"batch_stats": {}} | trees.unflatten(trees.flatten(initial) | own_token), {"restored": list(own_token)}
    source = checkpoint.load_model(path)
    if source.model.experts and not model.experts:
        raise ValueError(
            f"init_from {source.path} has experts, this run's model has none: split it first (convert_torch_weights.py "
            "--input CHECKPOINT --split DIR) and start from the part of one data set"
        )
    report: dict[str, list[str]] = {"restored": [], "expanded": [], "resized": [], "fresh": [], "unused": []}
    faults = []
    try:
        patterns = [re.compile(pattern) for pattern in fresh]
    except re.error as error:
        raise ValueError(f"init_from.fresh: {error.pattern!r} is no regular expression: {error}") from error
    result = {}
    theirs, expanded = expand_into_experts(trees.flatten(source.variables), model)
    _experts_by_name(theirs, source.model, model, patterns)
    theirs |= own_token
    used_patterns = set()
    other_grid = source.model.patch_grid != model.patch_grid
    for path_, leaf in trees.flatten(initial).items():
        name = path_.split("/", 1)[1]  # patterns speak of paths without "params/" or "batch_stats/"
        declared = [pattern for pattern in patterns if pattern.fullmatch(name) and path_ not in own_token]
        used_patterns.update(declared)
        there = theirs.get(path_)
        if declared:
            kind, result[path_] = "fresh", leaf
        elif there is not None and there.shape == leaf.shape and not (name in _POS_EMBEDS and other_grid):
            kind, result[path_] = "expanded" if path_ in expanded else "restored", there
        elif there is not None and name in _POS_EMBEDS and there.shape[-1] == leaf.shape[-1]:
            kind = "resized"
            result[path_] = pos_embed.resize(there, source.model.patch_grid, model.patch_grid)
        elif there is None and name.startswith((_RELATIVE, _PROJECTION) if token else _RELATIVE):
            kind, result[path_] = "fresh", leaf
        elif there is not None and name.startswith(_RELATIVE) and _but_offsets(there) == _but_offsets(leaf):
            kind, result[path_] = "resized", pos_embed.resize_relative(there, leaf.shape)
        else:
            shape = "nothing" if there is None else f"shape {there.shape}"
            faults.append(f"  {path_} {leaf.shape}: the checkpoint has {shape}")
            continue
        report[kind].append(path_)
    report["unused"] = [path_ for path_ in theirs if path_ not in result]
    faults += [f"  fresh pattern {p.pattern!r} matches no parameter" for p in patterns if p not in used_patterns]
    if not set(report["restored"]) - set(own_token):
        faults.append("  nothing matched")
    if faults:
        raise ValueError(
            f"init_from {source.path}: declare what shall start fresh by patterns, such as "
            '--config.init_from.fresh=("decoders/.*",), or choose a fitting checkpoint:\n' + "\n".join(faults)
        )
    return {"batch_stats": {}} | trees.unflatten(result), report


def knowledge_token(path: str, model: ViTPose | MAE) -> np.ndarray:
    """The knowledge token that a model has learned, float32 [1, 1, width].

    Args:
        path: as for `load_model`.
        model: the one that it is for.

    Raises:
        ValueError: there is none, or the model has no place for one of its width.
    """
    source = checkpoint.load_model(path)
    token = trees.flatten(source.variables).get(_TOKEN)
    if token is None:
        raise ValueError(f"init_from.token {source.path} has no knowledge token; name a run of the token stage")
    if token.shape[-1] != model.backbone.get("token_dim"):
        raise ValueError(
            f"the knowledge token of {source.path} is {token.shape[-1]} wide: this run needs "
            f"--config.model.token_dim={token.shape[-1]}"
        )
    return token


def _experts_by_name(
    theirs: dict[str, Any], source: ViTPose | MAE, model: ViTPose | MAE, fresh: Sequence[re.Pattern[str]]
) -> None:
    """Puts the experts of a checkpoint into this model's order: an expert belongs to a data set, not to a place."""
    starts_fresh = all(any(p.fullmatch(f"{_EXPERTS}/{leaf}") for p in fresh) for leaf in ("kernel", "bias"))
    if not source.experts or source.experts == model.experts or starts_fresh:
        return
    if set(source.experts) != set(model.experts):
        raise ValueError(
            f"init_from: the checkpoint has the experts {source.experts}, this run {model.experts}; they need to be of "
            f'the same data sets, or start fresh: --config.init_from.fresh=("{_EXPERTS}/.*", …)'
        )
    order = [source.experts.index(name) for name in model.experts]
    for leaf in ("kernel", "bias"):
        path = f"params/{_EXPERTS}/{leaf}"
        theirs[path] = np.asarray(theirs[path])[:, order]


def expand_into_experts(variables: Mapping[str, Any], model: ViTPose | MAE) -> tuple[dict[str, Any], set[str]]:
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
    if not model.experts or f"{_MLP}/experts/kernel" in variables:
        return dict(variables), set()
    kernel, bias = (variables.get(f"{_MLP}/fc2/{leaf}") for leaf in ("kernel", "bias"))
    embed_dim, part = model.backbone["embed_dim"], model.backbone["part_features"]
    if kernel is None or bias is None or kernel.shape[-1] != embed_dim:
        return dict(variables), set()
    expanded = {}
    for leaf, whole in (("kernel", kernel), ("bias", bias)):
        shared, own = np.split(np.asarray(whole), [embed_dim - part], axis=-1)
        expanded[f"{_MLP}/fc2/{leaf}"] = shared
        expanded[f"{_MLP}/experts/{leaf}"] = np.repeat(own[:, None], len(model.experts), axis=1)
    return {**variables, **expanded}, set(expanded)


def _but_offsets(relative_positions: Any) -> tuple[int, int, int]:
    """What two tables of relative positions must have in common: dimensions, depth, heads or width of a head."""
    return relative_positions.ndim, relative_positions.shape[0], relative_positions.shape[-1]
