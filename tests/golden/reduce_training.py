"""Makes training.npz and .json from the full set of recorded values: `python -m tests.golden.reduce_training`."""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
# Of the trained weights after five steps: one tensor of every kind.
KEPT = (
    "backbone.pos_embed", "backbone.patch_embed.proj.bias", "backbone.blocks.0.attn.qkv.bias",
    "backbone.blocks.0.attn.proj.weight", "backbone.blocks.2.mlp.fc1.bias", "backbone.blocks.1.norm2.weight",
    "backbone.last_norm.bias", "keypoint_head.deconv_layers.0.weight", "keypoint_head.deconv_layers.1.weight",
    "keypoint_head.deconv_layers.1.running_mean", "keypoint_head.deconv_layers.4.running_var",
    "keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias",
)  # fmt: skip


def groups(recorded: dict) -> dict[str, list[float]]:
    """{parameter: [learning-rate factor, weight decay]} of the recorded parameter groups."""
    return {
        name: [group["lr_scale"], group["weight_decay"]]
        for group in recorded["groups"].values()
        for name in group["params"]
    }


def main() -> None:
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))
    loss = np.load(golden / "2_loss/joints_mse.npz")
    tiny = np.load(golden / "3_optim/tiny_trajectory.npz")
    schedule = np.load(golden / "3_optim/lr_schedule.npz")
    arrays = {f"mse/{name}": loss[name] for name in loss.files}
    for name in tiny.files:
        kind, _, tensor = name.partition("::")
        if not tensor or (kind == "final" and tensor in KEPT):
            arrays[f"tiny/{name}"] = tiny[name]
    arrays |= {f"schedule/{name}": schedule[name] for name in schedule.files}
    np.savez_compressed(HERE / "training.npz", **arrays)
    facts = {
        "tiny": json.loads((golden / "3_optim/index.json").read_text())["tiny"],
        "tiny_shapes": {name[6:]: tiny[name].shape for name in tiny.files if name.startswith("init::")},
        "groups": {
            name: groups(json.loads((golden / f"3_optim/{name}.groups.json").read_text()))
            for name in ("vitpose_b", "vitpose_b_simple")
        },
    }
    (HERE / "training.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
