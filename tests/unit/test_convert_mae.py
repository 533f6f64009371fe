"""Files of masked autoencoders come in whole and go out again bit for bit; an encoder alone still comes in as one."""

import jax
import numpy as np
import pytest
import torch

from tests.golden import weights
from tests.torch_files import numbers_in, save
from vitpose_jax.convert import layouts, rules
from vitpose_jax.convert.command import main
from vitpose_jax.models import mae, pos_embed, vitpose
from vitpose_jax.training import checkpoint, transfer
from vitpose_jax.training.state import variable_shapes

TINY = {
    "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 128, "image_size": (64, 64), "decoder_embed_dim": 16,
    "decoder_depth": 3, "decoder_num_heads": 2,
}  # fmt: skip
SAID = ("--num-heads", "4", "--decoder-num-heads", "2")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state_dict as the official code saves it."""
    shapes = rules.torch_shapes(variable_shapes(mae.mae(**TINY)), decoder_prefixes={})
    names = layouts.rename(shapes, layouts.MAE, to_layout=True)
    made = weights.state_dict({names[name]: shape for name, shape in shapes.items()})
    return {name: torch.from_numpy(array) for name, array in made.items()}


@pytest.fixture(scope="module")
def whole(state, tmp_path_factory):
    """The official file and the checkpoint that is made of it."""
    folder = tmp_path_factory.mktemp("mae")
    torch.save({"model": state, "epoch": 1599}, folder / "mae_visualize.pth")
    assert main(["--input", str(folder / "mae_visualize.pth"), "--output", str(folder / "out"), *SAID]) == 0
    return folder


def test_a_whole_file_comes_in(whole, state):
    loaded = checkpoint.load_model(whole / "out")
    assert isinstance(loaded.model, mae.MAE) and loaded.file.task == "mae"
    assert loaded.model.clone(parent=None) == mae.mae(**TINY)
    kernel = loaded.variables["params"]["mae_decoder"]["blocks"]["attn"]["qkv"]["kernel"]  # [layers, D, 3, N, d]
    np.testing.assert_array_equal(kernel[2].reshape(16, 48).T, state["decoder_blocks.2.attn.qkv.weight"].numpy())
    np.testing.assert_array_equal(loaded.variables["params"]["backbone"]["cls_token"], state["cls_token"].numpy())


@pytest.mark.parametrize("notes", [True, False], ids=["with our notes", "without"])
def test_a_round_trip_is_exact(whole, state, tmp_path, notes):
    exported = tmp_path / "exported.pth"
    assert main(["--input", str(whole / "out"), "--to-torch", str(exported)]) == 0
    tensors = numbers_in(exported)
    assert list(tensors)[:4] == ["cls_token", "pos_embed", "mask_token", "decoder_pos_embed"]  # the official order
    assert tensors.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array.numpy(), err_msg=name)
    said: tuple[str, ...] = ()
    if not notes:
        exported, said = save(tmp_path / "plain.pth", tensors), SAID
    assert main(["--input", str(exported), "--output", str(tmp_path / "back"), *said]) == 0
    first, back = (checkpoint.load_model(folder) for folder in (whole / "out", tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, first.variables, back.variables)
    assert back.model.clone(parent=None) == first.model.clone(parent=None)


def test_verify_compares_predictions_with_pytorch(whole, capsys):
    assert main(["--input", str(whole / "mae_visualize.pth"), "--verify", *SAID]) == 0
    assert "patches: values up to" in capsys.readouterr().out


def test_verify_sees_a_wrong_weight(whole, state, tmp_path, monkeypatch):
    """The file is verified against itself, so a fault must be put between the two readings."""
    from vitpose_jax.convert import command

    read = command.source_tensors

    def changed(*arguments):
        found = read(*arguments)
        found.tensors["mae_decoder.blocks.1.mlp.fc1.bias"][0] += 1.0
        return found

    monkeypatch.setattr(command, "source_tensors", changed)
    assert main(["--input", str(whole / "mae_visualize.pth"), "--verify", *SAID]) == 1


def test_an_encoder_alone_comes_in_as_one(state, tmp_path, capsys):
    encoder = {name: array for name, array in state.items() if not name.startswith(("decoder_", "mask_token"))}
    path = save(tmp_path / "mae_pretrain.pth", encoder)
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), "--num-heads", "4"]) == 0
    loaded = checkpoint.load_model(tmp_path / "out")
    assert isinstance(loaded.model, vitpose.ViTPose) and not loaded.model.num_keypoints
    assert "ViTPose has no class token" in capsys.readouterr().out


def test_a_decoder_of_other_patches_is_left_out(state, tmp_path, capsys):
    """MAE's H has patches of 14x14 pixels: the encoder's are padded, the decoder cannot be."""
    other = {**state, "decoder_pred.weight": torch.ones(588, 16), "decoder_pred.bias": torch.ones(588)}
    other["patch_embed.proj.weight"] = torch.ones(32, 3, 14, 14)
    path = save(tmp_path / "mae.pth", other)
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), "--num-heads", "4"]) == 0
    assert isinstance(checkpoint.load_model(tmp_path / "out").model, vitpose.ViTPose)
    assert "not a whole one for 16x16 patches" in capsys.readouterr().out


@pytest.mark.parametrize("said, message", [
    (("--num-heads", "4"), "--decoder-num-heads"),
    ((*SAID, "--datasets", "coco"), "it has no keypoints"),
    ((*SAID, "--image-size", "96", "64"), "keeps the size it has"),
])  # fmt: skip
def test_what_cannot_be_is_one_sentence(whole, tmp_path, capsys, said, message):
    path = whole / "mae_visualize.pth"
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), *said]) == 2
    assert message in capsys.readouterr().err


def test_a_vitpose_starts_from_it_at_any_resolution(whole):
    """With attention within windows and relative positions, too: these start at 0."""
    fields = {name: TINY[name] for name in ("embed_dim", "depth", "num_heads", "mlp_dim")}
    fields |= {"attention": "window", "window_size": (3, 2), "relative_positions": "decomposed"}
    model = vitpose.vitpose(**fields, image_size=(96, 64), decoder="simple", num_keypoints={"coco": 3})
    variables, report = transfer.init_from(
        str(whole / "out"), model, key=jax.random.key(0), fresh=("backbone/last_norm/.*", "decoders/.*")
    )
    theirs = checkpoint.load_model(whole / "out").variables["params"]
    assert not variables["params"]["backbone"]["blocks"]["attn"].pop("rel_pos")["rows"].any()
    for part in ("patch_embed", "blocks"):
        jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"][part], theirs["backbone"][part])
    assert report["resized"] == ["params/backbone/pos_embed"]
    assert variables["params"]["backbone"]["pos_embed"].shape == (1, 1 + 6 * 4, 32)
    assert {path.split("/")[1] for path in report["unused"]} == {"backbone", "mae_decoder"}
    assert [path for path in report["unused"] if "backbone" in path] == ["params/backbone/cls_token"]
    assert {"params/backbone/last_norm/scale", "params/decoders/coco/final/kernel"} <= set(report["fresh"])
    np.testing.assert_array_equal(variables["params"]["backbone"]["last_norm"]["scale"], np.ones(32))


def test_pre_training_goes_on_from_it_with_crops_of_another_shape(whole):
    """Even if they have as many patches: a position embedding belongs to a grid."""
    wide = mae.mae(**{**TINY, "image_size": (32, 128)})
    variables, report = transfer.init_from(str(whole / "out"), wide, key=jax.random.key(0))
    assert report["resized"] == ["params/backbone/pos_embed", "params/mae_decoder/pos_embed"]
    assert not (report["fresh"] or report["unused"])
    expected = checkpoint.load_model(whole / "out").variables
    for part in ("backbone", "mae_decoder"):
        params = expected["params"][part]
        params["pos_embed"] = pos_embed.resize(params["pos_embed"], (4, 4), (2, 8))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
