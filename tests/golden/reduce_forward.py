"""Makes forward.npz from the full set of recorded values: `python -m tests.golden.reduce_forward`."""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))
    small = np.load(golden / "1_forward/vitpose_s_classic_256x192.npz")
    tiny = np.load(golden / "1_forward/tiny_eps.npz")
    settings = json.loads((golden / "1_forward/index.json").read_text())["models"]["tiny_eps"]
    np.savez_compressed(
        HERE / "forward.npz",
        small_random_even_cells=small["heatmaps"][2, :, ::2, ::2],
        eps_input=tiny["input"],
        eps_heatmaps=tiny["heatmaps"],
        eps_depth=settings["backbone"]["depth"],
        eps_heads=settings["backbone"]["num_heads"],
        eps_filters=settings["head"]["num_deconv_filters"][0],
        **{name: tiny[name] for name in tiny.files if name.startswith("w::")},
    )


if __name__ == "__main__":
    main()
