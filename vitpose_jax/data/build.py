"""Turns a downloaded data set into what training and evaluation read: ``python -m vitpose_jax.data.build --help``.

The built folder is a TFDS data set of ArrayRecord shards, written and read without TensorFlow:

    coco-train.array_record-00000-of-00080 …  one record per image: the image file untouched, its id, its name
    dataset_info.json  features.json          for tfds.builder_from_directory(folder).as_data_source(split)
    instances-train.npz …                     the tables `tables.Images` and `tables.Instances`
    annotations/…  person_detection_results/… the original files untouched, for evaluation
    annotations/val.json …                    instead, where the original will not do: without what was left out, and
                                              of a set of one's own, with the fields that evaluation needs
    keypoints/…                               of a set of one's own, its keypoint file
    report.txt  report.jpg                    what is in the set, to look at
    build.json                                what was built from what; "complete" once everything is there
    faults.txt                                with --skip-broken, every entry that was left out

Of a training split the images with at least one usable instance are stored, of an evaluation split all that its
annotation file lists, because detectors find boxes on the others, too.

Everything is checked before anything is written: each entry of the annotation files, and of each image file that it is
there, has an end and the size that the annotations claim. This reads the files without decoding their pixels, so damage
in the midst of an image file stays unnoticed, as it does in OpenCV.

Shards are written beside and renamed, so a build that was stopped finds its finished shards again.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitpose_jax import interrupt
from vitpose_jax.data import image_folder, shards
from vitpose_jax.data.catalog import DATASETS, Dataset
from vitpose_jax.data.custom import CUSTOM, CustomFiles, custom_dataset, notes
from vitpose_jax.data.datasets import BUILD_FILE, BUILD_FORMAT, IMAGES
from vitpose_jax.data.files import copy, read_json, write_text
from vitpose_jax.data.report import (
    FAULTS_FILE,
    REPORT_PICTURE,
    REPORT_TEXT,
    list_faults,
    write_faults,
    write_report,
)
from vitpose_jax.data.source import (
    Plan,
    absences,
    detection_file,
    file_hash,
    find_splits,
    hashes,
    other_files,
    plan_split,
)
from vitpose_jax.data.tables import write_tables
from vitpose_jax.keypoints import load_keypoint_set

_EXIT_ERROR, _EXIT_FAULTS, _EXIT_STOPPED = 1, 2, 130


class FaultsError(Exception):
    """The source has broken entries. `faults` has a sentence for each."""

    def __init__(self, faults: list[str]):
        super().__init__(f"{len(faults)} faults")
        self.faults = faults


class Result(NamedTuple):
    """What `build` did.

    Attributes:
        built: False if the set was there already and nothing was done.
        splits: those of the built set.
        left_out: a sentence for each broken entry that was left out.
        absent: a sentence for each thing that a complete source would have had.
    """

    built: bool
    splits: list[str]
    left_out: list[str]
    absent: list[str]


def build(
    name: str,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    splits: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> Result:
    """Builds a data set, or continues a build that was stopped.

    Args:
        name: a key of `DATASETS`.
        source: the downloaded data set in its official layout.
        out: folder to build in; new, empty, or left by a build with the same arguments that was stopped.
        splits: which ones; by default those that are there.
        skip_broken: leave broken entries out instead of refusing to build.

    Returns:
        What was done.

    Raises:
        FaultsError: entries are broken, and `skip_broken` is off. Nothing is left in `out`.
        FileNotFoundError: the source lacks what it should have.
        ValueError: an annotation file cannot be read, or `out` holds something else.
        KeyboardInterrupt: it was stopped; what is finished is kept.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; there are {sorted(DATASETS)}")
    return _build(DATASETS[name], pathlib.Path(source), pathlib.Path(out), splits, skip_broken)


