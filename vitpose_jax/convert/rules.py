"""Where each parameter stands in an official PyTorch `state_dict`, and how its axes are ordered there.

One table over parameter paths serves both directions. Every torch tensor is exactly one slice of one leaf: tensors of
the encoder's blocks are slices of stacked leaves.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vitpose_jax import trees


class TorchTensor(NamedTuple):
    """A tensor of the official layout.

    Attributes:
        name: its key; `{layer}` stands for the block's number, `{decoder}` for the prefix of a data set's decoder.
        axes: the torch axes in the order in which our leaf has them. Our leaf may split an axis further (heads).
    """

    name: str
    axes: tuple[int, ...]


_VECTOR, _LINEAR, _CONV, _DECONV = (0,), (1, 0), (2, 3, 1, 0), (2, 3, 0, 1)

# Layer i of a decoder's deconvolutions is (deconvolution, batch norm, ReLU): entries 3i and 3i+1 of a torch Sequential.
TORCH_TENSORS: tuple[tuple[str, TorchTensor], ...] = (
    ("params/backbone/pos_embed", TorchTensor("backbone.pos_embed", (0, 1, 2))),
    ("params/backbone/patch_embed/kernel", TorchTensor("backbone.patch_embed.proj.weight", _CONV)),
    ("params/backbone/patch_embed/bias", TorchTensor("backbone.patch_embed.proj.bias", _VECTOR)),
    ("params/backbone/blocks/norm1/scale", TorchTensor("backbone.blocks.{layer}.norm1.weight", _VECTOR)),
    ("params/backbone/blocks/norm1/bias", TorchTensor("backbone.blocks.{layer}.norm1.bias", _VECTOR)),
    ("params/backbone/blocks/attn/qkv/kernel", TorchTensor("backbone.blocks.{layer}.attn.qkv.weight", _LINEAR)),
    ("params/backbone/blocks/attn/qkv/bias", TorchTensor("backbone.blocks.{layer}.attn.qkv.bias", _VECTOR)),
    ("params/backbone/blocks/attn/proj/kernel", TorchTensor("backbone.blocks.{layer}.attn.proj.weight", _LINEAR)),
    ("params/backbone/blocks/attn/proj/bias", TorchTensor("backbone.blocks.{layer}.attn.proj.bias", _VECTOR)),
    ("params/backbone/blocks/norm2/scale", TorchTensor("backbone.blocks.{layer}.norm2.weight", _VECTOR)),
    ("params/backbone/blocks/norm2/bias", TorchTensor("backbone.blocks.{layer}.norm2.bias", _VECTOR)),
    ("params/backbone/blocks/mlp/fc1/kernel", TorchTensor("backbone.blocks.{layer}.mlp.fc1.weight", _LINEAR)),
    ("params/backbone/blocks/mlp/fc1/bias", TorchTensor("backbone.blocks.{layer}.mlp.fc1.bias", _VECTOR)),
    ("params/backbone/blocks/mlp/fc2/kernel", TorchTensor("backbone.blocks.{layer}.mlp.fc2.weight", _LINEAR)),
    ("params/backbone/blocks/mlp/fc2/bias", TorchTensor("backbone.blocks.{layer}.mlp.fc2.bias", _VECTOR)),
    ("params/backbone/last_norm/scale", TorchTensor("backbone.last_norm.weight", _VECTOR)),
    ("params/backbone/last_norm/bias", TorchTensor("backbone.last_norm.bias", _VECTOR)),
    *(
        row
        for i in range(2)
        for row in (
            (
                f"params/decoders/[^/]+/deconv{i}/kernel",
                TorchTensor(f"{{decoder}}.deconv_layers.{3 * i}.weight", _DECONV),
            ),
            (
                f"params/decoders/[^/]+/bn{i}/scale",
                TorchTensor(f"{{decoder}}.deconv_layers.{3 * i + 1}.weight", _VECTOR),
            ),
            (f"params/decoders/[^/]+/bn{i}/bias", TorchTensor(f"{{decoder}}.deconv_layers.{3 * i + 1}.bias", _VECTOR)),
            (
                f"batch_stats/decoders/[^/]+/bn{i}/mean",
                TorchTensor(f"{{decoder}}.deconv_layers.{3 * i + 1}.running_mean", _VECTOR),
            ),
            (
                f"batch_stats/decoders/[^/]+/bn{i}/var",
                TorchTensor(f"{{decoder}}.deconv_layers.{3 * i + 1}.running_var", _VECTOR),
            ),
        )
    ),
    ("params/decoders/[^/]+/final/kernel", TorchTensor("{decoder}.final_layer.weight", _CONV)),
    ("params/decoders/[^/]+/final/bias", TorchTensor("{decoder}.final_layer.bias", _VECTOR)),
)


def torch_names(path: str, *, depth: int, decoder_prefixes: Mapping[str, str]) -> list[str]:
    """Keys of the torch tensors that make up one leaf: one, or one per block in order.

    Args:
        path: of a leaf of {"params": …, "batch_stats": …}.
        depth: number of encoder blocks.
        decoder_prefixes: data-set name to the prefix of its decoder's keys, such as {"coco": "keypoint_head"}.
    """
    tensor = trees.match(TORCH_TENSORS, [path], name="torch tensor")[path]
    dataset = path.split("/")[2] if "/decoders/" in path else ""
    if dataset and dataset not in decoder_prefixes:
        raise ValueError(
            f"{path}: no key prefix is known for the decoder of {dataset!r}, only {dict(decoder_prefixes)}"
        )
    name = tensor.name.replace("{decoder}", decoder_prefixes.get(dataset, ""))
    return [name.replace("{layer}", str(layer)) for layer in range(depth)] if "{layer}" in name else [name]


def from_torch(
    state: Mapping[str, np.ndarray], shapes: Mapping, *, depth: int, decoder_prefixes: Mapping[str, str]
) -> dict:
    """Official tensors to the variables of a `ViTPose`.

    Args:
        state: official key to array.
        shapes: the model's variables or their `jax.ShapeDtypeStruct`s: which leaves to fill.
        depth: number of encoder blocks.
        decoder_prefixes: data-set name to key prefix.

    Returns:
        {"params": …, "batch_stats": …} with float32 numpy leaves; the second is empty without batch norm.

    Raises:
        ValueError: naming every tensor that is missing or of a wrong shape. Tensors that no leaf needs are ignored.
    """
    leaves, faults = {}, []
    for path, leaf in trees.flatten(shapes).items():
        axes = trees.match(TORCH_TENSORS, [path], name="torch tensor")[path].axes
        stacked = "/blocks/" in path
        slice_shape = tuple(leaf.shape[1:]) if stacked else tuple(leaf.shape)
        slices = []
        for name in torch_names(path, depth=depth, decoder_prefixes=decoder_prefixes):
            array = state.get(name)
            if array is None:
                faults.append(f"  {name}: missing, needed for {path}")
            elif array.ndim != len(axes) or array.size != np.prod(slice_shape):
                faults.append(f"  {name}: shape {array.shape} does not fit {path} {slice_shape}")
            else:
                slices.append(np.asarray(array, np.float32).transpose(axes).reshape(slice_shape))
        if slices:
            leaves[path] = np.stack(slices) if stacked and len(slices) == leaf.shape[0] else slices[0]
    if faults:
        raise ValueError("the PyTorch weights do not fit this model:\n" + "\n".join(faults))
    return {"batch_stats": {}} | trees.unflatten(leaves)


def to_torch(
    variables: Mapping, torch_shapes: Mapping[str, tuple[int, ...]], *, decoder_prefixes: Mapping[str, str]
) -> dict:
    """Variables, or a tree of the same paths such as gradients, as official tensors: the inverse of `from_torch`.

    Args:
        variables: {"params": …} and, if wanted, {"batch_stats": …}.
        torch_shapes: shape of every tensor to write.
        decoder_prefixes: data-set name to key prefix.

    Returns:
        {official key: float32 array}.
    """
    state = {}
    for path, leaf in trees.flatten(variables).items():
        axes = trees.match(TORCH_TENSORS, [path], name="torch tensor")[path].axes
        stacked = "/blocks/" in path
        slices = np.asarray(leaf) if stacked else np.asarray(leaf)[None]
        names = torch_names(path, depth=len(slices), decoder_prefixes=decoder_prefixes)
        for name, array in zip(names, slices, strict=True):
            shape = torch_shapes[name]
            state[name] = array.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return state
