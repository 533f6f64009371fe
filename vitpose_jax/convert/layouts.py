"""The layouts that ViTPose weights come in, and how each one's tensor names read in the official layout.

    official      github.com/ViTAE-Transformer/ViTPose and easy_ViTPose: backbone.*, keypoint_head.*
    mmpose1       mmpose 1.x, whose encoder is mmpretrain's: backbone.layers.*, head.*
    huggingface   transformers' VitPose: backbone.encoder.layer.*, head.conv
    mae           masked autoencoders, whole or the encoder alone, and other bare encoders: blocks.*
    mmpretrain    the same with mmpretrain's names: layers.*

A layout is a table of name templates beside the official ones; `{i}` stands for a number, `{leaf}` for the last part of
a name. The same table writes the layout.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

OFFICIAL, MMPOSE, HUGGING_FACE, MAE, MMPRETRAIN = "official", "mmpose1", "huggingface", "mae", "mmpretrain"

# A name that only this layout has, in the order in which they are tried.
_SIGNS = (
    ("backbone.embeddings.position_embeddings", HUGGING_FACE),
    ("backbone.patch_embed.projection.weight", MMPOSE),
    ("backbone.patch_embed.proj.weight", OFFICIAL),
    ("patch_embed.projection.weight", MMPRETRAIN),
    ("patch_embed.proj.weight", MAE),
)

# Wrappers leave their prefix on the model's names: DistributedDataParallel, torch.compile, lightning modules, larger
# pre-training models around an encoder. What stands beside the prefix is not the model's.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "encoder.")

_MMPRETRAIN_ENCODER = (
    ("pos_embed", "backbone.pos_embed"),
    ("patch_embed.projection.{leaf}", "backbone.patch_embed.proj.{leaf}"),
    ("layers.{i}.ln1.{leaf}", "backbone.blocks.{i}.norm1.{leaf}"),
    ("layers.{i}.attn.qkv.{leaf}", "backbone.blocks.{i}.attn.qkv.{leaf}"),
    ("layers.{i}.attn.proj.{leaf}", "backbone.blocks.{i}.attn.proj.{leaf}"),
    ("layers.{i}.ln2.{leaf}", "backbone.blocks.{i}.norm2.{leaf}"),
    ("layers.{i}.ffn.layers.0.0.{leaf}", "backbone.blocks.{i}.mlp.fc1.{leaf}"),
    ("layers.{i}.ffn.layers.1.{leaf}", "backbone.blocks.{i}.mlp.fc2.{leaf}"),
    ("ln1.{leaf}", "backbone.last_norm.{leaf}"),
)

# Query, key and value are three tensors here and one in the official layout: see `join_qkv` and `split_qkv`.
_QKV = ("query", "key", "value")
_HF_BLOCK, _BLOCK = "backbone.encoder.layer.{i}", "backbone.blocks.{i}"

TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    MMPRETRAIN: _MMPRETRAIN_ENCODER,
    MMPOSE: (
        *((f"backbone.{theirs}", official) for theirs, official in _MMPRETRAIN_ENCODER),
        ("head.deconv_layers.{i}.{leaf}", "keypoint_head.deconv_layers.{i}.{leaf}"),
        ("head.final_layer.{leaf}", "keypoint_head.final_layer.{leaf}"),
    ),
    MAE: (
        ("pos_embed", "backbone.pos_embed"),
        ("cls_token", "backbone.cls_token"),
        ("patch_embed.proj.{leaf}", "backbone.patch_embed.proj.{leaf}"),
        *(
            (f"{theirs}.{{i}}.{part}.{{leaf}}", f"{ours}.blocks.{{i}}.{part}.{{leaf}}")
            for theirs, ours in (("blocks", "backbone"), ("decoder_blocks", "mae_decoder"))
            for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        ),
        ("norm.{leaf}", "backbone.last_norm.{leaf}"),
        ("mask_token", "mae_decoder.mask_token"),
        ("decoder_pos_embed", "mae_decoder.pos_embed"),
        *((f"decoder_{part}.{{leaf}}", f"mae_decoder.{part}.{{leaf}}") for part in ("embed", "norm", "pred")),
    ),
    HUGGING_FACE: (
        ("backbone.embeddings.position_embeddings", "backbone.pos_embed"),
        ("backbone.embeddings.patch_embeddings.projection.{leaf}", "backbone.patch_embed.proj.{leaf}"),
        (f"{_HF_BLOCK}.layernorm_before.{{leaf}}", f"{_BLOCK}.norm1.{{leaf}}"),
        *((f"{_HF_BLOCK}.attention.attention.{part}.{{leaf}}", f"{_BLOCK}.attn.{part}.{{leaf}}") for part in _QKV),
        (f"{_HF_BLOCK}.attention.output.dense.{{leaf}}", f"{_BLOCK}.attn.proj.{{leaf}}"),
        (f"{_HF_BLOCK}.layernorm_after.{{leaf}}", f"{_BLOCK}.norm2.{{leaf}}"),
        (f"{_HF_BLOCK}.mlp.fc1.{{leaf}}", f"{_BLOCK}.mlp.fc1.{{leaf}}"),
        (f"{_HF_BLOCK}.mlp.fc2.{{leaf}}", f"{_BLOCK}.mlp.fc2.{{leaf}}"),
        (f"{_HF_BLOCK}.mlp.experts.{{i}}.{{leaf}}", f"{_BLOCK}.mlp.experts.{{i}}.{{leaf}}"),
        ("backbone.layernorm.{leaf}", "backbone.last_norm.{leaf}"),
        ("head.deconv1.{leaf}", "keypoint_head.deconv_layers.0.{leaf}"),
        ("head.batchnorm1.{leaf}", "keypoint_head.deconv_layers.1.{leaf}"),
        ("head.deconv2.{leaf}", "keypoint_head.deconv_layers.3.{leaf}"),
        ("head.batchnorm2.{leaf}", "keypoint_head.deconv_layers.4.{leaf}"),
        ("head.conv.{leaf}", "keypoint_head.final_layer.{leaf}"),
    ),
}  # fmt: skip

# Names, as they read without wrappers, that no model here has a place for, by layout: pattern and reason.
_NO_CLASS_TOKEN = (r"(backbone\.)?cls_token", "ViTPose has no class token")
_CLASSIFIER = (r"(head|fc_norm|heads)\..+", "a classifier's head, not part of the encoder")
IGNORED: dict[str, tuple[tuple[str, str], ...]] = {
    OFFICIAL: (_NO_CLASS_TOKEN, (r"ema_.+", "moving averages of mmcv's EMA hook")),
    MMPOSE: (
        _NO_CLASS_TOKEN,
        (r"data_preprocessor\.(mean|std)", "pixel normalisation, which is part of every model here"),
    ),
    HUGGING_FACE: (),
    MAE: (_CLASSIFIER,),
    MMPRETRAIN: (_NO_CLASS_TOKEN, _CLASSIFIER),
}


class Recognised(NamedTuple):
    """Tensors under official names.

    Attributes:
        layout: the layout they came in.
        tensors: official name to array.
        ignored: original name to the reason why it is left out.
        unknown: original names that the layout does not have.
    """

    layout: str
    tensors: dict[str, np.ndarray]
    ignored: dict[str, str]
    unknown: list[str]


def recognise(tensors: Mapping[str, np.ndarray]) -> Recognised:
    """Finds out the layout of a model's tensors and gives them their official names.

    Raises:
        ValueError: they are no ViTPose and no plain vision transformer.
    """
    stripped, ignored = _strip(tensors)
    layout = next((layout for sign, layout in _SIGNS if sign in stripped), None)
    if layout is None:
        raise ValueError(
            f"these are not the weights of a ViTPose: none of its known layouts has names such as {list(tensors)[:4]}"
        )
    renamed: dict[str, np.ndarray] = {}
    unknown = []
    rules = [(re.compile(pattern), reason) for pattern, reason in IGNORED[layout]]
    names = rename(stripped, layout)
    for name, array in stripped.items():
        reason = next((reason for pattern, reason in rules if pattern.fullmatch(name)), None)
        official = names[name]
        if reason is not None:
            ignored[name] = reason
        elif official is None:
            unknown.append(name)
        else:
            renamed[official] = array
    if layout == HUGGING_FACE:
        renamed = join_qkv(renamed)
    return Recognised(layout, renamed, ignored, unknown)


def rename(names: Iterable[str], layout: str, *, to_layout: bool = False) -> dict[str, str | None]:
    """{name in the layout: official name}, or the other way round; None where the table has no row.

    Args:
        names: to translate.
        layout: a key of `TABLES`, or "official", whose names stay.
        to_layout: translate official names into the layout's.
    """
    if layout == OFFICIAL:
        return {name: name if re.match(r"(backbone|keypoint_head|associate_)", name) else None for name in names}
    rows = [(official, theirs) if to_layout else (theirs, official) for theirs, official in TABLES[layout]]
    patterns = [(_pattern(source), target) for source, target in rows]
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        for pattern, target in patterns:
            match = pattern.fullmatch(name)
            if match:
                numbers = iter(match.groups()[:-1] if "{leaf}" in target else match.groups())
                text = re.sub(r"\{i\}", lambda _, numbers=numbers: next(numbers), target)  # type: ignore[misc]
                found[name] = text.replace("{leaf}", match.groups()[-1]) if "{leaf}" in target else text
                break
    return found


def join_qkv(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins `attn.query`, `attn.key`, `attn.value` of each block to `attn.qkv`, rows after rows.

    Blocks that lack one of the three keep what they have, for the report of what is missing.
    """
    joined = dict(tensors)
    for name in tensors:
        if ".attn.query." in name:
            parts = [name.replace(".query.", f".{part}.") for part in _QKV]
            if all(part in joined for part in parts):
                joined[name.replace(".query.", ".qkv.")] = np.concatenate([joined.pop(part) for part in parts])
    return joined


