"""The command line of convert_torch_weights.py."""

import argparse
import contextlib
import logging
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from vitpose_jax import interrupt
from vitpose_jax.convert import experts, export, hugging_face
from vitpose_jax.convert.importer import Model, Options, check_free, read_model, write_checkpoint
from vitpose_jax.convert.verify import verify
from vitpose_jax.keypoints import load_keypoint_set

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
        print("\nconvert_torch_weights.py: interrupted; nothing half-written was left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"convert_torch_weights.py: {error}", file=sys.stderr)
        return EXIT_NO_MODEL


def _run(options: argparse.Namespace) -> int:
    for folder in (options.output, options.to_hf, options.split):
        if folder is not None:
            check_free(folder)
    model = _merged(options) if options.merge else read_model(options.input, _options(options))
    variables, file = model
    good = verify(variables, file) if options.verify else True
    if options.to_torch is not None:
        export.write_pth(options.to_torch, variables, file)
        print(f"written: {options.to_torch} (official layout)")
    if options.to_hf is not None:
        one = options.datasets[0] if len(options.datasets) == 1 else None
        hugging_face.write(options.to_hf, variables, file, one)
        print(f"written: {options.to_hf} (Hugging Face)")
    if options.split is not None:
        with _whole(options.split) as partial:
            for dataset, single in experts.split(model).items():
                write_checkpoint(single, partial / dataset)
        print(f"written: {', '.join(str(options.split / name) for name in file.settings['num_keypoints'])}")
    if options.output is not None:
        write_checkpoint(model, options.output)
        print(f"written: {options.output}")
    if not good:
        print("convert_torch_weights.py: JAX and PyTorch differ by more than rounding explains", file=sys.stderr)
    return 0 if good else EXIT_DIFFERENT


def _merged(options: argparse.Namespace) -> Model:
    if not options.input.is_dir():
        raise ValueError(f"--merge needs a folder with one model a data set, not {options.input}")
    folders = sorted(path for path in options.input.iterdir() if path.is_dir())
    if not folders:
        raise ValueError(f"{options.input} has no folders of models; --split writes such ones")
    return experts.merge({folder.name: read_model(folder, Options()) for folder in folders})


def _options(options: argparse.Namespace) -> Options:
    return Options(
        datasets=tuple(options.datasets),
        keypoints=load_keypoint_set(options.keypoints) if options.keypoints else None,
        image_size=tuple(options.image_size) if options.image_size else None,
        source_image_size=tuple(options.source_image_size) if options.source_image_size else None,
        num_heads=options.num_heads,
        depth=options.depth,
        entry=options.entry,
    )


@contextlib.contextmanager
def _whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write in that gets its name when all went well, and is deleted otherwise."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python convert_torch_weights.py",
        description="PyTorch weights of ViTPose in and out; says what it finds, and writes all of it or nothing.",
    )
    add = parser.add_argument
    path, pair = pathlib.Path, ("H", "W")
    add(
        "--input", required=True, type=path, help=".pth or .safetensors file, Hugging Face folder, or checkpoint folder"
    )
    add("--output", type=path, help="checkpoint folder to write, for train.py, eval.py and inference")
    add("--to-torch", type=path, metavar="FILE", help="write the official PyTorch layout")
    add("--to-hf", type=path, metavar="DIR", help="write a folder for Hugging Face transformers")
    add("--split", type=path, metavar="DIR", help="write a ViTPose++ as one plain model a data set")
    add("--merge", action="store_true", help="--input is a folder that --split wrote; make one ViTPose++ of it")
    add("--verify", action="store_true", help="compare heatmaps of random crops between PyTorch and JAX")
    add("--image-size", type=int, nargs=2, metavar=pair, help="resize the position embedding for crops of this size")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="data sets of the file's decoders, in its order")
    add("--keypoints", type=path, metavar="FILE", help="keypoint file, for a decoder of keypoints of your own")
    add("--entry", help="entry of a .pth file that holds the model (default: state_dict, model, module)")
    add("--num-heads", type=int, help="attention heads, for an encoder of no published width")
    add("--depth", type=int, help="blocks, for an encoder of a published width with another depth")
    add(
        "--source-image-size", type=int, nargs=2, metavar=pair,
        help="crop size that the file's position embedding is for, if it is unusual",
    )  # fmt: skip
    return parser
