"""Makes mixed.npz and .json from the full set of recorded values: `python -m tests.golden.reduce_mixed`."""

import json
import os
import pathlib

import numpy as np

from tests.golden.reduce_training import groups

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))
    loss = np.load(golden / "2_loss/tiny_moe_train.npz")
    loaded = np.load(golden / "7_checkpoints/mae_pretrain_loaded.npz")
    arrays = {f"loss/{name}": loss[name] for name in loss.files}
    arrays |= {f"expanded/{name}": loaded[f"vitmoe_256x192::{name}"] for name in ("features", "pos_embed")}
    np.savez_compressed(HERE / "mixed.npz", **arrays)
    checkpoints = json.loads((golden / "7_checkpoints/index.json").read_text())
    facts = {
        "tiny": json.loads((golden / "2_loss/index.json").read_text())["tiny_moe"],
        "tiny_shapes": _shapes(golden / "2_loss/tiny_moe.keys.json"),
        "groups": groups(json.loads((golden / "3_optim/vitpose_plus_s.groups.json").read_text())),
        "mae_shapes": {name: entry["shape"] for name, entry in checkpoints["mae_pretrain"]["keys"].items()},
        "expanded": checkpoints["loads"]["vitmoe_256x192"]["keys"],
    }
    (HERE / "mixed.json").write_text(json.dumps(facts, indent=1))


def _shapes(path: pathlib.Path) -> dict[str, list[int]]:
    return {name: entry["shape"] for name, entry in json.loads(path.read_text()).items()}


if __name__ == "__main__":
    main()
