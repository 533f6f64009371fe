"""Makes codec.npz from the full set of recorded values: `python -m tests.golden.reduce_codec`.

Noisy heatmaps do not compress, so only some keypoints' maps are kept; the edge cases are all there. No photographs.
"""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FULL = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))

# Keypoints kept of each set of decoded heatmaps. The first set's are closed under the exchange of left and right.
KEPT = {"": slice(0, 5), "big_": slice(0, 2), "real_": slice(0, 3)}
# Crops whose targets are kept: mirrored, sigma 3 on a larger crop, and the two with the older encoding.
TARGETS = (3, 4, 12, 13)
# What no ViTPose configuration uses (unbiased encoding, keypoint weights), and what other tests compare (metrics).
_LEFT_OUT = ("unbiased", "joint_weights", "padded", "nms", "oks", "boxes", "pck", "auc", "epe", "cnt")


def collect(golden: pathlib.Path, *, everything: bool) -> dict[str, np.ndarray]:
    """Reads what the codec tests compare with, under the recorded names with the file's name in front."""
    return {**_decode(golden, everything), **_edges(golden), **_targets(golden, everything)}


def _decode(golden: pathlib.Path, everything: bool) -> dict[str, np.ndarray]:
    recorded = np.load(golden / "5_decode/decode.npz")
    values = {}
    for key in recorded.files:
        if key == "flip_pairs" or key.startswith("unbiased"):
            continue
        prefix = next((prefix for prefix in ("big_", "real_") if key.startswith(prefix)), "")
        kept = slice(None) if everything else KEPT[prefix]
        if key.endswith(("center", "scale")):
            values[f"decode/{key}"] = recorded[key]
        elif key.endswith("person0_first4"):
            values[f"decode/{key}"] = recorded[key] if everything else recorded[key][:2]
        else:
            values[f"decode/{key}"] = recorded[key][:, kept]
    pairs = recorded["flip_pairs"]
    values["decode/flip_pairs"] = pairs if everything else pairs[pairs.max(axis=1) < KEPT[""].stop]
    return values


def _edges(golden: pathlib.Path) -> dict[str, np.ndarray]:
    values = {}
    for file in ("4_transforms/target_edges", "5_decode/edge_cases", "5_decode/accuracy_and_nms"):
        recorded = np.load(golden / f"{file}.npz")
        for key in recorded.files:
            if not any(word in key for word in _LEFT_OUT):
                values[f"{file.split('/')[1]}/{key}"] = recorded[key]
    return values


def _targets(golden: pathlib.Path, everything: bool) -> dict[str, np.ndarray]:
    recorded = np.load(golden / "4_transforms/samples.npz")
    samples = json.loads((golden / "4_transforms/index.json").read_text())["samples"]
    values = {}
    for number in range(len(samples)) if everything else TARGETS:
        sample, name = samples[number], f"targets/{number:02d}"
        visible = recorded[f"s{number:02d}/{'flipped_' if sample['flip'] else ''}visible"]
        points = recorded[f"s{number:02d}/crop_joints"][:, :2]
        values[f"{name}/keypoints"] = np.concatenate([points, visible[:, :1]], axis=1)
        values[f"{name}/target"] = recorded[f"s{number:02d}/target"]
        values[f"{name}/weight"] = recorded[f"s{number:02d}/target_weight"]
        values[f"{name}/crop_size"] = np.array(sample["image_size"][::-1])
        values[f"{name}/sigma"] = np.array(sample["sigma"])
        values[f"{name}/udp"] = np.array(sample["encoding"] == "UDP")
    return values


if __name__ == "__main__":
    np.savez_compressed(HERE / "codec.npz", **collect(FULL, everything=False))
