"""The harness that compares speed; never the speed itself."""

import json

import pytest

from vitpose_jax import benchmark


def test_variants_take_turns():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    timings = benchmark.take_turns(variants, repeats=3)
    assert calls == ["a", "b"] * (1 + benchmark.WARMUP_RUNS + 3)
    assert all(len(timing.runs) == 3 for timing in timings.values())
    with pytest.raises(ValueError, match="repeats"):
        benchmark.take_turns(variants, repeats=0)


def test_ratios_are_round_by_round():
    """A slow round slows both: the medians of the seconds alone would tell another story."""
    reference, other = (
        benchmark.Timing(benchmark.Run(9.0, 9.0), tuple(benchmark.Run(wall, wall) for wall in walls))
        for walls in ((1.0, 10.0, 2.0), (2.0, 20.0, 3.0))
    )
    line = json.loads(benchmark.report("case", {"size": "b"}, {"one": reference, "other": other}))
    assert (line["case"], line["size"]) == ("case", "b")
    assert line["variants"]["one"]["wall"]["ratio"] == 1.0
    assert line["variants"]["other"]["wall"]["ratio"] == 2.0
    assert line["variants"]["other"]["wall"]["median_s"] == 3.0


def test_a_wrong_setting_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["mixed", "--size", "xl"])
    assert "model size must be one of" in capsys.readouterr().err


def test_facts_stand_beside_timings_or_alone():
    timing = benchmark.Timing(benchmark.Run(1.0, 1.0), (benchmark.Run(1.0, 1.0),))
    alone = json.loads(benchmark.report("case", {}, {}, {"one": {"gmac_per_crop": 2.0}}))["variants"]
    both = json.loads(benchmark.report("case", {}, {"one": timing}, {"one": {"gmac_per_crop": 2.0}}))["variants"]
    assert alone == {"one": {"gmac_per_crop": 2.0}}
    assert both["one"]["gmac_per_crop"] == 2.0 and both["one"]["wall"]["ratio"] == 1.0


@pytest.mark.slow
def test_mixed_runs():
    timings = benchmark.mixed(
        size="s", batch_size=6, dtype="float32", decoder="classic", repeats=1, image_size=(64, 48)
    )  # fmt: skip
    assert list(timings) == ["single", "multi", "plus"]


@pytest.mark.slow
def test_attention_and_freeze_report_arithmetic_and_memory():
    common = {
        "size": "s",
        "batch_size": 2,
        "dtype": "float32",
        "decoder": "simple",
        "image_size": (64, 48),
        "remat": "none",
    }
    timings, facts = benchmark.attention(**common, ratio=2, window_size=(4, 3), repeats=1)
    assert (
        set(timings)
        == set(facts)
        == {f"{what} {kind}" for what in ("forward", "step") for kind in ("full", "shift_pool")}
    )
    assert facts["step shift_pool"]["gmac_per_crop"] < facts["step full"]["gmac_per_crop"]
    timings, facts = benchmark.freeze(**common, ratio=1, repeats=0)
    assert not timings and list(facts) == ["none", "mhsa", "ffn", "encoder"]
    assert facts["encoder"]["gmac_per_crop"] < facts["ffn"]["gmac_per_crop"] < facts["none"]["gmac_per_crop"]
    assert facts["encoder"]["arguments_gib"] < facts["ffn"]["arguments_gib"] < facts["mhsa"]["arguments_gib"]
