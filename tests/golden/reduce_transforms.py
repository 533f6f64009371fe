"""Makes transforms.npz from the full set of recorded values: `python -m tests.golden.reduce_transforms`.

Everything but what was cut from photographs: those crops are compared where the full set is at hand.
"""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FULL = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))


def collect(golden: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what the geometry and augmentation tests compare with."""
    folder = golden / "4_transforms"
    index = json.loads((folder / "index.json").read_text())
    widths = {
        f"images/{name}": image["decoded_shape"][1]
        for name, image in json.loads((golden / "images/index.json").read_text()).items()
    }
    values = {}
    for file in ("boxes_and_small_warps", "box_jitter"):
        recorded = np.load(folder / f"{file}.npz")
        values |= {f"{file}/{key}": recorded[key] for key in recorded.files}

    samples = np.load(folder / "samples.npz")
    for number, sample in enumerate(index["samples"]):
        name = f"samples/{number:02d}"
        for key in samples.files:
            if key.startswith(f"s{number:02d}/") and not key.endswith(("crop", "target", "target_weight")):
                values[f"{name}/{key.split('/')[1]}"] = samples[key]
        values |= _numbers(name, sample, ("rotation", "flip", "use_udp"))
        values[f"{name}/crop_size"] = np.array(sample["image_size"][::-1])
        values[f"{name}/image_width"] = np.array(widths[sample["image"]])
        values |= _keypoint_set(name, index["datasets"][sample["dataset"]])

    bodies = np.load(folder / "half_body.npz")
    for number, case in enumerate(index["half_body"]):
        name = f"half_body/{number:02d}"
        values |= {f"{name}/{key.split('/')[1]}": bodies[key] for key in bodies.files if key.startswith(f"{number}/")}
        values[f"{name}/upper_first"] = np.array(case["first_choice"] == "upper")
        values[f"{name}/upper_body_ids"] = np.array(case["upper_body_ids"])

    augmented = np.load(folder / "augmentation.npz")
    for number, case in enumerate(json.loads((folder / "augmentation.json").read_text())):
        name = f"augmentation/{number:02d}"
        for key in augmented.files:
            if key.startswith(f"{number:02d}/") and not key.endswith("crop_mean_rgb"):
                values[f"{name}/{key.split('/')[1]}"] = augmented[key]
        values |= _numbers(name, case, ("numpy_seed", "db_index", "use_udp"))
        values[f"{name}/is_mpii"] = np.array(case["dataset"] == "mpii")
        values[f"{name}/is_crowdpose"] = np.array(case["dataset"] == "crowdpose")
        values[f"{name}/draw_is_normal"] = np.array([kind == "randn" for kind, _ in case["pipeline_draws"]])
        values[f"{name}/draws"] = np.concatenate([numbers for _, numbers in case["pipeline_draws"]])
        # The instance's keypoints and bbox stand among the samples.
        values[f"{name}/sample"] = np.array(
            next(
                number
                for number, sample in enumerate(index["samples"])
                if (sample["image"], sample["person"]) == (case["image"], case["person"])
                and sample["image_size"] == [192, 256]
            )
        )
    return values


def _numbers(name: str, case: dict, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {f"{name}/{key}": np.array(case[key]) for key in keys}


def _keypoint_set(name: str, dataset: dict) -> dict[str, np.ndarray]:
    return {f"{name}/{key}": np.array(dataset[key]) for key in ("flip_pairs", "upper_body_ids", "num_joints")}


if __name__ == "__main__":
    np.savez_compressed(HERE / "transforms.npz", **collect(FULL))
