"""Files as the original code wrote and read them: heatmaps, pre-trained encoders, split joint checkpoints."""

import json
import zlib

import jax
import numpy as np
import pytest

from tests import tolerances
from tests.golden import weights
from vitpose_jax.convert import rules
from vitpose_jax.convert.command import main
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import checkpoint, transfer

INPUT = weights.normal("ckpt.input", (1, 3, 256, 192)).transpose(0, 2, 3, 1)
HEADS = ("--num-heads", "4")


@pytest.fixture(scope="module")
def files(golden_dir):
    return golden_dir / "7_checkpoints"


@pytest.fixture(scope="module")
def index(files):
    return json.loads((files / "index.json").read_text())


def convert(path, folder, *extra) -> checkpoint.LoadedModel:
    assert main(["--input", str(path), "--output", str(folder), *HEADS, *extra]) == 0
    return checkpoint.load_model(folder)


def heatmaps(loaded, dataset, images=INPUT) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        found = loaded.model.apply(loaded.variables, images, train=False, datasets=(dataset,))[dataset]
    return np.asarray(found).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["tiny_classic", "tiny_simple"])
def test_single_data_set_files(files, name, tmp_path):
    loaded = convert(files / f"{name}.pth", tmp_path / "out")
    np.testing.assert_allclose(
        heatmaps(loaded, "coco"), np.load(files / f"{name}.npz")["heatmaps"], atol=tolerances.HEATMAP
    )


def test_the_joint_file_and_what_the_original_split_it_into(files, index, tmp_path):
    recorded = np.load(files / "joint/split_heatmaps.npz")
    convert(files / "joint/joint.pth", tmp_path / "joint")
    assert main(["--input", str(tmp_path / "joint"), "--split", str(tmp_path / "split")]) == 0
    for dataset in index["split"]:
        single = checkpoint.load_model(tmp_path / "split" / dataset)
        expected = recorded[f"heatmaps_{dataset}"]
        ours = heatmaps(single, dataset)[:, ::4][:, : expected.shape[1]]
        np.testing.assert_allclose(ours, expected, atol=tolerances.HEATMAP, err_msg=dataset)
        tensors = rules.to_torch(single.variables, decoder_prefixes={dataset: "keypoint_head"})
        recorded_keys = index["split"][dataset]["keys"]
        assert set(tensors) <= set(recorded_keys)
        for name, array in tensors.items():
            assert crc(array) == recorded_keys[name]["crc32"], name


CASES = {
    "vit_256x192": {"image_size": (256, 192)},
    "vit_384x288": {"image_size": (384, 288)},
    "vit_224x224": {"image_size": (224, 224)},
    "vit_256x192_ratio2": {"image_size": (256, 192), "ratio": 2},
    "vit_patch14_pad": {"image_size": (256, 192)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_pre_trained_encoder_in_a_pose_model(files, index, case, tmp_path):
    """Converted, then taken by `init_from`: every tensor as the original's loader leaves it."""
    facts = index["loads"][case]
    convert(files / facts["source"], tmp_path / "mae")
    model = vitpose(
        embed_dim=32, depth=2, num_heads=4, mlp_dim=128, num_keypoints={"coco": 17}, decoder="simple", **CASES[case]
    )
    variables, report = transfer.init_from(
        str(tmp_path / "mae"), model, key=jax.random.key(0), fresh=("backbone/last_norm/.*", "decoders/.*")
    )
    assert not report["unused"]
    ours = rules.to_torch(variables, decoder_prefixes={"coco": "keypoint_head"})
    recorded = np.load(files / "mae_pretrain_loaded.npz")
    compared = 0
    for name, fact in facts["keys"].items():
        array = ours[f"backbone.{name}"]
        if f"{case}::{name}" in recorded:
            np.testing.assert_allclose(array, recorded[f"{case}::{name}"], atol=tolerances.POSITION_EMBEDDING)
        elif name not in facts["left_at_previous_value"] and name != "pos_embed":
            assert crc(array) == fact["crc32"], name
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", ["simple", "classic", "plus_simple", "plus_classic"])
def test_hugging_face_folders(golden_dir, name, tmp_path):
    """Recorded heatmaps of `transformers`; with experts one crop for each data set index."""
    import safetensors.numpy

    facts = json.loads((golden_dir / "8_hf/index.json").read_text())["models"][name]
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text((golden_dir / f"8_hf/{name}/config.json").read_text())
    shapes = {key: tuple(fact["shape"]) for key, fact in facts["keys"].items()}
    state = weights.state_dict(shapes)
    safetensors.numpy.save_file(
        {key: np.ascontiguousarray(array) for key, array in state.items()}, folder / "model.safetensors"
    )
    assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 0
    loaded = checkpoint.load_model(tmp_path / "out")
    images = weights.normal("hf.input", (6, 3, 256, 192)).transpose(0, 2, 3, 1)
    recorded = np.load(golden_dir / f"8_hf/{name}.npz")["heatmaps"]
    experts = np.arange(6) if loaded.model.experts else None
    with jax.default_matmul_precision("highest"):
        ours = loaded.model.apply(loaded.variables, images[: len(recorded)], train=False, expert=experts)["coco"]
    ours = np.asarray(ours).transpose(0, 3, 1, 2)[:, :: facts["channel_step"]]
    np.testing.assert_allclose(ours, recorded, atol=tolerances.HEATMAP)


def crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
