"""Every layout comes in whole, goes out bit for bit, and what is no ViTPose is told in one sentence."""

import contextlib
import hashlib
import io
import json
import pathlib
import shutil
import zipfile

import jax
import numpy as np
import pytest
import torch

import vitpose_jax
from tests import tolerances, torch_files
from tests.torch_files import SAID, TINY, official, save
from vitpose_jax.convert import layouts, rules, verify
from vitpose_jax.convert.command import main
from vitpose_jax.models import vitpose
from vitpose_jax.training import checkpoint
from vitpose_jax.training.state import variable_shapes


def converted(path: pathlib.Path, folder: pathlib.Path, *extra: str) -> checkpoint.LoadedModel:
    assert main(["--input", str(path), "--output", str(folder), *SAID, *extra]) == 0
    return checkpoint.load_model(folder)


def heatmaps(loaded, dataset="coco") -> np.ndarray:
    crops = np.random.default_rng(0).standard_normal((2, *loaded.model.image_size, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda variables: loaded.model.apply(variables, crops, train=False, datasets=(dataset,)))
        return apply(loaded.variables)[dataset]


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tiny classic model, converted from the plainest file."""
    folder = tmp_path_factory.mktemp("reference")
    return converted(save(folder / "vitpose.pth", official()), folder / "out")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """The tiny ViTPose++, converted: its folder, what is in it, and heatmaps by data set."""
    folder = tmp_path_factory.mktemp("joint")
    loaded = converted(save(folder / "joint.pth", official(plus=True)), folder / "out")
    return folder / "out", loaded, {dataset: heatmaps(loaded, dataset) for dataset in torch_files.PLUS}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Its parts, split as the original does, renamed and converted: a folder of theirs, and what was said of each."""
    folder, said = tmp_path_factory.mktemp("parts"), {}
    for expert, dataset in enumerate(torch_files.PLUS):
        path = save(folder / "renamed.pth", torch_files.split_by_the_original(official(plus=True), expert))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            converted(path, folder / "parts" / dataset)
        said[dataset] = out.getvalue()
    return folder / "parts", said


@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_official_files(decoder, tmp_path, capsys):
    path = save(tmp_path / "vitpose.pth", official(decoder=decoder), optimizer={"state": {0: torch.ones(3)}})
    loaded = converted(path, tmp_path / "out", "--verify")
    out = capsys.readouterr().out
    assert "32 wide, 2 blocks, 4 heads; 64x48 crops, 4x3 patches" in out
    assert f"{decoder}: coco (17 keypoints, UDP)" in out
    assert "entry 'optimizer': 1 tensors" in out
    assert "largest difference from PyTorch" in out
    assert loaded.file.provenance["source"] == "vitpose.pth"
    assert loaded.file.provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.file.provenance["converter"] == vitpose_jax.__version__
    assert loaded.file.codec == {"sigma": 2.0, "blur_kernel": 11}
    assert loaded.file.keypoint_set("coco").names[0] == "nose"
    state = official(decoder=decoder)
    kernel = state["backbone.blocks.1.attn.qkv.weight"].numpy()  # [q|k|v of heads of channels, D]
    np.testing.assert_array_equal(
        loaded.variables["params"]["backbone"]["blocks"]["attn"]["qkv"]["kernel"][1].reshape(32, 96), kernel.T
    )


@pytest.mark.parametrize("change", [
    lambda state: {f"module.{name}": array for name, array in state.items()},
    lambda state: {f"module._orig_mod.{name}": array for name, array in state.items()},
    lambda state: {**state, "ema_backbone_pos_embed": torch.ones(3)},
    lambda state: {**state, "backbone.cls_token": torch.ones(1, 1, 32)},
    lambda state: {**state, "associate_heads.0.final_layer.weight": torch.ones(14, 16, 1, 1)},
], ids=["module", "compiled", "ema", "cls_token", "associate_heads"])  # fmt: skip
def test_wrappers_and_companions_change_nothing(change, reference, tmp_path, capsys):
    loaded = converted(save(tmp_path / "file.pth", change(official())), tmp_path / "out")
    same(loaded.variables, reference.variables)
    ignored = [line for line in capsys.readouterr().out.splitlines() if "ignored" in line]
    companions = len(change(official())) - len(official())
    assert len(ignored) == companions


@pytest.mark.parametrize("entry", [None, "model", "ema"])
def test_the_entry_that_holds_the_model(entry, reference, tmp_path):
    state = official()
    other = {name: torch.zeros_like(array) for name, array in state.items()}
    content = {None: state, "model": {"model": state, "epoch": 3}, "ema": {"model": other, "ema": state}}[entry]
    torch.save(content, tmp_path / "file.pth")
    extra = ("--entry", "ema") if entry == "ema" else ()
    same(converted(tmp_path / "file.pth", tmp_path / "out", *extra).variables, reference.variables)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(dtype, tmp_path):
    state = {name: array.to(dtype) if array.is_floating_point() else array for name, array in official().items()}
    loaded = converted(save(tmp_path / "half.pth", state), tmp_path / "out")
    expected = state["backbone.pos_embed"].to(torch.float32).numpy()
    np.testing.assert_array_equal(loaded.variables["params"]["backbone"]["pos_embed"], expected)


def test_old_files_without_a_zip_archive(reference, tmp_path):
    torch.save({"state_dict": official()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(converted(tmp_path / "old.pth", tmp_path / "out").variables, reference.variables)


def test_numpy_in_the_notes_of_a_file_is_harmless(reference, tmp_path):
    path = save(tmp_path / "file.pth", official(), dataset_meta={"sigmas": np.ones(17, np.float32)})
    same(converted(path, tmp_path / "out").variables, reference.variables)


def test_vitpose_plus_keeps_all_experts_and_decoders(tmp_path, capsys):
    loaded = converted(save(tmp_path / "vitpose+_tiny.pth", official(plus=True)), tmp_path / "out")
    assert list(loaded.model.experts) == list(torch_files.PLUS)
    assert dict(loaded.model.num_keypoints) == torch_files.PLUS
    assert "experts   6 of 8 features" in capsys.readouterr().out
    kernel = official(plus=True)["backbone.blocks.1.mlp.experts.3.weight"].numpy()
    experts = loaded.variables["params"]["backbone"]["blocks"]["mlp"]["experts"]["kernel"]
    np.testing.assert_array_equal(experts[1, 3], kernel.T)


@pytest.mark.parametrize("dataset", torch_files.PLUS)
def test_leftovers_of_the_split_script_tell_the_data_set(dataset, parts, joint):
    folder, said = parts
    loaded = checkpoint.load_model(folder / dataset)
    assert dict(loaded.model.num_keypoints) == {dataset: torch_files.PLUS[dataset]}
    assert not loaded.model.experts
    assert "left over by the original's split script" in said[dataset]
    np.testing.assert_allclose(heatmaps(loaded, dataset), joint[2][dataset], atol=tolerances.HEATMAP, err_msg=dataset)


def test_multi_data_set_files_keep_the_decoders_that_are_named(tmp_path):
    state = official()
    for name in [name for name in state if name.startswith("keypoint_head.")]:
        further = state[name][:14] if "final_layer" in name else state[name]
        state[name.replace("keypoint_head", "associate_heads.0")] = further
    path = save(tmp_path / "multi.pth", state)
    assert dict(converted(path, tmp_path / "one").model.num_keypoints) == {"coco": 17}
    both = converted(path, tmp_path / "both", "--datasets", "coco", "aic")
    assert dict(both.model.num_keypoints) == {"coco": 17, "aic": 14}


def test_file_names_and_users_tell_data_sets_of_as_many_keypoints(tmp_path):
    assert list(converted(
        save(tmp_path / "vitpose-s-coco_25.pth", official(keypoints=25)), tmp_path / "feet"
    ).model.num_keypoints) == ["coco_25"]  # fmt: skip
    for name, extra, expected in (
        ("vitpose-b-ap10k.pth", (), "ap10k"), ("vitpose-b.pth", (), "coco"),
        ("x.pth", ("--datasets", "apt36k"), "apt36k"),
    ):  # fmt: skip
        loaded = converted(save(tmp_path / name, official()), tmp_path / expected, *extra)
        assert list(loaded.model.num_keypoints) == [expected]
    assert loaded.file.keypoint_set("apt36k").name == "ap10k"


def test_keypoints_of_ones_own(tmp_path):
    path = save(tmp_path / "fish.pth", official(keypoints=3))
    names = {"names": ["nose", "fin", "tail"], "swap": [], "skeleton": [["nose", "tail"]]}
    (tmp_path / "fish.json").write_text(json.dumps(names))
    loaded = converted(path, tmp_path / "out", "--keypoints", str(tmp_path / "fish.json"))
    assert loaded.file.keypoint_set("fish").names == ("nose", "fin", "tail")


@pytest.mark.parametrize("layout", [layouts.MMPOSE, layouts.HUGGING_FACE])
def test_other_layouts_hold_the_same_weights(layout, reference, tmp_path):
    state = official()
    if layout == layouts.MMPOSE:
        state["backbone.pos_embed"][:, 0] = 0  # this layout has no such row
    plain = converted(save(tmp_path / "official.pth", state), tmp_path / "plain")
    other = converted(save(tmp_path / "other.pth", torch_files.in_layout(state, layout)), tmp_path / "other")
    same(other.variables, plain.variables)
    assert other.file.provenance["layout"] == layout


def test_pre_trained_encoders(tmp_path, capsys):
    state = torch_files.in_layout(official(), layouts.MAE)
    state["pos_embed"] = torch.randn(1, 1 + 16, 32)
    kernel = state["patch_embed.proj.weight"] = torch.randn(32, 3, 14, 14)
    state |= {"cls_token": torch.zeros(1, 1, 32), "mask_token": torch.ones(1, 1, 8), "decoder_pred.bias": torch.ones(2)}
    path = tmp_path / "mae_pretrain_vit.pth"
    torch.save({"model": {f"encoder.{name}": array for name, array in state.items()} | {"x": torch.ones(1)}}, path)
    loaded = converted(path, tmp_path / "out", "--image-size", "64", "48")
    assert not loaded.model.num_keypoints
    assert loaded.model.image_size == (64, 48)
    assert loaded.variables["params"]["backbone"]["pos_embed"].shape == (1, 13, 32)
    padded = loaded.variables["params"]["backbone"]["patch_embed"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(padded[:, :, 1:-1, 1:-1], kernel)
    assert padded[:, :, 0].any() == padded[..., -1].any() == False  # noqa: E712
    out = capsys.readouterr().out
    assert "padded with zeros" in out and "(4, 4) to (4, 3) patches" in out and "not part of encoder.*" in out


BROKEN = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3000]),
    "is empty": lambda path: path.write_bytes(b""),
    "is not a PyTorch file": lambda path: path.write_text("#!/bin/sh\necho hello\n" * 9),
    "holds code or objects besides tensors": lambda path: save(path, official(), x=pathlib.Path),
    "cannot be read as a PyTorch file": lambda path: path.write_bytes(b"\x80\x02}q\x00garbage"),
    "not the weights of a ViTPose": lambda path: torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, path),
    "holds no tensors": lambda path: torch.save({"state_dict": {"epoch": 3}}, path),
    "holds a list, not a state_dict": lambda path: torch.save([torch.ones(3)], path),
    "NaN or infinity": lambda path: save(path, official() | {"backbone.last_norm.bias": torch.full((32,), np.nan)}),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BROKEN)
