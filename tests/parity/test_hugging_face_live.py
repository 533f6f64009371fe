"""The same random weights through `transformers` and through this project, both ways of conversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests import tolerances
from vitpose_jax import codec, geometry
from vitpose_jax.convert.command import main
from vitpose_jax.models import vit
from vitpose_jax.training import checkpoint

SIZES = {
    "tiny": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}


def their_model(size: str, *, simple: bool, plus: bool, eps: float = 1e-6):
    fields = SIZES[size]
    backbone = transformers.VitPoseBackboneConfig(
        **fields, image_size=(64, 48) if size == "tiny" else (256, 192), layer_norm_eps=eps,
        num_experts=6 if plus else 1, part_features=12 if plus else 256, out_indices=[fields["num_hidden_layers"]],
    )  # fmt: skip
    config = transformers.VitPoseConfig(backbone_config=backbone, use_simple_decoder=simple, num_labels=17)
    torch.manual_seed(0)
    model = transformers.VitPoseForPoseEstimation(config).eval()
    with torch.no_grad():  # the library's initial values are too small to tell anything
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1 and "position" not in name:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name or "norm" in name else tensor.normal_(0, 0.1)
    return model


def crops_for(model, count=2) -> np.ndarray:
    height, width = model.config.backbone_config.image_size
    return np.random.default_rng(0).standard_normal((count, height, width, 3)).astype(np.float32)


def their_heatmaps(model, crops, index=None) -> np.ndarray:
    with torch.no_grad():
        pixels = torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
        return model(pixels, dataset_index=index).heatmaps.numpy()


def compare(model, folder, tmp_path, *, plus: bool) -> checkpoint.LoadedModel:
    assert main(["--input", str(folder), "--output", str(tmp_path / "ours")]) == 0
    loaded = checkpoint.load_model(tmp_path / "ours")
    crops = crops_for(model, 6 if plus else 2)
    index = np.arange(6) if plus else None
    with jax.default_matmul_precision("highest"):
        ours = loaded.model.apply(loaded.variables, crops, train=False, expert=index)["coco"]
    theirs = their_heatmaps(model, crops, torch.arange(6) if plus else None)
    assert np.ptp(theirs) > 0.5
    np.testing.assert_allclose(np.asarray(ours).transpose(0, 3, 1, 2), theirs, atol=tolerances.HEATMAP)
    return loaded


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "classic"])
@pytest.mark.parametrize("plus", [False, True], ids=["dense", "plus"])
def test_heatmaps_and_the_way_back(simple, plus, tmp_path):
    model = their_model("tiny", simple=simple, plus=plus)
    model.save_pretrained(tmp_path / "theirs")
    compare(model, tmp_path / "theirs", tmp_path, plus=plus)
    # Ours as a folder for transformers: loads without a complaint, bit for bit the same tensors.
    assert main(["--input", str(tmp_path / "ours"), "--to-hf", str(tmp_path / "back")]) == 0
    back, info = transformers.VitPoseForPoseEstimation.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    crops = crops_for(model, 1)
    index = torch.tensor([3]) if plus else None
    np.testing.assert_array_equal(their_heatmaps(back.eval(), crops, index), their_heatmaps(model, crops, index))
    assert back.config.id2label[0] == "nose"
    # And in again: our own model file makes it exact.
    assert main(["--input", str(tmp_path / "back"), "--output", str(tmp_path / "again")]) == 0
    first, again = checkpoint.load_model(tmp_path / "ours"), checkpoint.load_model(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.variables, first.variables)
    assert again.model == first.model


def test_patch_embedding_and_one_block(tmp_path):
    model = their_model("tiny", simple=True, plus=False)
    model.save_pretrained(tmp_path / "theirs")
    loaded = compare(model, tmp_path / "theirs", tmp_path, plus=False)
    backbone = loaded.variables["params"]["backbone"]
    crops = crops_for(model)
    fields = loaded.model.backbone
    with torch.no_grad():
        theirs = model.backbone.embeddings.patch_embeddings(torch.from_numpy(crops.transpose(0, 3, 1, 2).copy()))
        after = model.backbone.encoder.layer[1](theirs)
    after = after[0] if isinstance(after, tuple) else after
    embed = vit.PatchEmbed(fields["embed_dim"], 1, jnp.float32)
    block = vit.Block(fields["num_heads"], fields["mlp_dim"], 0, 0, 1e-6, jnp.float32, train=False, stochastic=False)
    with jax.default_matmul_precision("highest"):
        ours = embed.apply({"params": backbone["patch_embed"]}, crops).reshape(theirs.shape)
        second = jax.tree.map(lambda leaf: leaf[1], backbone["blocks"])
        ours_after, _ = block.apply({"params": second}, theirs.numpy(), jnp.float32(0), None)
    np.testing.assert_allclose(ours, theirs, atol=tolerances.FEATURE)
    np.testing.assert_allclose(ours_after, after, atol=tolerances.FEATURE)


def test_the_epsilon_of_a_folder_is_kept(tmp_path):
    """Its default is 1e-12, the original's 1e-6: with tiny activations that is another model."""
    model = their_model("tiny", simple=True, plus=False, eps=1e-12)
    with torch.no_grad():
        for name in ("projection.weight", "projection.bias"):
            getattr(model.backbone.embeddings.patch_embeddings.projection, name.split(".")[1]).mul_(1e-3)
        model.backbone.embeddings.position_embeddings.mul_(1e-3)
    model.save_pretrained(tmp_path / "theirs")
    loaded = compare(model, tmp_path / "theirs", tmp_path, plus=False)
    assert loaded.file.settings["layer_norm_eps"] == 1e-12