def build_custom(
    keypoint_file: str | pathlib.Path,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    files: CustomFiles | None = None,
    splits: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> Result:
    """Builds a data set of one's own: COCO's annotation format, and a keypoint file.

    Args:
        keypoint_file: see `keypoints.load_keypoint_set`. It is copied into the built set, which then stands alone.
        source: folder of the data.
        out: as for `build`.
        files: where things lie in `source`, if not at the places of `CustomFiles`.
        splits: as for `build`.
        skip_broken: as for `build`.

    Returns:
        What was done.

    Raises:
        ValueError: as for `build`; or the keypoint file is faulty, or does not fit the annotations.
        FaultsError, FileNotFoundError, KeyboardInterrupt: as for `build`.
    """
    keypoint_file, files = pathlib.Path(keypoint_file), files or CustomFiles()
    dataset = custom_dataset(load_keypoint_set(keypoint_file), files)
    return _build(dataset, pathlib.Path(source), pathlib.Path(out), splits, skip_broken, keypoint_file, files)


def _build(
    dataset: Dataset,
    source: pathlib.Path,
    out: pathlib.Path,
    splits: Sequence[str] | None,
    skip_broken: bool,
    keypoint_file: pathlib.Path | None = None,
    files: CustomFiles | None = None,
) -> Result:
    """`build` and `build_custom`, which alone has the last two arguments."""
    found = find_splits(dataset, source, splits)
    request = {
        "format": BUILD_FORMAT,
        "dataset": dataset.name,
        "skip_broken": skip_broken,
        "sources": {split: hashes(dataset, source, split) for split in found},
        "keypoints": None if keypoint_file is None else f"keypoints/{keypoint_file.name}",
        "keypoints_hash": None if keypoint_file is None else file_hash(keypoint_file),
        "files": None if files is None else dataclasses.asdict(files),
    }
    state = _read_state(out, request)
    if state.get("complete"):
        return Result(False, found, [], [])

    plans = {split: plan_split(dataset, source, split) for split in found}
    faults = [fault for plan in plans.values() for fault in plan.faults]
    if faults and not skip_broken:
        if state:
            _remove(out, dataset)
        raise FaultsError(faults)
    for split, plan in plans.items():
        if not len(plan.instances):
            raise ValueError(f"{source} has no usable instance in its split {split!r}")
    digests = {split: plan.digest for split, plan in plans.items()}
    if state.get("digests", digests) != digests:
        raise ValueError(
            f"image files in {source} have changed since the build in {out} was begun; delete {out} and build anew"
        )

    _write_state(out, {**request, "complete": False, "digests": digests})
    if faults:
        write_faults(out, faults)
    else:
        (out / FAULTS_FILE).unlink(missing_ok=True)
    if keypoint_file is not None:
        copy(keypoint_file, out / str(request["keypoints"]))
    built = {split: _write_split(dataset, source, split, plan, out) for split, plan in plans.items()}
    lengths = {
        split: [end - first for first, end in shards.ranges(plan.lengths.tolist())] for split, plan in plans.items()
    }
    shards.write_metadata(dataset.name, lengths, out)
    write_report(
        dataset, plans, out, [] if files is None else notes(files, {s: len(p.images) for s, p in plans.items()})
    )
    _write_state(out, {**request, "complete": True, "digests": digests, "splits": built})
    return Result(True, found, faults, absences(dataset, source, splits))


def _write_split(dataset: Dataset, source: pathlib.Path, split: str, plan: Plan, out: pathlib.Path) -> dict[str, Any]:
    """Writes the files of a split, and says which they are."""
    shard_names = shards.write_shards(dataset.name, split, plan, out)
    instances_file = f"instances-{split}.npz"
    write_tables(out / instances_file, plan.images, plan.instances)
    annotations, detections = dataset.splits[split].annotations, detection_file(dataset, source, split)
    others = other_files(dataset, source, split)
    if plan.for_evaluation is None:
        copy(source / annotations, out / annotations)
    else:
        annotations = f"annotations/{split}.json"
        write_text(out / annotations, json.dumps(plan.for_evaluation))
    for file in [*others, *([detections] if detections else [])]:
        copy(source / file, out / file)
    return {
        "annotations": annotations,
        "detections": detections,
        "others": others,
        "instances": instances_file,
        "shards": shard_names,
        "skipped_image_ids": plan.skipped_image_ids,
    }


def _read_state(out: pathlib.Path, request: dict[str, Any]) -> dict[str, Any]:
    """What an earlier build left in `out`, {} if nothing. Raises ValueError if it is not the build requested now."""
    if not (out / BUILD_FILE).is_file():
        if out.exists() and (not out.is_dir() or any(path.name != FAULTS_FILE for path in out.iterdir())):
            raise ValueError(f"{out} is not empty and holds no build; choose another --out")
        return {}
    state = read_json(out / BUILD_FILE)
    different = [key for key, value in request.items() if state.get(key) != value]
    if different:
        explained = ", ".join(_difference(key, state.get(key), request[key]) for key in different)
        raise ValueError(f"{out} holds another build ({explained}); choose another --out, or delete it first")
    return state


def _difference(key: str, there: Any, now: Any) -> str:
    if key != "sources":
        return f"{key} was {there!r}, now {now!r}"
    if there.keys() != now.keys():
        return f"its splits are {list(there)}, now they would be {list(now)}"
    files = [
        file
        for split in now
        for file in there[split].keys() | now[split].keys()
        if there[split].get(file) != now[split].get(file)
    ]
    return f"other files: {sorted(files)}"


def _write_state(out: pathlib.Path, state: dict[str, Any]) -> None:
    write_text(out / BUILD_FILE, json.dumps(state, indent=1) + "\n")


def _remove(out: pathlib.Path, dataset: Dataset) -> None:
    """Deletes what a build has written to `out`, and nothing else."""
    own = [f"{dataset.name}-*.array_record-*", "instances-*.npz", "dataset_info.json", "features.json"]
    written = [path for pattern in [*own, REPORT_TEXT, REPORT_PICTURE, "keypoints/*"] for path in out.glob(pattern)]
    for split, files in dataset.splits.items():
        copied = [files.annotations, f"annotations/{split}.json", files.detections, *files.others]
        written += [out / file for file in copied if file is not None]
    for path in [*written, out / BUILD_FILE]:
        path.unlink(missing_ok=True)
        for folder in list(path.relative_to(out).parents)[:-1]:  # without `out` itself
            with contextlib.suppress(OSError):  # not there, or not empty
                (out / folder).rmdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.data.build", description=__doc__.partition("\n")[0])
    names = [*sorted(DATASETS), CUSTOM, IMAGES]
    parser.add_argument("dataset", choices=names, help=f"which data set --source holds; {IMAGES}: pictures, no labels")
    parser.add_argument("--source", required=True, type=pathlib.Path, help="the downloaded, unpacked data set")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to build in")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="which splits (default: those that are there)")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken images and annotations out, and say so"
    )
    own = parser.add_argument_group(f"a set of your own ({CUSTOM})", "Files are named relative to --source.")
    own.add_argument("--keypoints", type=pathlib.Path, metavar="FILE", help="keypoint file (docs/datasets.md); needed")
    for name, what in (
        ("train", "annotations to train on"), ("val", "annotations to evaluate on"), ("images", "image folder"),
    ):  # fmt: skip
        default = getattr(CustomFiles(), name)
        own.add_argument(f"--{name}", metavar="PATH", help=f"{what} (default: {default})")
    own.add_argument(
        "--val-fraction", type=float, metavar="F",
        help=f"hold out this fraction of the --train images instead of --val; also for {IMAGES}",
    )  # fmt: skip
    return parser