def test_what_is_no_model_is_told_in_one_sentence(sentence, tmp_path, capsys):
    path = save(tmp_path / "file.pth", official())
    BROKEN[sentence](path)
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), *SAID]) == 2
    error = capsys.readouterr().err
    told = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("convert_torch_weights.py:")]
    assert len(told) == 1 and sentence in told[0]
    assert [p.name for p in tmp_path.iterdir()] == ["file.pth"]


def test_a_pickle_with_code_is_never_run(tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": official(), "extra": Code()}, tmp_path / "file.pth")
    assert main(["--input", str(tmp_path / "file.pth"), "--output", str(tmp_path / "out"), *SAID]) == 2
    assert not (tmp_path / "executed").exists()
    assert "never executed" in capsys.readouterr().err


def test_folders_that_hold_no_model(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text('{"model_type": "vitpose", "backbone_config": {}}')
    for name, sentence in (
        ("empty", "is empty"), ("other", "not 'vitpose'"), ("half", "incomplete"), ("nowhere", "does not exist"),
    ):  # fmt: skip
        assert main(["--input", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_faults_come_in_one_report(tmp_path, capsys):
    state = official()
    del state["backbone.blocks.1.mlp.fc2.bias"]
    state["keypoint_head.deconv_layers.4.running_mean"] = torch.ones(7)
    state["backbone.relative_positions"] = torch.ones(7)
    path = save(tmp_path / "file.pth", state)
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), *SAID]) == 2
    error = capsys.readouterr().err
    for expected in (
        "1 missing", "backbone.blocks.1.mlp.fc2.bias (32,)", "1 of a wrong shape",
        "keypoint_head.deconv_layers.4.running_mean: (7,), expected (16,)", "1 unknown", "backbone.relative_positions",
    ):  # fmt: skip
        assert expected in error
    assert not (tmp_path / "out").exists()


def test_missing_last_layers_of_a_published_size_are_noticed(tmp_path, capsys):
    model = vitpose.vitpose(size="s", depth=2, num_keypoints={"coco": 17})
    shapes = rules.torch_shapes(variable_shapes(model), decoder_prefixes={"coco": "keypoint_head"})
    path = save(tmp_path / "file.pth", {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert main(["--input", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "blocks 0 to 1, an encoder 384 wide should have 12" in capsys.readouterr().err
    assert main(["--input", str(path), "--output", str(tmp_path / "out"), "--depth", "2"]) == 0


def test_an_unknown_width_asks_for_its_heads(tmp_path, capsys):
    path = save(tmp_path / "file.pth", official())
    assert main(["--input", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "--num-heads" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    path = save(tmp_path / "file.pth", official())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    for option in ("--output", "--to-hf", "--split"):
        assert main(["--input", str(path), option, str(tmp_path / "out"), *SAID]) == 2
    assert main(["--input", str(path), "--to-torch", str(path), *SAID]) == 2
    error = capsys.readouterr().err
    assert error.count("is there already") == 3 and "a place of its own" in error
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"decoder": "simple"}, {"plus": True}], ids=["classic", "simple", "plus"])
def test_the_way_to_pytorch_and_back_is_exact(options, tmp_path):
    state = official(**options)
    loaded = converted(save(tmp_path / "in.pth", state), tmp_path / "ours")
    assert main(["--input", str(tmp_path / "ours"), "--to-torch", str(tmp_path / "out.pth")]) == 0
    back = torch_files.numbers_in(tmp_path / "out.pth")
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert back[name].dtype == array.dtype and torch.equal(back[name], array), name
    again = tmp_path / "again"  # without a word about heads: our notes are in the file
    assert main(["--input", str(tmp_path / "out.pth"), "--output", str(again)]) == 0
    same(checkpoint.load_model(again).variables, loaded.variables)
    assert checkpoint.load_model(again).model == loaded.model


def test_tensors_are_written_in_the_originals_order(joint, tmp_path):
    main(["--input", str(joint[0]), "--to-torch", str(tmp_path / "out.pth")])
    names = list(torch_files.numbers_in(tmp_path / "out.pth"))
    families = list(dict.fromkeys(name.split(".blocks.")[0].split(".")[0] for name in names))
    assert families == ["backbone", "keypoint_head", "associate_keypoint_heads"]
    assert names[:3] == ["backbone.pos_embed", "backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"]
    block = [name.removeprefix("backbone.blocks.0.") for name in names if name.startswith("backbone.blocks.0.")]
    assert block[:5] == ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight"]
    head = [name.removeprefix("keypoint_head.") for name in names if name.startswith("keypoint_head.")]
    assert head[0] == "deconv_layers.0.weight" and head[-1] == "final_layer.bias"


def test_splitting_and_merging(joint, tmp_path, capsys):
    folder, whole, expected = joint
    assert main(["--input", str(folder), "--split", str(tmp_path / "split")]) == 0
    plain = converted(save(tmp_path / "plain.pth", official()), tmp_path / "plain")
    for dataset in torch_files.PLUS:
        single = checkpoint.load_model(tmp_path / "split" / dataset)
        renamed = {**single.variables["params"], "decoders": {"coco": single.variables["params"]["decoders"][dataset]}}
        assert jax.tree.structure(renamed) == jax.tree.structure(plain.variables["params"])
        np.testing.assert_allclose(heatmaps(single, dataset), expected[dataset], atol=tolerances.HEATMAP)
    merged = tmp_path / "merged"
    assert main(["--input", str(tmp_path / "split"), "--merge", "--output", str(merged)]) == 0
    same(checkpoint.load_model(merged).variables, whole.variables)
    assert checkpoint.load_model(merged).model == whole.model

    shutil.rmtree(tmp_path / "split/mpii")
    assert main(["--input", str(tmp_path / "split"), "--merge", "--output", str(tmp_path / "x")]) == 2
    assert "the model of mpii is missing" in capsys.readouterr().err
    assert main(["--input", str(tmp_path / "plain"), "--split", str(tmp_path / "y")]) == 2
    assert "no experts" in capsys.readouterr().err


def test_models_whose_shared_part_differs_are_not_merged(parts, tmp_path, capsys):
    others = shutil.copytree(parts[0], tmp_path / "parts", ignore=shutil.ignore_patterns("mpii"))
    state = torch_files.split_by_the_original(official(plus=True), list(torch_files.PLUS).index("mpii"))
    state["backbone.blocks.1.attn.proj.bias"] = state["backbone.blocks.1.attn.proj.bias"] + 1
    converted(save(tmp_path / "mpii.pth", state), others / "mpii")
    assert main(["--input", str(others), "--merge", "--output", str(tmp_path / "joint")]) == 2
    assert "backbone/blocks/attn/proj/bias of mpii differs from that of coco" in capsys.readouterr().err


def test_official_split_files_are_merged_too(parts, joint, tmp_path):
    """All six of a joint checkpoint, as published, give the joint checkpoint back."""
    assert main(["--input", str(parts[0]), "--merge", "--output", str(tmp_path / "merged")]) == 0
    same(checkpoint.load_model(tmp_path / "merged").variables, joint[1].variables)


def test_verify_notices_a_wrong_mapping(reference, monkeypatch, tmp_path, capsys):
    path = save(tmp_path / "file.pth", official())
    right = verify._encode
    monkeypatch.setattr(verify, "_encode", lambda *arguments: right(*arguments) * 1.001)
    assert main(["--input", str(path), "--verify", *SAID]) == 1
    assert "differ by more than rounding" in capsys.readouterr().err


def test_a_checkpoint_for_another_resolution(reference, tmp_path):
    loaded = converted(save(tmp_path / "file.pth", official()), tmp_path / "out", "--image-size", "96", "64")
    assert loaded.model.image_size == (96, 64) and heatmaps(loaded).shape == (2, 24, 16, 17)
    assert loaded.file.provenance["resized_from_image_size"] == [64, 48]
    assert TINY["image_size"] == (64, 48)


def test_zip_files_of_other_things(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert main(["--input", str(tmp_path / "archive.pth"), "--output", str(tmp_path / "out")]) == 2
    assert "cannot be read as a PyTorch file" in capsys.readouterr().err
