"""What happens to people who convert: options that contradict, exports that come back, stops in the middle."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import torch
import transformers

from tests import torch_files
from tests.torch_files import PLUS, SAID, official, save
from vitpose_jax.convert import layouts
from vitpose_jax.convert.command import main
from vitpose_jax.data.datasets import DATASETS
from vitpose_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A plain and a joint file, and both converted."""
    folder = tmp_path_factory.mktemp("files")
    for name, options in (("plain", {}), ("joint", {"plus": True})):
        path = save(folder / f"{name}.pth", official(**options))
        assert main(["--input", str(path), "--output", str(folder / name), *SAID]) == 0
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_names_choose_among_the_decoders_of_a_vitpose_plus(files, tmp_path, capsys):
    joint = checkpoint.load_model(files / "joint")
    for source in (files / "joint.pth", files / "joint"):
        said = SAID if source.suffix else ()
        out = tmp_path / source.name
        assert run("--input", source, "--output", out, "--datasets", "mpii", "ap10k", *said) == 0
        chosen = checkpoint.load_model(out)
        assert set(chosen.model.num_keypoints) == {"ap10k", "mpii"} and set(chosen.model.experts) == set(PLUS)
        for name in ("ap10k", "mpii"):
            theirs, ours = (model.variables["params"]["decoders"][name] for model in (joint, chosen))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert run("--input", source, "--output", tmp_path / "no", "--datasets", "hands", *said) == 2
        assert "hands" in capsys.readouterr().err


def test_every_data_set_keeps_its_convention(files):
    stored = checkpoint.load_model(files / "joint").file.datasets
    assert {name: entry["udp"] for name, entry in stored.items()} == {name: DATASETS[name].udp for name in PLUS}
    assert stored["coco"]["udp"] and not stored["aic"]["udp"]


def test_the_folder_of_a_run_is_taken_though_it_has_a_config(files, tmp_path):
    """A run writes config.json into its folder, as Hugging Face's folders have one."""
    shutil.copytree(files / "plain", tmp_path / "run")
    (tmp_path / "run/config.json").write_text(json.dumps({"name": "vitpose_b"}))
    assert run("--input", tmp_path / "run", "--to-torch", tmp_path / "out.pth") == 0


@pytest.mark.parametrize("words", [
    ("--num-heads", "4"), ("--depth", "2"), ("--entry", "x"), ("--source-image-size", "64", "48"),
])  # fmt: skip
def test_what_a_model_says_itself_cannot_be_said_again(words, files, tmp_path, capsys):
    assert run("--input", files / "plain", "--output", tmp_path / "out", *words) == 2
    assert f"{words[0]}: a checkpoint of this project says this already" in capsys.readouterr().err
    assert run("--input", files / "plain", "--to-torch", tmp_path / "out.pth") == 0
    if words[0] != "--entry":
        assert run("--input", tmp_path / "out.pth", "--output", tmp_path / "out", *words) == 2
        assert "our notes in it says this already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_encoder_alone_goes_out_and_comes_back(tmp_path):
    state = torch_files.in_layout(official(), layouts.MAE)
    del state["norm.weight"], state["norm.bias"]  # pooled over patches, it has none
    path = save(tmp_path / "mae.pth", state)
    assert run("--input", path, "--output", tmp_path / "ours", "--verify", *SAID, "--source-image-size", 64, 48) == 0
    assert run("--input", tmp_path / "ours", "--to-torch", tmp_path / "out.pth") == 0
    assert run("--input", tmp_path / "out.pth", "--output", tmp_path / "again") == 0
    first, again = checkpoint.load_model(tmp_path / "ours"), checkpoint.load_model(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.variables, first.variables)
    assert (first.variables["params"]["backbone"]["last_norm"]["scale"] == 1).all()


def test_where_weights_come_from_survives_an_export(files, tmp_path):
    assert run("--input", files / "joint", "--split", tmp_path / "split") == 0
    for name in PLUS:
        assert run("--input", tmp_path / "split" / name, "--to-torch", tmp_path / "pth" / f"{name}.pth") == 0
        assert run("--input", tmp_path / "pth" / f"{name}.pth", "--output", tmp_path / "again" / name) == 0
    again = checkpoint.load_model(tmp_path / "again/aic").file.provenance
    joint = checkpoint.load_model(files / "joint").file.provenance
    assert {key: again[key] for key in ("source", "sha256")} == {key: joint[key] for key in ("source", "sha256")}
    assert again["exported_as"] == "aic.pth"
    assert run("--input", tmp_path / "again", "--merge", "--output", tmp_path / "merged", "--image-size", 96, 64) == 0
    merged = checkpoint.load_model(tmp_path / "merged")
    assert merged.model.image_size == (96, 64) and tuple(merged.model.experts) == tuple(PLUS)
    assert merged.file.provenance["counters"] == joint["counters"]


def test_several_outputs_are_all_written_or_none(files, tmp_path, capsys):
    outputs = ("--to-torch", tmp_path / "a.pth", "--output", tmp_path / "b")
    assert run("--input", files / "joint", *outputs, "--to-hf", tmp_path / "c") == 2  # six decoders, small filters
    assert run("--input", files / "plain", *outputs, "--split", tmp_path / "c") == 2  # no experts
    assert run("--input", files / "plain", "--output", tmp_path / "b", "--to-hf", tmp_path / "b") == 2
    assert not list(tmp_path.iterdir())
    capsys.readouterr()
    assert run("--input", files / "plain", *outputs) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b"]


