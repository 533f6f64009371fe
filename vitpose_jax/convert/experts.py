"""Splitting a ViTPose++ into one plain ViTPose a data set, and merging these again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitpose_jax import trees
from vitpose_jax.convert.export import with_decoders
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training.model_file import ModelFile

Model = tuple[dict, ModelFile]


def split(model: Model) -> dict[str, Model]:
    """One plain model for each data set with a decoder.

    A block's second MLP layer becomes the shared outputs followed by those of the data set's expert, an ordinary layer.

    Raises:
        ValueError: the model has no experts.

    Source: `tools/model_split.py`, whose leftovers are not repeated.
    """
    variables, file = model
    experts = tuple(file.settings.get("experts") or ())
    if not experts:
        raise ValueError("this model has no experts: it is a plain ViTPose already")
    models = {}
    for dataset in file.settings["num_keypoints"]:
        own, single = with_decoders(variables, file, (dataset,))
        number = experts.index(dataset)

        def joined(mlp: Mapping, leaf: str, number: int = number) -> np.ndarray:
            return np.concatenate([mlp["fc2"][leaf], mlp["experts"][leaf][:, number]], axis=-1)

        def plain(mlp: Mapping) -> dict:
            return {"fc1": mlp["fc1"], "fc2": {leaf: joined(mlp, leaf) for leaf in ("kernel", "bias")}}

        split_from = {"experts": list(experts), "part_features": file.settings["part_features"], "expert": dataset}
        models[dataset] = (
            {**own, "params": _with_mlp(own["params"], plain)},
            dataclasses.replace(
                single,
                settings={**single.settings, "experts": [], "part_features": None},
                provenance={**file.provenance, "datasets": [dataset], "split_from": split_from},
            ),
        )
    return models


def merge(models: Mapping[str, Model]) -> Model:
    """The ViTPose++ that plain models were split from.

    Args:
        models: any name to model; each says in its provenance of which expert it is.

    Raises:
        ValueError: a model was not split from a ViTPose++, an expert is missing, or the shared parts differ.
    """
    origins: dict[str, Mapping[str, Any]] = {
        name: file.provenance.get("split_from") or {} for name, (_, file) in models.items()
    }
    without = [name for name, origin in origins.items() if not origin]
    if without or not models:
        raise ValueError(
            f"{without or 'nothing'}: not split from a ViTPose++, so that there is nothing to merge it with"
        )
    first = next(iter(origins.values()))
    experts, part = tuple(first["experts"]), int(first["part_features"])
    by_expert = {origins[name]["expert"]: model for name, model in models.items()}
    faults = [
        f"{name} is one of {origin['experts']} with {origin['part_features']} features each"
        for name, origin in origins.items()
        if (tuple(origin["experts"]), int(origin["part_features"])) != (experts, part)
    ]
    faults += [f"the model of {name} is missing" for name in experts if name not in by_expert]
    if len(by_expert) != len(models):
        faults.append("two models are of the same data set")
    faults += [
        f"{name} has decoders for {list(file.settings['num_keypoints'])}, its expert is {origins[name]['expert']}'s"
        for name, (_, file) in models.items()
        if list(file.settings["num_keypoints"]) != [origins[name]["expert"]]
    ]
    reference = _common(next(iter(models.values()))[1])
    faults += [f"{name}: {what}" for name, (_, file) in models.items() for what in _unlike(reference, _common(file))]
    if not faults:
        faults = _differences({name: by_expert[name][0]["params"]["backbone"] for name in experts}, part)
    if faults:
        raise ValueError("these models cannot be merged:\n" + "\n".join(f"  {fault}" for fault in faults))

    variables, file = by_expert[experts[0]]
    stacked = [by_expert[name][0]["params"]["backbone"]["blocks"]["mlp"]["fc2"] for name in experts]

    def with_experts(mlp: Mapping) -> dict:
        shared = {leaf: mlp["fc2"][leaf][..., :-part] for leaf in ("kernel", "bias")}
        own = {leaf: np.stack([fc2[leaf][..., -part:] for fc2 in stacked], axis=1) for leaf in ("kernel", "bias")}
        return {"fc1": mlp["fc1"], "fc2": shared, "experts": own}

    def decoders(part_: str) -> dict:
        found = {name: by_expert[name][0][part_].get("decoders", {}).get(name) for name in experts}
        return {"decoders": found} if all(tree is not None for tree in found.values()) else {}

    counters: dict[str, Any] = {}
    for _, other in by_expert.values():
        counters |= other.provenance.get("counters", {})
    provenance = {key: value for key, value in file.provenance.items() if key != "split_from"}
    merged = {
        "params": {**_with_mlp(variables["params"], with_experts), **decoders("params")},
        "batch_stats": decoders("batch_stats"),
    }
    return merged, dataclasses.replace(
        file,
        settings={
            **file.settings,
            "experts": list(experts),
            "part_features": part,
            "num_keypoints": {name: by_expert[name][1].settings["num_keypoints"][name] for name in experts},
        },
        datasets={name: by_expert[name][1].datasets[name] for name in experts},
        provenance={**provenance, "datasets": list(experts), "counters": counters},
    )


def _common(file: ModelFile) -> dict[str, Any]:
    """What models must share to be parts of one."""
    model = vitpose(**file.settings)
    return {**model.backbone, "decoder": model.decoder, "deconv_filters": model.deconv_filters, **file.codec}


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [f"{key} is {other.get(key)}, of the first model {one[key]}" for key in one if other.get(key) != one[key]]


def _differences(backbones: Mapping[str, Mapping], part: int) -> list[str]:
    """Leaves of the shared part in which a model differs from the first one."""
    names = list(backbones)
    reference = trees.flatten(backbones[names[0]])
    faults = []
    for name in names[1:]:
        other = trees.flatten(backbones[name])
        for path, leaf in reference.items():
            shared = slice(None, -part) if path.startswith("blocks/mlp/fc2/") else slice(None)
            same_shape = path in other and other[path].shape == leaf.shape
            if not same_shape or not np.array_equal(leaf[..., shared], other[path][..., shared]):
                faults.append(f"backbone/{path} of {name} differs from that of {names[0]}")
    return faults


def _with_mlp(params: Mapping, change) -> dict:
    """Parameters whose blocks' MLPs are changed."""
    backbone = params["backbone"]
    blocks = {**backbone["blocks"], "mlp": change(backbone["blocks"]["mlp"])}
    return {**params, "backbone": {**backbone, "blocks": blocks}}
