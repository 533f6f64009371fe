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


@pytest.mark.slow
def test_mixed_runs():
    timings = benchmark.mixed(
        size="s", batch_size=6, dtype="float32", decoder="classic", repeats=1, image_size=(64, 48)
    )  # fmt: skip
    assert list(timings) == ["single", "multi", "plus"]
