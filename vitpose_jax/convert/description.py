"""What a file of weights is: size, resolution, decoders and data sets, experts; found out from names and shapes.

Where names and shapes do not tell (heads of an encoder, two data sets with as many keypoints), the published models are
the guide, the file's own notes or the user's word go before, and the report says what was assumed.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vitpose_jax import trees
from vitpose_jax.convert import heads, layouts, mae_file, rules
from vitpose_jax.models import vit
from vitpose_jax.models.settings import SIZES
from vitpose_jax.types import Size

if TYPE_CHECKING:
    from vitpose_jax.convert.importer import Options

_CODEC = {"sigma": 2.0, "blur_kernel": 11}  # of every published model


@dataclasses.dataclass
class Description:
    """A model that a set of tensors seems to be.

    Attributes:
        task: a key of `checkpoint.MODELS`.
        settings: keyword arguments of that model.
        size: "s" … "g", or None for a size of one's own.
        prefixes: data set to the prefix of its decoder's names.
        datasets: `ModelFile.datasets`.
        codec: `ModelFile.codec`.
        counters: batch norm's step counters, by official name.
        ignored: official names that are left out, with the reason.
        split_from: for a model of one data set that was split off a ViTPose++: `experts`, `part_features`, `expert`.
        notes: what was assumed or changed.
        faults: what cannot be.
    """

    task: str
    settings: dict[str, Any]
    size: str | None
    prefixes: dict[str, str]
    datasets: dict[str, dict[str, Any]]
    codec: dict[str, Any]
    counters: dict[str, int]
    ignored: dict[str, str]
    split_from: dict[str, Any] | None
    notes: list[str]
    faults: list[str]


def describe(
    found: layouts.Recognised, file_name: str, options: "Options", *, known: Mapping[str, Any], own: Mapping[str, Any]
) -> Description:
    """Finds out what model the tensors are, and brings them into the form that the model's table expects.

    Tensors without a place in the model (counters, leftovers) are taken out of `found.tensors`; a smaller patch kernel
    is padded and a missing class-token row of the position embedding added.

    Args:
        found: the tensors under official names.
        file_name: may name the data set.
        options: what the user says.
        known: settings that a Hugging Face config tells.
        own: our model file, if it came along.
    """
    tensors = found.tensors
    counters = {}
    for name in [name for name in tensors if name.endswith("num_batches_tracked")]:
        counter = tensors.pop(name)
        counters[name] = int(counter.reshape(-1)[0]) if counter.size == 1 and np.isfinite(counter).all() else 0
    notes: list[str] = []
    faults: list[str] = []
    needed = [name for name in ("backbone.patch_embed.proj.weight", "backbone.pos_embed") if name not in tensors]
    if needed or tensors["backbone.pos_embed"].ndim != 3 or tensors["backbone.patch_embed.proj.weight"].ndim != 4:
        raise ValueError(f"{file_name} is not a ViTPose: {needed or 'its embeddings'} is missing or misshapen")
    _pad_patch_kernel(tensors, notes)
    if found.layout in (layouts.MMPOSE, layouts.MMPRETRAIN):
        _add_class_row(tensors, notes)
    if found.layout == layouts.MAE and "backbone.last_norm.weight" not in tensors:  # pooled over patches: `fc_norm`
        width = tensors["backbone.pos_embed"].shape[-1]
        tensors["backbone.last_norm.weight"] = np.ones(width, np.float32)
        tensors["backbone.last_norm.bias"] = np.zeros(width, np.float32)
        notes.append("no final norm in it: 1 and 0, as the original starts it anyway")
    whole = mae_file.is_whole(tensors)
    ignored = {} if whole else mae_file.without_decoder(tensors)
    if own:
        return _as_noted(own, known, options, counters, notes, faults)

    encoder = _encoder(tensors, options, known, notes, faults)
    if whole:
        image_size = list(_image_size(tensors, found.layout, options, known, notes))
        settings = mae_file.settings(tensors, encoder, image_size, options, notes)
        return Description("mae", settings, _size_of(settings), {}, {}, {}, counters, {}, None, notes, faults)
    experts, part_features, leftovers, split_from = _experts(tensors, options, notes, faults)
    ignored |= leftovers
    split_of = split_from["expert"] if split_from else None
    prefixes = heads.find_decoders(tensors, file_name, options, experts, split_of, ignored, notes, faults)
    settings = {
        **encoder,
        "image_size": list(_image_size(tensors, found.layout, options, known, notes)),
        "decoder": heads.decoder_kind(tensors, prefixes),
        "num_keypoints": {
            dataset: int(tensors[f"{prefix}.final_layer.weight"].shape[0])
            for dataset, prefix in prefixes.items()
            if f"{prefix}.final_layer.weight" in tensors
        },
        "experts": list(experts),
        "part_features": part_features,
        "layer_norm_eps": known.get("layer_norm_eps", vit.LAYER_NORM_EPS),
        "dtype": "float32",
    }
    filters = heads.deconv_filters(tensors, prefixes) if settings["decoder"] == "classic" else None
    if filters is not None:
        settings["deconv_filters"] = filters
    datasets = {name: heads.dataset_facts(name, prefix, options) for name, prefix in prefixes.items()}
    return Description(
        "pose", settings, _size_of(settings), prefixes, datasets, dict(_CODEC), counters, ignored, split_from, notes,
        faults,
    )  # fmt: skip


def lines(described: Description) -> Iterator[str]:
    """The report of what was found, line by line."""
    settings = described.settings
    size = f"ViTPose-{described.size.upper()}" if described.size else "a size of its own"
    filled = {
        **dict(zip(("embed_dim", "depth", "num_heads", "mlp_dim"), SIZES.get(described.size or "", ()), strict=False))
    }
    width, depth, heads = (settings.get(key) or filled.get(key) for key in ("embed_dim", "depth", "num_heads"))
    height, image_width = settings["image_size"]
    rows, cols = vit.patch_grid((height, image_width), settings.get("ratio", 1))
    yield (
        f"  encoder   {size}: {width} wide, {depth} blocks, {heads} heads; {height}x{image_width} crops, "
        f"{rows}x{cols} patches"
    )
    if settings.get("experts"):
        names = ", ".join(settings["experts"])
        yield f"  experts   {len(settings['experts'])} of {settings['part_features']} features: {names}"
    if described.task == "mae":
        yield (
            f"  decoder   of a masked autoencoder: {settings['decoder_embed_dim']} wide, {settings['decoder_depth']} "
            f"blocks, {settings['decoder_num_heads']} heads"
        )
        for note in described.notes:
            yield f"  note      {note}"
        return
    keypoints = ", ".join(
        f"{name} ({k} keypoints, {'UDP' if described.datasets[name]['udp'] else 'no UDP'})"
        for name, k in settings["num_keypoints"].items()
    )
    yield f"  decoders  {settings['decoder'] + ': ' + keypoints if keypoints else 'none: an encoder alone'}"
    for note in described.notes:
        yield f"  note      {note}"


def leaves(variables: Mapping) -> list[tuple[str, np.ndarray]]:
    """(path, leaf) of a model's variables."""
    return list(trees.flatten(variables).items())


