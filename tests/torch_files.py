"""Small PyTorch files in the layouts of others, with weights by the recorded rule."""

import functools
import pathlib
import re

import numpy as np
import torch

from tests.golden import weights
from vitpose_jax.convert import layouts, rules
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training.state import variable_shapes

# 32 wide, two blocks, four heads, crops of 64x48: 4x3 patches.
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 128, "image_size": (64, 48), "deconv_filters": 16}
PLUS = {"coco": 17, "aic": 14, "mpii": 16, "ap10k": 17, "apt36k": 17, "wholebody": 133}
# What the file cannot say of an encoder of no published width.
SAID = ("--num-heads", "4")


def official(*, decoder: str = "classic", keypoints: int = 17, plus: bool = False) -> dict[str, torch.Tensor]:
    """A state_dict of the official layout, batch norm's counters included."""
    return {name: tensor.clone() for name, tensor in _official(decoder, keypoints, plus).items()}


@functools.cache
def _official(decoder: str, keypoints: int, plus: bool) -> dict[str, torch.Tensor]:
    experts = {"experts": tuple(PLUS), "part_features": 8} if plus else {}
    names = PLUS if plus else {"coco": keypoints}
    model = vitpose(**TINY, decoder=decoder, num_keypoints=names, **experts)
    shapes = rules.torch_shapes(variable_shapes(model), decoder_prefixes=rules.decoder_prefixes(list(names)))
    state = {name: torch.from_numpy(array) for name, array in weights.state_dict(shapes).items()}
    for name in [name for name in state if name.endswith("running_var")]:
        state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1234)
    return state


def split_by_the_original(state: dict[str, torch.Tensor], expert: int) -> dict[str, torch.Tensor]:
    """What the original's split script makes of a joint state, leftovers and all (spec of `tools/model_split.py`)."""
    split = dict(state)
    for name in state:
        if ".mlp.fc2." in name:
            own = name.replace("fc2", f"experts.{expert}")
            split[name] = torch.cat([state[name], state[own]])
        if expert and name.startswith("keypoint_head."):
            split[name] = state[name.replace("keypoint_head", f"associate_keypoint_heads.{expert - 1}")]
    return {name: array for name, array in split.items() if not (expert and name.startswith("associate_"))}


def in_layout(state: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """An official state under another layout's names."""
    arrays = {name: array.numpy() for name, array in state.items()}
    if layout == layouts.HUGGING_FACE:
        arrays = layouts.split_qkv(arrays)
    if layout == layouts.MMPOSE:
        arrays["backbone.pos_embed"] = arrays["backbone.pos_embed"][:, 1:]
    if layout == layouts.MAE:
        arrays = {name: array for name, array in arrays.items() if name.startswith("backbone.")}
    names = layouts.rename(arrays, layout, to_layout=True)
    return {str(names[name]): torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def save(path: pathlib.Path, state: dict, **entries) -> pathlib.Path:
    torch.save({"meta": {"epoch": 210}, "state_dict": state, **entries}, path)
    return path


def numbers_in(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """The state_dict of a .pth file."""
    return torch.load(path, weights_only=True)["state_dict"]


def family(name: str) -> str:
    """A tensor's name with its numbers hidden."""
    return re.sub(r"\d+", "*", name)