def _custom_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> CustomFiles | None:
    """The files of a set of one's own; None for a published one, where none of these options makes sense."""
    given = {
        name: getattr(options, name)
        for name in ("train", "val", "images", "val_fraction")
        if getattr(options, name) is not None
    }
    if options.dataset != CUSTOM:
        misplaced = [*given, *(["keypoints"] if options.keypoints else [])]
        if misplaced:
            parser.error(
                f"--{misplaced[0].replace('_', '-')} is for a set of your own: {CUSTOM}, not {options.dataset}"
            )
        return None
    if not options.keypoints:
        parser.error(f"{CUSTOM} needs --keypoints FILE: names, swap pairs and skeleton, see docs/datasets.md")
    if "val" in given and "val_fraction" in given:
        parser.error("--val and --val-fraction are two ways to the same split; give one")
    try:
        return CustomFiles(**given)
    except ValueError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 done, 1 error, 2 the source is broken, 130 stopped."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dataset == IMAGES:
        return image_folder.command(parser, options)
    files, out = _custom_files(parser, options), options.out
    choices: dict[str, Any] = {"splits": options.splits, "skip_broken": options.skip_broken}
    try:
        with interrupt.sigterm_like_ctrl_c():
            if files is None:
                result = build(options.dataset, options.source, out, **choices)
            else:
                result = build_custom(options.keypoints, options.source, out, files=files, **choices)
    except KeyboardInterrupt:
        print(f"\nStopped. Run the same command again to continue: finished shards are kept in {out}.", file=sys.stderr)
        return _EXIT_STOPPED
    except FaultsError as error:
        write_faults(out, error.faults)
        print(f"Nothing was built, {len(error.faults)} entries are broken:", file=sys.stderr)
        print(list_faults(error.faults, out), file=sys.stderr)
        print("Repair them, or leave them out with --skip-broken.", file=sys.stderr)
        return _EXIT_FAULTS
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return _EXIT_ERROR

    if not result.built:
        print(f"{out} is finished already, nothing to do.")
        return 0
    if result.left_out:
        print(f"Left out {len(result.left_out)} broken entries:")
        print(list_faults(result.left_out, out))
    print((out / REPORT_TEXT).read_text(encoding="utf-8"))
    print("".join(f"{sentence}\n" for sentence in result.absent), end="")
    print(f"Built {options.dataset} in {out}. Look at {out / REPORT_PICTURE}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