def _as_noted(
    own: Mapping[str, Any],
    known: Mapping[str, Any],
    options: "Options",
    counters: dict[str, int],
    notes: list[str],
    faults: list[str],
) -> Description:
    """The model that our own notes describe."""
    refuse(
        options, "our notes in it", "keypoints", "source_image_size", "num_heads", "decoder_num_heads", "depth",
        "datasets",
    )  # fmt: skip
    settings = dict(own["settings"])
    _, depth, num_heads, _ = _fields(settings)
    noted = {
        "depth": depth, "num_heads": num_heads, "image_size": tuple(settings["image_size"]),
        "layer_norm_eps": settings.get("layer_norm_eps", vit.LAYER_NORM_EPS),
    }  # fmt: skip
    faults += [
        f"config.json says {name} {value}, vitpose_jax.json beside it {noted[name]}: delete the one that is wrong"
        for name, value in known.items()
        if name in noted and value != noted[name]
    ]
    return Description(
        own.get("task", "pose"), settings, _size_of(settings), rules.decoder_prefixes(tuple(own["order"])),
        dict(own["datasets"]), dict(own["codec"]), counters, {}, own["provenance"].get("split_from"), notes, faults,
    )  # fmt: skip


def refuse(options: "Options", source: str, *names: str) -> None:
    """Raises ValueError if the user says something that the source says itself."""
    told = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, (), [])]
    if told:
        raise ValueError(f"{', '.join(told)}: {source} says this already; leave it out")


