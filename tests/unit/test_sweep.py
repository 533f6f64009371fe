"""What a sweep file says, what trials are called, what is refused, what a folder says."""

import json
import re
import signal

import pytest
from etils import epath

from tests.conftest import ROOT
from vitpose_jax import sweep as sweeps
from vitpose_jax.sweep import __main__ as command
from vitpose_jax.sweep import clusters, record, results
from vitpose_jax.sweep.trials import LONGEST_NAME, as_text, load, trial_name

SHIPPED = sorted((ROOT / "configs" / "sweeps").glob("*.py"))


def test_lists_of_trials():
    assert sweeps.grid({"a": [1, 2], "b": ["", "y"]}) == [
        {"a": 1, "b": ""}, {"a": 1, "b": "y"}, {"a": 2, "b": ""}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    assert sweeps.together({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert sweeps.cross([{"a": 1}], [{"b": 2}, {"b": 3}]) == [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    with pytest.raises(ValueError, match="'a': 2, 'b': 1"):
        sweeps.together({"a": [1, 2], "b": [3]})
    with pytest.raises(ValueError, match="crossed lists set the same"):
        sweeps.cross([{"a": 1}], [{"a": 2}])
    with pytest.raises(ValueError, match="not the text 'abc'"):
        sweeps.grid({"a": "abc"})
    with pytest.raises(ValueError, match="empty"):
        sweeps.grid({"a": []})


def test_draws_stay_when_there_are_more_of_them():
    rate = {"rate": sweeps.log_uniform(1e-5, 1e-1)}
    few = sweeps.draws(3, rate, seed=1)
    more = sweeps.draws(200, {"other": sweeps.uniform(2, 3), **rate, "kind": sweeps.choice(["s", "b"])}, seed=1)
    assert [each["rate"] for each in few] == [each["rate"] for each in more[:3]]
    assert few != sweeps.draws(3, rate, seed=2)
    rates = [each["rate"] for each in more]
    assert all(1e-5 <= value <= 1e-1 and value == float(f"{value:.3g}") for value in rates)
    assert 70 < sum(value < 1e-3 for value in rates) < 130  # half of them, on a logarithmic scale
    assert all(2 <= each["other"] <= 3 for each in more) and {each["kind"] for each in more} == {"s", "b"}
    with pytest.raises(ValueError, match="positive"):
        sweeps.log_uniform(0, 1)
    with pytest.raises(ValueError, match="lower and a higher"):
        sweeps.uniform(1, 1)


def test_a_name_depends_on_the_settings_only():
    assert trial_name({"b.c": 1e-05, "a": (384, 288)}) == trial_name({"a": (384, 288), "b.c": 1e-05})
    assert trial_name({"b.c": 1e-05, "a": (384, 288)}) == "a=384x288,b.c=1e-05"
    assert trial_name({}) == "base"
    slash, colon = trial_name({"path": "runs/x"}), trial_name({"path": "runs:x"})
    assert slash != colon and slash.startswith("path=runs-x-") and "/" not in slash
    long = [trial_name({f"setting_{i}": "x" * 30 for i in range(9)} | {"z": end}) for end in (1, 2)]
    assert long[0] != long[1] and all(len(name) == LONGEST_NAME for name in long)


def test_what_a_sweep_refuses():
    with pytest.raises(ValueError, match="listed twice: a=1"):
        sweeps.Sweep("c", [{"a": 1}, {"a": 2}, {"a": 1}], "m")
    with pytest.raises(ValueError, match="fixed and swept"):
        sweeps.Sweep("c", [{"a": 1}], "m", fixed={"a": 2})
    with pytest.raises(ValueError, match="'max' or 'min'"):
        sweeps.Sweep("c", [{"a": 1}], "m", goal="least")
    with pytest.raises(ValueError, match="at least one trial"):
        sweeps.Sweep("c", [], "m")
    with pytest.raises(ValueError, match="cannot set None"):
        as_text(None)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_fit_their_configs(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load(str(path))
    configs = command.read_configs(found)
    for name, overrides in found.by_name.items():
        for key, value in {**found.fixed, **overrides}.items():
            assert results._at(configs[name], key) == value
    assert found.metric.split("/")[1] in configs[name]["datasets"]
    assert len({clusters.workload_name(path.stem, name) for name in configs}) == len(configs)


def test_faults_are_told_before_anything_starts(monkeypatch):
    monkeypatch.chdir(ROOT)
    trials = [{"schedule.learning_rte": 1.0}, {"train.batch_size": 1.5}, {"model.drop_path": 0.1}, {"nothing": 1}]
    wrong = sweeps.Sweep("configs/quickstart.py", trials, "m", fixed={"model.size": "s"})
    with pytest.raises(ValueError) as error:
        command.read_configs(wrong)
    text = str(error.value)
    assert 'Did you mean "learning_rate"' in text and "batch_size=1.5" in text and "nothing" in text
    assert "drop_path" not in text and "model.size" not in text
    same = sweeps.Sweep("configs/quickstart.py", [{}, {"schedule.learning_rate": 4e-3}], "m")
    with pytest.raises(ValueError, match=r"base and schedule.learning_rate=0.004 are the same run"):
        command.read_configs(same)


def test_last_error():
    traceback = "Traceback (most recent call last):\n  File x\njax.errors.JaxRuntimeError: out of memory\n"
    remark = "--------------------\nFor simplicity, JAX has removed its internal frames from the traceback.\n"
    assert record.last_error(traceback + remark, 1) == "jax.errors.JaxRuntimeError: out of memory"
    assert record.last_error("quickstart: 50%\ntrain.py: no such file\n  a detail\n", 1) == "train.py: no such file"
    assert record.last_error("Fatal in C++\n", 1) == "Fatal in C++"
    assert record.last_error("", 3) == "exit code 3, without a word"
    assert record.last_error("Error: x", -signal.SIGSEGV) == "killed by SIGSEGV"


def test_what_a_folder_was_run_with_is_compared(tmp_path):
    config = {"train": {"epochs": 2, "batch_size": 8}, "model": {"size": None, "image_size": (64, 48)},
              "mesh": {"fsdp": 1}, "input": {"num_workers": 0, "by_image": False}}  # fmt: skip
    ran = {"train": {"epochs": 2, "batch_size": 4}, "model": {"size": "s", "image_size": [64, 48]},
           "mesh": {"fsdp": 8}, "input": {"num_workers": 4, "by_image": True}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(ran))
    assert record.read(epath.Path(tmp_path), config).differences == ()  # nothing was saved: nothing would be mixed
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    assert record.read(epath.Path(tmp_path), config).differences == (
        "ran with input.by_image True, the sweep now says False",
        "ran with train.batch_size 4, the sweep now says 8",
    )


def test_workload_names_suit_kubernetes():
    for sweep in ("Quick_Start.LR", "9lives", "x" * 70, "___", "a-" * 30):
        name = clusters.workload_name(sweep, "seed=1")
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40, name
        assert name == clusters.workload_name(sweep, "seed=1") != clusters.workload_name(sweep, "seed=2")
