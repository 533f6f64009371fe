"""The command line of convert_torch_weights.py."""

import argparse
import logging
import pathlib
import re
import sys
from collections.abc import Sequence

from vitpose_jax import interrupt
from vitpose_jax.convert import experts, export, hugging_face
from vitpose_jax.convert.description import refuse
from vitpose_jax.convert.importer import (
    Model,
    Options,
    check_free,
    read_model,
    resized,
    source_tensors,
    write_checkpoint,
)
from vitpose_jax.convert.verify import verify
from vitpose_jax.data.files import folder_written_beside
from vitpose_jax.keypoints import load_keypoint_set
from vitpose_jax.models import vit
from vitpose_jax.types import Size

_LARGEST_CROP = 4096  # pixels along a side
EXIT_NO_MODEL, EXIT_DIFFERENT, EXIT_INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code: 0 done, 1 --verify found a difference, 2 no model, 130 interrupted."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells how it writes a folder
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.output or options.to_torch or options.to_hf or options.split or options.verify):
        parser.error("say what to write: --output, --to-torch, --to-hf or --split (or only --verify)")
    try:
        with interrupt.sigterm_like_ctrl_c():
            return _run(options)
    except KeyboardInterrupt:
        print("\nconvert_torch_weights.py: interrupted; what was not finished was deleted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"convert_torch_weights.py: {error}", file=sys.stderr)
        return EXIT_NO_MODEL


def _run(options: argparse.Namespace) -> int:
    targets = [place for place in (options.output, options.to_torch, options.to_hf, options.split) if place is not None]
    _check_targets(targets, options.input, files=[options.to_torch])
    model = _merged(options) if options.merge else read_model(options.input, _options(options))
    variables, file = model
    # Everything that could be refused is refused before anything is written.
    parts = experts.split(model) if options.split is not None else {}
    if options.to_hf is not None:
        hugging_face.check(file, None)
    good = True
    if options.verify:
        good = verify(
            variables, file, source=None if options.merge else source_tensors(options.input, _options(options))
        )
    if options.to_torch is not None:
        export.write_pth(options.to_torch, variables, file)
        print(f"written: {options.to_torch} ({'MAE' if file.task == 'mae' else 'official'} layout)")
    if options.to_hf is not None:
        hugging_face.write(options.to_hf, variables, file, None)
        print(f"written: {options.to_hf} (Hugging Face)")
    if options.split is not None:
        unused = [name for name in file.settings["experts"] if name not in parts]
        if unused:
            print(f"  note      the experts of {', '.join(unused)} have no decoder here: they are left out")
        with folder_written_beside(options.split) as partial:
            for dataset, single in parts.items():
                write_checkpoint(single, partial / dataset)
        print(f"written: {', '.join(str(options.split / name) for name in parts)}")
    if options.output is not None:
        write_checkpoint(model, options.output)
        print(f"written: {options.output}")
    if not good:
        print("convert_torch_weights.py: JAX and PyTorch differ by more than rounding explains", file=sys.stderr)
    return 0 if good else EXIT_DIFFERENT


def _check_targets(
    targets: Sequence[pathlib.Path], source: pathlib.Path, *, files: Sequence[pathlib.Path | None]
) -> None:
    """Raises ValueError unless everything can be written: places that are free, and each for one thing."""
    if len(set(targets)) != len(targets) or source in targets:
        raise ValueError(
            f"{', '.join(map(str, targets))}: give every output a place of its own, other than the input's"
        )
    for target in targets:
        if target not in files:
            check_free(target)
        elif target.exists():
            raise ValueError(f"{target} is there already; choose another name, or delete it first")


def _merged(options: argparse.Namespace) -> Model:
    if not options.input.is_dir():
        raise ValueError(f"--merge needs a folder with one model a data set, not {options.input}")
    refuse(
        _options(options), "--merge takes models as they are", "datasets", "keypoints", "num_heads", "depth", "entry"
    )
    folders = sorted(path for path in options.input.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(f"{options.input} has no folders of models; --split writes such ones")
    merged = experts.merge({folder.name: read_model(folder, Options()) for folder in folders})
    return resized(merged, _size(options.image_size, "--image-size"), print)


def _options(options: argparse.Namespace) -> Options:
    return Options(
        datasets=tuple(options.datasets),
        keypoints=load_keypoint_set(options.keypoints) if options.keypoints else None,
        udp=not options.no_udp,
        image_size=_size(options.image_size, "--image-size"),
        source_image_size=_size(options.source_image_size, "--source-image-size"),
        num_heads=options.num_heads,
        decoder_num_heads=options.decoder_num_heads,
        depth=options.depth,
        entry=options.entry,
    )


def _size(given: Sequence[int] | None, name: str) -> Size | None:
    if given is None:
        return None
    height, width = given
    if not all(vit.PATCH_SIZE <= side <= _LARGEST_CROP for side in (height, width)):
        raise ValueError(f"{name} {height} {width}: height and width are {vit.PATCH_SIZE} to {_LARGEST_CROP} pixels")
    return height, width


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no data set's name: letters, digits, - and _")
    return text


def _place(text: str) -> pathlib.Path:
    return pathlib.Path(text).resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python convert_torch_weights.py",
        description="PyTorch weights of ViTPose in and out; says what it finds, and writes all of it or nothing.",
    )
    add = parser.add_argument
    path, pair = _place, ("H", "W")
    add(
        "--input",
        required=True,
        type=pathlib.Path,
        help=".pth or .safetensors file, Hugging Face folder, or checkpoint folder",
    )
    add("--output", type=path, help="checkpoint folder to write, for train.py, eval.py and inference")
    add("--to-torch", type=path, metavar="FILE", help="write the official PyTorch layout; MAE's of a pre-trained model")
    add("--to-hf", type=path, metavar="DIR", help="write a folder for Hugging Face transformers")
    add("--split", type=path, metavar="DIR", help="write a ViTPose++ as one plain model a data set")
    add("--merge", action="store_true", help="--input is a folder that --split wrote; make one ViTPose++ of it")
    add("--verify", action="store_true", help="compare heatmaps of random crops between PyTorch and JAX")
    add("--image-size", type=int, nargs=2, metavar=pair, help="resize the position embedding for crops of this size")
    add(
        "--datasets", nargs="+", default=[], type=_name, metavar="NAME",
        help="decoders to keep, where the model says whose they are; else their data sets, in the file's order",
    )  # fmt: skip
    add("--keypoints", type=pathlib.Path, metavar="FILE", help="keypoint file, for a decoder of keypoints of your own")
    add("--no-udp", action="store_true", help="such a model was trained without UDP crops and targets")
    add("--entry", help="entry of a .pth file that holds the model (default: state_dict, model, module)")
    add("--num-heads", type=_positive, help="attention heads, for an encoder of no published width")
    add("--decoder-num-heads", type=_positive, help="the same of a masked autoencoder's decoder")
    add("--depth", type=_positive, help="blocks, for an encoder of a published width with another depth")
    add(
        "--source-image-size", type=int, nargs=2, metavar=pair,
        help="crop size that the file's position embedding is for, if it is unusual",
    )  # fmt: skip
    return parser
