"""Makes mae.npz and .json from the full set of recorded values: `python -m tests.golden.reduce_mae`."""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
DRAWN = 3  # the first images are noise; the last is a photograph and stays outside
EVERY = 24  # channels of predictions that are kept
PER_IMAGE = ("imgs", "noise", "mask", "ids_restore", "latent", "loss_per_patch_pix", "loss_per_patch_norm")
WHOLE = ("normalised_target_image2", "patchify_image1")


def main() -> None:
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden")) / "mae"
    tiny, extra, positions, schedule = (
        np.load(golden / f"{name}.npz") for name in ("tiny", "tiny_extra", "pos_embed", "lr_sched")
    )
    arrays = {f"tiny/{name}": tiny[name][:DRAWN] for name in PER_IMAGE}
    arrays |= {f"tiny/{name}": tiny[name][..., ::EVERY] for name in WHOLE}
    arrays["tiny/pred"] = tiny["pred"][:DRAWN, :, ::EVERY]
    arrays |= {f"extra/{name}": extra[name] for name in extra.files if name.startswith(("ratio", "eps"))}
    arrays |= {f"positions/{name}": positions[name] for name in positions.files}
    arrays |= {f"schedule/{name}": schedule[name] for name in schedule.files}
    np.savez_compressed(HERE / "mae.npz", **arrays)
    described = json.loads((golden / "tiny.json").read_text())["tiny"]
    misc = json.loads((golden / "misc.json").read_text())
    facts = {
        "config": described["config"],
        "shapes": {name: entry["shape"] for name, entry in described["keys"].items()},
        "groups": {
            name: [
                {"weight_decay": group["weight_decay"], "names": group["names"]} for group in described_groups["groups"]
            ]
            for name, described_groups in json.loads((golden / "param_groups.json").read_text()).items()
            if name in ("tiny", "mae_vit_base_patch16")
        },
        "lr_sched": misc["lr_sched"]["a"],
        "initial": {
            name: {key: entry[key] for key in ("shape", "min", "max", "std")}
            for name, entry in misc["init_mae_vit_base_torch_seed_0"].items()
        },
    }
    (HERE / "mae.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