def _encoder(
    tensors: Mapping[str, np.ndarray], options: "Options", known: Mapping[str, Any], notes: list[str], faults: list[str]
) -> dict[str, int]:
    """embed_dim, depth, num_heads, mlp_dim."""
    embed_dim = int(tensors["backbone.pos_embed"].shape[-1])
    numbers = {int(m[1]) for name in tensors if (m := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    published = next((fields for fields in SIZES.values() if fields[0] == embed_dim), None)
    if known:
        refuse(options, "config.json", "num_heads", "depth", "source_image_size")
    depth = options.depth or known.get("depth") or (published[1] if published else max(numbers, default=0) + 1)
    if numbers and max(numbers) + 1 != depth:
        faults.append(
            f"the file has blocks 0 to {max(numbers)}, an encoder {embed_dim} wide should have {depth}; "
            "if it is meant to, say so by --depth"
        )
    num_heads = options.num_heads or known.get("num_heads") or (published[2] if published else None)
    if num_heads is None:
        raise ValueError(
            f"the weights do not say how many heads the encoder has, and no published one is {embed_dim} wide; say it "
            "by --num-heads"
        )
    if not known.get("num_heads") and not options.num_heads:
        notes.append(f"{num_heads} heads: the published number for this width (--num-heads for another)")
    fc1 = next((array for name, array in tensors.items() if name.endswith("mlp.fc1.weight")), None)
    mlp_dim = int(fc1.shape[0]) if fc1 is not None and fc1.ndim == 2 else 4 * embed_dim
    return {"embed_dim": embed_dim, "depth": depth, "num_heads": int(num_heads), "mlp_dim": mlp_dim}


def _experts(
    tensors: dict[str, np.ndarray], options: "Options", notes: list[str], faults: list[str]
) -> tuple[tuple[str, ...], int | None, dict[str, str], dict[str, Any] | None]:
    """(experts' data sets, their width, what is ignored, `Description.split_from`)."""
    numbers = sorted({int(m[1]) for name in tensors if (m := re.search(r"\.mlp\.experts\.(\d+)\.", name))})
    first, fc2 = (tensors.get(f"backbone.blocks.0.mlp.{part}.weight") for part in ("experts.0", "fc2"))
    if not numbers or first is None or fc2 is None:
        return (), None, {}, None
    part, embed_dim = int(first.shape[0]), int(tensors["backbone.pos_embed"].shape[-1])
    names = heads.PLUS_DATASETS if len(numbers) == len(heads.PLUS_DATASETS) else tuple(options.datasets)
    if fc2.shape[0] == embed_dim:  # merged by the original's split script, which leaves the experts in
        same = [e for e in numbers if _is_merged(tensors, e, part)]
        merged = names[same[0]] if len(same) == 1 and same[0] < len(names) else None
        reason = "left over by the original's split script, which puts a data set's own expert into fc2"
        leftovers = [name for name in tensors if ".mlp.experts." in name or name.startswith("associate_keypoint_heads")]
        for name in leftovers:
            del tensors[name]
        split_from = None
        if not merged:
            notes.append(f"fc2 equals the end of {len(same)} experts: the weights do not say whose it is")
        if merged:
            notes.append(f"a split ViTPose++: fc2 holds the expert of {merged}")
            split_from = {"experts": list(names), "part_features": part, "expert": merged}
        return (), None, dict.fromkeys(leftovers, reason), split_from
    if len(names) != len(numbers):
        faults.append(
            f"{len(numbers)} experts, ViTPose++ has {len(heads.PLUS_DATASETS)}: name their data sets by --datasets"
        )
        names = tuple(f"expert{e}" for e in numbers)
    return names, part, {}, None


def _is_merged(tensors: Mapping[str, np.ndarray], expert: int, part: int) -> bool:
    """Whether the last rows of every block's fc2 are those of an expert."""
    pairs = [
        (tensors[name], tensors.get(name.replace("mlp.fc2", f"mlp.experts.{expert}")))
        for name in tensors
        if name.endswith("mlp.fc2.weight")
    ]
    return all(own is not None and np.array_equal(fc2[-part:], own) for fc2, own in pairs)


def _image_size(
    tensors: Mapping[str, np.ndarray], layout: str, options: "Options", known: Mapping[str, Any], notes: list[str]
) -> Size:
    """(H, W) of the crops that the position embedding is for: 4:3 as all published pose models, else square."""
    tokens = int(tensors["backbone.pos_embed"].shape[1]) - 1
    if options.source_image_size or "image_size" in known:
        return options.source_image_size or known["image_size"]
    pose = layout not in (layouts.MAE, layouts.MMPRETRAIN)
    unit, side = math.isqrt(tokens // 12), math.isqrt(tokens)
    if pose and tokens and 12 * unit * unit == tokens:
        return 4 * unit * vit.PATCH_SIZE, 3 * unit * vit.PATCH_SIZE
    if tokens and side * side == tokens:
        if pose:
            notes.append(f"{side}x{side} patches: a square crop")
        return side * vit.PATCH_SIZE, side * vit.PATCH_SIZE
    raise ValueError(
        f"a position embedding of {tokens} patches is neither 4:3 nor square; say what it is for by --source-image-size"
    )


def _pad_patch_kernel(tensors: dict[str, np.ndarray], notes: list[str]) -> None:
    """Zeroes around a kernel smaller than 16x16, as the original pads MAE's 14x14 (`checkpoint.py`, mode "pad")."""
    kernel = tensors["backbone.patch_embed.proj.weight"]
    old = kernel.shape[-1]
    if kernel.shape[-2:] == (old, old) and old < vit.PATCH_SIZE:
        before = (vit.PATCH_SIZE - old) // 2
        after = vit.PATCH_SIZE - old - before
        around = ((0, 0), (0, 0), (before, after), (before, after))
        tensors["backbone.patch_embed.proj.weight"] = np.pad(kernel, around)
        notes.append(
            f"patch kernel {old}x{old}: padded with zeros to {vit.PATCH_SIZE}x{vit.PATCH_SIZE}, as the original"
        )


def _add_class_row(tensors: dict[str, np.ndarray], notes: list[str]) -> None:
    """Layouts without class token lack the row that the original adds to every patch's position."""
    embedding = tensors["backbone.pos_embed"]
    tokens = embedding.shape[1]
    if math.isqrt(tokens - 1) ** 2 == tokens - 1 and math.isqrt(tokens) ** 2 != tokens and tokens % 12:
        return  # mmpretrain's encoders with a class token have the row
    zeros = np.zeros_like(embedding[:, :1])
    tensors["backbone.pos_embed"] = np.concatenate([zeros, embedding], axis=1)
    notes.append("position embedding: this layout has no class-token row, zeros added")


def _fields(settings: Mapping[str, Any]) -> tuple[int | None, ...]:
    """(embed_dim, depth, num_heads, mlp_dim): of the named size where they are not given."""
    names = ("embed_dim", "depth", "num_heads", "mlp_dim")
    return tuple(
        settings.get(name) or default
        for name, default in zip(names, SIZES.get(settings.get("size") or "", (None,) * 4), strict=True)
    )


def _size_of(settings: Mapping[str, Any]) -> str | None:
    return next((name for name, fields in SIZES.items() if fields == _fields(settings)), None)
