"""Turns a downloaded data set into what training and evaluation read: ``python -m vitpose_jax.data.build --help``.

The built folder is a TFDS data set of ArrayRecord shards, written and read without TensorFlow:

    coco-train.array_record-00000-of-00080 …  one record per image: the image file untouched, its id, its name
    dataset_info.json  features.json          for tfds.builder_from_directory(folder).as_data_source(split)
    instances-train.npz …                     the tables `tables.Images` and `tables.Instances`
    annotations/…  person_detection_results/… the original files untouched, for evaluation
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
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitpose_jax import interrupt
from vitpose_jax.data import shards
from vitpose_jax.data.datasets import BUILD_FILE, BUILD_FORMAT, DATASETS, Dataset, open_split
from vitpose_jax.data.files import copy, read_json, write_text
from vitpose_jax.data.source import find_splits, hashes, missing_paths, originals, plan_split
from vitpose_jax.data.tables import write_tables

FAULTS_FILE = "faults.txt"
FAULTS_SHOWN = 20

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
    """

    built: bool
    splits: list[str]
    left_out: list[str]


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
    dataset, source, out = DATASETS[name], pathlib.Path(source), pathlib.Path(out)
    found = find_splits(dataset, source, splits)
    request = {
        "format": BUILD_FORMAT,
        "dataset": name,
        "skip_broken": skip_broken,
        "sources": {split: hashes(dataset, source, split) for split in found},
    }
    state = _read_state(out, request)
    if state.get("complete"):
        return Result(False, found, [])

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
        _write_faults(out, faults)
    else:
        (out / FAULTS_FILE).unlink(missing_ok=True)
    shard_names = {split: shards.write_shards(name, split, plan, out) for split, plan in plans.items()}
    built = {}
    for split, plan in plans.items():
        instances_file, files = f"instances-{split}.npz", originals(dataset, source, split)
        write_tables(out / instances_file, plan.images, plan.instances)
        for file in files:
            copy(source / file, out / file)
        built[split] = {
            "annotations": dataset.splits[split].annotations,
            "detections": dataset.splits[split].detections if len(files) > 1 else None,
            "instances": instances_file,
            "shards": shard_names[split],
            "skipped_image_ids": plan.skipped_image_ids,
        }
    shards.write_metadata(name, plans, out)
    _write_state(out, {**request, "complete": True, "digests": digests, "splits": built})
    return Result(True, found, faults)


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
    for pattern in (f"{dataset.name}-*.array_record-*", "instances-*.npz", "dataset_info.json", "features.json"):
        for path in out.glob(pattern):
            path.unlink()
    for files in dataset.splits.values():
        for file in (files.annotations, files.detections):
            if file is not None and (out / file).is_file():
                (out / file).unlink()
                with contextlib.suppress(OSError):  # not empty
                    (out / file).parent.rmdir()
    (out / BUILD_FILE).unlink()


def _write_faults(out: pathlib.Path, faults: list[str]) -> None:
    write_text(out / FAULTS_FILE, "".join(f"{fault}\n" for fault in faults))


def _report(faults: list[str], out: pathlib.Path) -> str:
    """The faults for a person to read, the first ones of many."""
    lines = [f"  {fault}" for fault in faults[:FAULTS_SHOWN]]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN} more")
    return "\n".join([*lines, f"All {len(faults)} are listed in {out / FAULTS_FILE}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 done, 1 error, 2 the source is broken, 130 stopped."""
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.data.build", description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=sorted(DATASETS), help="which data set --source holds")
    parser.add_argument("--source", required=True, type=pathlib.Path, help="the downloaded, unpacked data set")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to build in")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="which splits (default: those that are there)")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken images and annotations out, and say so"
    )
    options = parser.parse_args(arguments)
    out, dataset = options.out, DATASETS[options.dataset]
    try:
        with interrupt.sigterm_like_ctrl_c():
            result = build(options.dataset, options.source, out, splits=options.splits, skip_broken=options.skip_broken)
    except KeyboardInterrupt:
        print(f"\nStopped. Run the same command again to continue: finished shards are kept in {out}.", file=sys.stderr)
        return _EXIT_STOPPED
    except FaultsError as error:
        _write_faults(out, error.faults)
        print(f"Nothing was built, {len(error.faults)} entries are broken:", file=sys.stderr)
        print(_report(error.faults, out), file=sys.stderr)
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
        print(_report(result.left_out, out))
    if options.splits is None:
        for name, paths in missing_paths(dataset, options.source).items():
            print(f"Built without the split {name!r}: {options.source} has no {' and no '.join(map(str, paths))}.")
    for split in (open_split(out, name) for name in result.splits):
        detections = "" if split.detection_file is None else ", with detector boxes"
        print(f"{split.name}: {len(split)} instances in {len(split.images)} images{detections}")
    print(f"Built {dataset.name} in {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
