"""Where each parameter stands in an official PyTorch `state_dict`, and how its axes are ordered there.

One table over parameter paths serves both directions. Every torch tensor is exactly one slice of one leaf: tensors of
the encoder's blocks, and of the experts in them, are slices of stacked leaves.
"""

import itertools
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitpose_jax import trees


class TorchTensor(NamedTuple):
    """A tensor of the official layout.

    Attributes:
        name: its key; `{layer}` stands for the block's number and `{expert}` for the expert's, by which our leaf is
            stacked; `{decoder}` for the prefix of a data set's decoder.
        axes: the torch axes in the order in which our leaf has them.
        split: how many axes of ours each of these is split into (heads); empty where none is split.
    """

    name: str
    axes: tuple[int, ...]
    split: tuple[int, ...] = ()

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the torch tensor, its axes in our order, that one slice of our leaf makes up."""
        sizes = iter(ours)
        return tuple(math.prod(next(sizes) for _ in range(count)) for count in self.split or (1,) * len(self.axes))


_VECTOR, _LINEAR, _TOKENS, _CONV, _DECONV = (0,), (1, 0), (0, 1, 2), (2, 3, 1, 0), (2, 3, 0, 1)

# A transformer block: ours, torch's, how axes are ordered and split.
_BLOCK: tuple[tuple, ...] = (
    ("norm1/scale", "norm1.weight", _VECTOR),
    ("norm1/bias", "norm1.bias", _VECTOR),
    ("attn/qkv/kernel", "attn.qkv.weight", _LINEAR, (1, 3)),
    ("attn/qkv/bias", "attn.qkv.bias", _VECTOR, (3,)),
    ("attn/proj/kernel", "attn.proj.weight", _LINEAR, (2, 1)),
    ("attn/proj/bias", "attn.proj.bias", _VECTOR),
    ("norm2/scale", "norm2.weight", _VECTOR),
    ("norm2/bias", "norm2.bias", _VECTOR),
    ("mlp/fc1/kernel", "mlp.fc1.weight", _LINEAR),
    ("mlp/fc1/bias", "mlp.fc1.bias", _VECTOR),
    ("mlp/fc2/kernel", "mlp.fc2.weight", _LINEAR),
    ("mlp/fc2/bias", "mlp.fc2.bias", _VECTOR),
)

# Layer i of a decoder's deconvolutions is (deconvolution, batch norm, ReLU): entries 3i and 3i+1 of a torch Sequential.
# None: the original has nothing of the kind.
TORCH_TENSORS: tuple[tuple[str, TorchTensor | None], ...] = (
    ("params/backbone/pos_embed", TorchTensor("backbone.pos_embed", _TOKENS)),
    ("params/backbone/cls_token", TorchTensor("backbone.cls_token", _TOKENS)),
    ("params/backbone/patch_embed/kernel", TorchTensor("backbone.patch_embed.proj.weight", _CONV)),
    ("params/backbone/patch_embed/bias", TorchTensor("backbone.patch_embed.proj.bias", _VECTOR)),
    *(
        (f"params/{module}/blocks/{ours}", TorchTensor(f"{module}.blocks.{{layer}}.{theirs}", *axes))
        for module in ("backbone", "mae_decoder")
        for ours, theirs, *axes in _BLOCK
    ),
    ("params/backbone/blocks/attn/rel_pos/(table|rows|cols)", None),
    ("params/backbone/knowledge/(token|proj/kernel|proj/bias)", None),
    (
        "params/backbone/blocks/mlp/experts/kernel",
        TorchTensor("backbone.blocks.{layer}.mlp.experts.{expert}.weight", _LINEAR),
    ),
    (
        "params/backbone/blocks/mlp/experts/bias",
        TorchTensor("backbone.blocks.{layer}.mlp.experts.{expert}.bias", _VECTOR),
    ),
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
    ("params/mae_decoder/mask_token", TorchTensor("mae_decoder.mask_token", _TOKENS)),
    ("params/mae_decoder/pos_embed", TorchTensor("mae_decoder.pos_embed", _TOKENS)),
    ("params/mae_decoder/embed/kernel", TorchTensor("mae_decoder.embed.weight", _LINEAR)),
    ("params/mae_decoder/embed/bias", TorchTensor("mae_decoder.embed.bias", _VECTOR)),
    ("params/mae_decoder/norm/scale", TorchTensor("mae_decoder.norm.weight", _VECTOR)),
    ("params/mae_decoder/norm/bias", TorchTensor("mae_decoder.norm.bias", _VECTOR)),
    ("params/mae_decoder/pred/kernel", TorchTensor("mae_decoder.pred.weight", _LINEAR)),
    ("params/mae_decoder/pred/bias", TorchTensor("mae_decoder.pred.bias", _VECTOR)),
)


def decoder_prefixes(datasets: Sequence[str]) -> dict[str, str]:
    """{data set: prefix of its decoder's keys} as ViTPose++ names them: the first is the main one."""
    prefixes = ["keypoint_head", *(f"associate_keypoint_heads.{i}" for i in range(len(datasets) - 1))]
    return dict(zip(datasets, prefixes[: len(datasets)], strict=True))


def counter_names(prefixes: Mapping[str, str]) -> dict[str, str]:
    """{official key: "<data set>/<norm>"} of batch norm's step counters, which no arithmetic uses."""
    return {
        f"{prefix}.deconv_layers.{3 * i + 1}.num_batches_tracked": f"{dataset}/bn{i}"
        for dataset, prefix in prefixes.items()
        for i in range(2)
    }


class Slice(NamedTuple):
    """A torch tensor and its place in one of our leaves."""

    name: str  # its key
    shape: tuple[int, ...]  # as torch has it
    axes: tuple[int, ...]  # torch axes in our order
    place: tuple[int, ...]  # along the leaf's stacked axes: (), (layer,) or (layer, expert)

    def to_ours(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The torch tensor as our slice."""
        return array.transpose(self.axes).reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our slice as the torch tensor, contiguous."""
        ordered = array.reshape([self.shape[axis] for axis in self.axes])
        return np.ascontiguousarray(ordered.transpose(np.argsort(self.axes)))


def slices(path: str, shape: tuple[int, ...], decoder_prefixes: Mapping[str, str]) -> list[Slice]:
    """The torch tensors that make up one leaf, in the leaf's order.

    Args:
        path: of a leaf of {"params": …, "batch_stats": …}.
        shape: of the leaf.
        decoder_prefixes: data-set name to the prefix of its decoder's keys, such as {"coco": "keypoint_head"}.

    Raises:
        ValueError: if the table has no row for the path, the original nothing of the kind, or no prefix is known for
            its data set.
    """
    tensor = trees.match(TORCH_TENSORS, [path], name="torch tensor")[path]
    if tensor is None:
        raise ValueError(f"{path}: the original model has no such parameter")
    dataset = path.split("/")[2] if "/decoders/" in path else ""
    if dataset and dataset not in decoder_prefixes:
        raise ValueError(
            f"{path}: no key prefix is known for the decoder of {dataset!r}, only {dict(decoder_prefixes)}"
        )
    name = tensor.name.replace("{decoder}", decoder_prefixes.get(dataset, ""))
    stacked = [axis for axis in ("{layer}", "{expert}") if axis in name]
    ordered = tensor.shape(shape[len(stacked) :])
    torch_shape = tuple(ordered[axis] for axis in np.argsort(tensor.axes))
    found = []
    for index in itertools.product(*(range(size) for size in shape[: len(stacked)])):
        key = name
        for axis, number in zip(stacked, index, strict=True):
            key = key.replace(axis, str(number))
        found.append(Slice(key, torch_shape, tensor.axes, index))
    return found


def torch_shapes(shapes: Mapping, *, decoder_prefixes: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """{official key: shape} of the tensors that make up a model.

    Args:
        shapes: the model's variables or their `jax.ShapeDtypeStruct`s.
        decoder_prefixes: data-set name to key prefix.
    """
    return {
        part.name: part.shape
        for path, leaf in trees.flatten(shapes).items()
        for part in slices(path, tuple(leaf.shape), decoder_prefixes)
    }


def from_torch(
    state: MutableMapping[str, np.ndarray],
    shapes: Mapping,
    *,
    decoder_prefixes: Mapping[str, str],
    on_tensor: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Official tensors to the variables of a `ViTPose`.

    Tensors are taken out of `state` as they are copied, so that memory never holds two copies of a model. What is left
    in it was not needed.

    Args:
        state: official key to array, of any float type.
        shapes: the model's variables or their `jax.ShapeDtypeStruct`s: which leaves to fill.
        decoder_prefixes: data-set name to key prefix.
        on_tensor: called for each tensor that is done.

    Returns:
        {"params": …, "batch_stats": …} with float32 numpy leaves; the second is empty without batch norm.

    Raises:
        ValueError: naming every tensor that is missing or of a wrong shape; nothing is taken out of `state` then.
    """
    flat = {path: tuple(leaf.shape) for path, leaf in trees.flatten(shapes).items()}
    plan = {path: slices(path, shape, decoder_prefixes) for path, shape in flat.items()}
    faults = [
        f"  {part.name}: {'missing' if part.name not in state else f'shape {state[part.name].shape}'}, "
        f"expected {part.shape} for {path}"
        for path, parts in plan.items()
        for part in parts
        if part.name not in state or tuple(state[part.name].shape) != part.shape
    ]
    if faults:
        raise ValueError("the PyTorch weights do not fit this model:\n" + "\n".join(faults))
    leaves = {}
    for path, parts in plan.items():
        leaf = np.empty(flat[path], np.float32)
        for part in parts:
            leaf[part.place] = part.to_ours(state.pop(part.name), leaf.shape[len(part.place) :])
            on_tensor()
        leaves[path] = leaf
    return {"batch_stats": {}} | trees.unflatten(leaves)


def to_torch(variables: Mapping, *, decoder_prefixes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Variables, or a tree of the same paths such as gradients, as official tensors: the inverse of `from_torch`.

    Args:
        variables: {"params": …} and, if wanted, {"batch_stats": …}.
        decoder_prefixes: data-set name to key prefix.

    Returns:
        {official key: float32 array}.
    """
    return {
        part.name: part.to_torch(array[part.place])
        for path, array in ((path, np.asarray(leaf)) for path, leaf in trees.flatten(variables).items())
        for part in slices(path, array.shape, decoder_prefixes)
    }