def test_a_flipped_byte_is_noticed(files, tmp_path, capsys):
    content = bytearray((files / "plain.pth").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "plain.pth").write_bytes(content)
    assert run("--input", tmp_path / "plain.pth", "--output", tmp_path / "out", *SAID) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("state, sentence", [
    ({"backbone.pos_embed": torch.ones(1, 13, 32).to(torch.int8)}, "quantised"),
    ({"backbone.pos_embed": torch.ones(1, 13, 32).to(torch.complex64)}, "quantised"),
    ({"backbone.pos_embed": torch.ones(1, 13, 32).to_sparse()}, "not a plain array"),
    ({"keypoint_head.final_layer.weight": torch.tensor(1.0)}, "keypoint"),
    ({"keypoint_head.deconv_layers.1.num_batches_tracked": torch.tensor([1, 2, 3])}, "quantised"),
])  # fmt: skip
def test_strange_tensors_are_one_sentence(state, sentence, tmp_path, capsys):
    path = save(tmp_path / "file.pth", official() | state)
    assert run("--input", path, "--output", tmp_path / "out", *SAID) == 2
    assert sentence in capsys.readouterr().err


def test_averaged_weights_in_their_own_entry(files, tmp_path):
    averaged = {"n_averaged": torch.tensor(7)} | {f"module.{name}": array for name, array in official().items()}
    path = save(tmp_path / "file.pth", {name: array * 0 for name, array in official().items()}, ema_state_dict=averaged)
    assert run("--input", path, "--output", tmp_path / "out", "--entry", "ema_state_dict", *SAID) == 0
    ours, plain = (checkpoint.load_model(place).variables for place in (tmp_path / "out", files / "plain"))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_a_tensor_file_is_read_with_the_config_beside_it(tmp_path, capsys):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "image_size": (64, 48)}
    backbone = transformers.VitPoseBackboneConfig(**fields, out_indices=[2])
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(tmp_path / "theirs")
    assert run("--input", tmp_path / "theirs/model.safetensors", "--output", tmp_path / "out", "--verify") == 0
    settings = checkpoint.load_model(tmp_path / "out").file.settings
    assert (settings["num_heads"], settings["layer_norm_eps"]) == (8, 1e-12)
    assert "from transformers on the source" in capsys.readouterr().out
    content = json.loads((tmp_path / "theirs/config.json").read_text())
    content["id2label"] = {str(i): f"fin_{i}" for i in range(17)}
    (tmp_path / "theirs/config.json").write_text(json.dumps(content))
    assert run("--input", tmp_path / "theirs", "--output", tmp_path / "no") == 2
    assert "id2label" in capsys.readouterr().err


def test_what_is_exported_for_hugging_face_is_described(tmp_path):
    path = save(tmp_path / "simple.pth", official(decoder="simple"))
    assert run("--input", path, "--to-hf", tmp_path / "hf", *SAID) == 0
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406] and processor["image_std"] == [0.229, 0.224, 0.225]
    assert processor["rescale_factor"] == pytest.approx(1 / 255)
    labels = json.loads((tmp_path / "hf/config.json").read_text())["id2label"]
    assert tuple(labels[str(i)] for i in range(17)) == DATASETS["coco"].keypoint_set.names


def test_padding_rows_of_joint_training_are_cut(tmp_path, capsys):
    state = official(plus=True)
    for leaf in ("weight", "bias"):
        name = f"associate_keypoint_heads.0.final_layer.{leaf}"
        state[name] = torch.cat([state[name], torch.ones(119, *state[name].shape[1:])])
    assert run("--input", save(tmp_path / "joint.pth", state), "--output", tmp_path / "out", *SAID) == 0
    assert "rows 14 to 132 are padding" in capsys.readouterr().out
    kernel = checkpoint.load_model(tmp_path / "out").variables["params"]["decoders"]["aic"]["final"]["kernel"]
    assert kernel.shape == (1, 1, 16, 14)


@pytest.mark.parametrize("delay", [0.3, 4.0])
def test_a_stop_leaves_nothing_behind(delay, tmp_path):
    save(tmp_path / "file.pth", official())
    command = [sys.executable, str(ROOT / "convert_torch_weights.py"), "--input", "file.pth", "--output", "out", *SAID]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    names = sorted(path.name for path in tmp_path.iterdir())
    # A signal may hit while libraries are loading, or when all is done.
    assert names in (["file.pth"], ["file.pth", "out"]), error
    if "out" in names:
        checkpoint.load_model(tmp_path / "out")
    else:
        assert process.returncode != 0


def test_ctrl_c_is_one_sentence(files, tmp_path, monkeypatch, capsys):
    def ctrl_c(*_arguments, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", ctrl_c)
    assert run("--input", files / "plain.pth", "--output", tmp_path / "out", *SAID) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_command_itself(files, tmp_path):
    command = [sys.executable, str(ROOT / "convert_torch_weights.py")]
    done = subprocess.run(
        [*command, "--input", str(files / "plain"), "--to-torch", str(tmp_path / "out.pth")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "written:" in done.stdout
    wrong = subprocess.run([*command, "--input", "nowhere", "--output", str(tmp_path / "x")], cwd=ROOT, check=False)
    assert wrong.returncode == 2


def test_a_failing_save_leaves_nothing_behind(files, tmp_path, monkeypatch):
    def full_disk(*_arguments, **_keywords):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full_disk)
    assert run("--input", files / "plain.pth", "--output", tmp_path / "out", *SAID) == 2
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_this_project_is_resized_too(files, tmp_path):
    assert run("--input", files / "plain", "--output", tmp_path / "out", "--image-size", 96, 64) == 0
    assert checkpoint.load_model(tmp_path / "out").model.image_size == (96, 64)