def split_qkv(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `join_qkv`."""
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if ".attn.qkv." in name:
            for part, rows in zip(_QKV, np.split(array, 3), strict=True):
                parts[name.replace(".qkv.", f".{part}.")] = np.ascontiguousarray(rows)
        else:
            parts[name] = array
    return parts


def _strip(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors without wrappers' prefixes, and those beside an encoder that are left out."""
    stripped = dict(tensors)
    beside: dict[str, str] = {}
    while True:
        wrapper = next(
            (w for w in _WRAPPERS if any(_is_sign(n.removeprefix(w)) for n in stripped if n.startswith(w))), ""
        )
        if not wrapper:
            return stripped, beside
        beside |= dict.fromkeys((n for n in stripped if not n.startswith(wrapper)), f"not part of {wrapper}*")
        stripped = {n.removeprefix(wrapper): array for n, array in stripped.items() if n.startswith(wrapper)}


def _is_sign(name: str) -> bool:
    """Whether a name, wrapped or not, is one that tells a layout."""
    unwrapped = name
    while any(unwrapped.startswith(wrapper) for wrapper in _WRAPPERS):
        unwrapped = unwrapped.split(".", 1)[1]
    return unwrapped in dict(_SIGNS)


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{i\}", r"(\d+)")
    return re.compile(text.replace(r"\{leaf\}", r"(weight|bias|running_mean|running_var|num_batches_tracked)"))