def test_the_image_processor_of_an_exported_folder(tmp_path):
    model = their_model("tiny", simple=True, plus=False)
    model.save_pretrained(tmp_path / "theirs")
    assert main(["--input", str(tmp_path / "theirs"), "--to-hf", str(tmp_path / "back")]) == 0
    processor = transformers.VitPoseImageProcessorPil.from_pretrained(tmp_path / "back")
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    pixels = processor(image, boxes=[[[10.0, 10.0, 40.0, 60.0]]], return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 48)


def test_keypoints_where_the_decoding_is_the_same():
    """Smooth peaks away from the border decode alike; how the two differ elsewhere stands in docs/parity.md."""
    processor = transformers.VitPoseImageProcessorPil()
    rng = np.random.default_rng(0)
    keypoints = np.concatenate([rng.uniform([50, 50], [140, 200], (2, 17, 2)), np.ones((2, 17, 1))], axis=-1)
    heatmaps = codec.encode(
        keypoints.astype(np.float32), crop_size=(256, 192), heatmap_size=(64, 48), sigma=2.0, udp=np.ones(2, bool)
    )[0]
    boxes = [[20.0, 30.0, 90.0, 120.0], [5.0, 5.0, 60.0, 80.0]]
    output = type("Output", (), {"heatmaps": torch.from_numpy(np.array(heatmaps).transpose(0, 3, 1, 2))})
    theirs = processor.post_process_pose_estimation(output, boxes=[boxes])[0]
    points_hm, scores = codec.decode(heatmaps, method="dark_udp", blur_kernel=11)
    crop = np.asarray(codec.points_to_crop(points_hm, crop_size=(256, 192), heatmap_size=(64, 48), udp=True))
    for row, box in enumerate(boxes):
        padded = geometry.bbox_to_box_cxcywh(np.array(box), aspect_ratio=192 / 256, padding=1.25)
        matrix = geometry.invert(geometry.crop_matrix(padded, (256, 192), udp=True))
        ours = geometry.transform(matrix, crop[row])
        limit = tolerances.KEYPOINT_THROUGH_FLIP_TEST_PX
        np.testing.assert_allclose(ours, theirs[row]["keypoints"].numpy(), atol=limit)
        np.testing.assert_allclose(scores[row], theirs[row]["scores"].numpy(), atol=tolerances.HEATMAP)


@pytest.mark.slow
@pytest.mark.parametrize("simple", [True, False], ids=["simple", "classic"])
def test_full_size(simple, tmp_path):
    model = their_model("base", simple=simple, plus=False)
    model.save_pretrained(tmp_path / "theirs")
    loaded = compare(model, tmp_path / "theirs", tmp_path, plus=False)
    assert loaded.file.provenance["size"] == "b"
