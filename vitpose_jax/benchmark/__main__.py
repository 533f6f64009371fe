"""Speed, measured side by side: variants of one thing take turns, so that other load slows all alike.

    python -m vitpose_jax.benchmark forward --config configs/vitpose_b.py [--batch_size 1 8 32] [--against torch]
    python -m vitpose_jax.benchmark train --config configs/vitpose_b.py [--batch_size 8] [--against torch]
    python -m vitpose_jax.benchmark predict|compile --config configs/vitpose_b.py
    python -m vitpose_jax.benchmark decode|input [--config configs/vitpose_b.py]
    python -m vitpose_jax.benchmark evaluate|mixed|attention|freeze|cropping
    python -m vitpose_jax.benchmark all --document docs/performance.md     # `make bench`

Each case prints one JSON line for each setting, and a table at the end. A line says what ran where, and of each variant
the median, quartiles and all of the timed runs; `ratio` is to the first variant, the median of those of each round.
`cpu` are seconds of processor time: on a CPU that others use too they say more than the clock. Compiling
(`compile_s`) and the first run are apart. `--against torch` takes Hugging Face's VitPose with the same weights, eager
and compiled, as installed and with MKL's fast code, and checks that outputs are equal first.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from configs import command_line
from vitpose_jax.benchmark import machine, suite, timing
from vitpose_jax.benchmark.attention import attention
from vitpose_jax.benchmark.compile import compile_
from vitpose_jax.benchmark.cropping import cropping
from vitpose_jax.benchmark.decode import decode
from vitpose_jax.benchmark.evaluate import evaluate
from vitpose_jax.benchmark.forward import forward, train
from vitpose_jax.benchmark.freeze import freeze
from vitpose_jax.benchmark.input import crops
from vitpose_jax.benchmark.mixed import mixed
from vitpose_jax.benchmark.predict import predict
from vitpose_jax.benchmark.table import print_lines
from vitpose_jax.models.vitpose import vitpose

CASES: dict[str, tuple[Callable[..., Iterator[timing.Measured]], str]] = {
    "forward": (forward, "heatmaps of crops"),
    "train": (train, "a training step"),
    "predict": (predict, "from uint8 crops to keypoints, and the flip test, against the forward pass alone"),
    "decode": (decode, "flip merge and decoding against a loop over keypoints"),
    "input": (crops, "crops from JPEG files against a plain loop"),
    "evaluate": (evaluate, "scoring COCO val2017 at full size against pycocotools"),
    "compile": (compile_, "from the start of a process to its first step"),
    "mixed": (mixed, "training on several data sets against training on one"),
    "attention": (attention, "windows against full attention"),
    "freeze": (freeze, "training parts of a model against training all of it"),
    "cropping": (cropping, "from images and boxes to poses: crops cut on the host, or on the device"),
}
WITH_CONFIG = ("forward", "train", "predict", "compile")
SIZE_OF_CONFIG = ("decode", "input")
OF_OUR_MODEL = ("mixed", "attention", "freeze")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vitpose_jax.benchmark", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    cases = parser.add_subparsers(dest="case", required=True)
    for name, (_, what) in CASES.items():
        add = cases.add_parser(name, help=what, description=what, allow_abbrev=False).add_argument
        add("--repeats", type=int, default=5, help="timed runs of each variant (default 5)")
        if name in (*WITH_CONFIG, *SIZE_OF_CONFIG):
            words = "; only its crop size counts" if name in SIZE_OF_CONFIG else ""
            add("--config", required=name in WITH_CONFIG,
                help=f"an experiment of configs/; --config.model.ratio=2 and so on, too{words}")  # fmt: skip
        if name in ("forward", "train", "predict"):
            sizes = [8] if name == "train" else [1, 8, 32]
            add("--batch_size", type=int, nargs="+", default=sizes, dest="batch_sizes", help=f"(default {sizes})")
            add("--dtype", nargs="+", default=["float32", "bfloat16"], dest="dtypes", help="(default both)")
        if name in ("forward", "train"):
            add("--against", nargs="+", default=[], help="torch, or one of its baselines: see torch_side.py")
        if name == "compile":
            add("--batch_size", type=int, default=8)
        if name == "decode":
            add("--batch_size", type=int, default=64)
        if name == "input":
            add("--crop_size", type=int, nargs=2, metavar=("H", "W"), help="(default 256 192, or the experiment's)")
            add("--picture_size", type=int, nargs=2, default=[480, 640], metavar=("H", "W"))
        if name == "evaluate":
            add("--people", type=int, default=11_004)
            add("--boxes", type=int, default=104_125)
        if name in OF_OUR_MODEL:
            add("--size", default="b", help="s, b, l, h or g (default b)")
            add("--decoder", default="classic", help="classic or simple (default classic)")
            add("--batch_size", type=int, default=8)
            add("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
            add("--image_size", type=int, nargs=2, default=[256, 192], metavar=("H", "W"))
        if name == "cropping":
            add("--size", default="b", help="s, b, l, h or g (default b)")
            add("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
            add("--image_size", type=int, nargs=2, default=[480, 640], metavar=("H", "W"))
            add("--people", type=int, default=4, help="boxes in an image (default 4)")
            add("--images", type=int, default=2, help="in one call (default 2)")
        if name in ("attention", "freeze"):
            add("--ratio", type=int, default=2 if name == "attention" else 1, help="1, 2 or 4")
            add("--remat", default="none", help="none, dots or full (default none)")
        if name == "attention":
            add("--window_size", type=int, nargs=2, default=[16, 12], metavar=("ROWS", "COLS"))
    everything = cases.add_parser("all", help="the set that suits this machine, into a document")
    everything.add_argument("--document", type=pathlib.Path, required=True, help="docs/performance.md")
    everything.add_argument("--only", default="", help="part of a command: measure only such ones again")
    return parser


def read_config(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Name and model of an experiment, with `--config.…` overrides.

    Raises:
        SystemExit: for a file or an override that does not exist.
    """
    config = command_line.read_config("vitpose_jax.benchmark", path, overrides).to_dict()
    if config["task"] != "pose":
        raise SystemExit(f"vitpose_jax.benchmark: {path} trains no pose model; its task is {config['task']!r}")
    return {"name": config["name"], "model": config["model"]}


def sizes_of(case: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """What a case without a model takes from an experiment: the size of heatmaps or of crops."""
    made = vitpose(**model)
    return {"heatmap_size": made.heatmap_size} if case == "decode" else {"crop_size": made.image_size}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = make_parser()
    options, overrides = parser.parse_known_args(arguments)
    settings = vars(options)
    name = settings.pop("case")
    load = machine.load_average()
    # Others measure on the same GPU: what is not needed now is theirs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        if name == "all":
            suite.run(options.document, only=options.only)
            return
        path = settings.pop("config", None)
        settings = {setting: value for setting, value in settings.items() if value is not None}
        if name in WITH_CONFIG:
            settings |= read_config(path, overrides)
        elif path:
            settings = sizes_of(name, read_config(path, overrides)["model"]) | settings
        elif overrides:
            parser.error(f"unknown arguments {overrides}")
        lines = []
        for measured in CASES[name][0](**settings):
            lines.append(timing.report(name, measured, load=load))
            print(lines[-1], flush=True)
        print_lines(lines)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        raise SystemExit(f"vitpose_jax.benchmark: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
