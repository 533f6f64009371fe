"""A folder of images without annotations, such as ImageNet's, as a built set for pre-training: `build images`.

    SOURCE/train/<any folders>/*.JPEG  SOURCE/val/…     splits, as ImageNet has them; or
    SOURCE/<any folders>/*.jpg                          one split "train", and "val" by --val-fraction

The images are copied, untouched, into the same ArrayRecord shards that the other sets have: a million small files are
slow to open at random on network disks and in buckets, a thousand shards are not. The copies take the room that the
files take; the source is not needed afterwards.

Every file is read once, checked and written. A shard that is finished stays finished: a build that was stopped goes
on behind it, and one that found broken files reads only the shards with these again, or none with --skip-broken.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tqdm import tqdm

from vitpose_jax import draw, geometry, interrupt
from vitpose_jax.data import shards
from vitpose_jax.data.datasets import BUILD_FILE, BUILD_FORMAT, IMAGES, open_images
from vitpose_jax.data.files import read_json, write_text
from vitpose_jax.data.image_size import image_size
from vitpose_jax.data.report import FAULTS_FILE, REPORT_PICTURE, REPORT_TEXT, list_faults, write_faults
from vitpose_jax.progress import progress_bar

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_READERS = 8  # files under way at once: on network disks waiting for files is what takes the time
_SHOWN, _TILE_HEIGHT = 24, 128
_EXIT_ERROR, _EXIT_FAULTS, _EXIT_STOPPED = 1, 2, 130


class File(NamedTuple):
    """An image file that was found."""

    name: str  # relative to the source folder, with "/"
    size: int  # bytes


def build_images(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    val_fraction: float | None = None,
    skip_broken: bool = False,
) -> tuple[dict[str, int], list[str]]:
    """Builds a set of images, or continues a build that was stopped or found broken files.

    Args:
        source: folder of image files, see the module.
        out: folder to build in; new, empty, or left by an earlier build of this kind, of which shards with the same
            files stay.
        splits: which ones; by default those that are there.
        val_fraction: hold out this fraction as "val", for a source without a folder of that name. Which files depends
            on their names alone.
        skip_broken: finish without the broken files.

    Returns:
        (split to number of images, a sentence for each broken file). Unless `skip_broken`, the set is finished only if
        the second is empty.

    Raises:
        FileNotFoundError: there is no source, or no image in a split of it.
        ValueError: `out` holds something else, or an argument does not fit.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    found = _find(source, splits, val_fraction)
    state = _read_state(out)
    state |= {"format": BUILD_FORMAT, "dataset": IMAGES, "complete": False, "splits": {}}
    done, faults, stored, lengths = state.setdefault("shards", {}), [], {}, {}
    for split, files in found.items():
        ranges = _ranges(files, state.setdefault("divided", {}), split)
        names = shards.shard_names(IMAGES, split, len(ranges))
        with progress_bar(desc=f"copying {split}", unit=" images", total=len(files)) as progress:
            for shard, (first, end) in zip(names, ranges, strict=True):
                digest = hashlib.sha256(json.dumps(files[first:end]).encode()).hexdigest()
                known = done.get(shard, {})
                broken_before = known.get("faults") and not skip_broken
                if known.get("digest") == digest and (out / shard).is_file() and not broken_before:
                    progress.update(end - first)
                    continue
                broken: list[str] = []
                shards.write_shard(out / shard, _records(source, files[first:end], first, broken, progress))
                done[shard] = {"digest": digest, "images": end - first - len(broken), "faults": broken}
                write_text(out / BUILD_FILE, json.dumps(state) + "\n")
        faults += [f"{split}: {fault}" for shard in names for fault in done[shard]["faults"]]
        lengths[split] = [done[shard]["images"] for shard in names]
        stored[split] = sum(lengths[split])
        if not stored[split]:
            raise FileNotFoundError(f"none of the {len(files)} files of the split {split!r} in {source} is an image")
        state["splits"][split] = {"shards": names}
    if faults:
        write_faults(out, faults)
    else:
        (out / FAULTS_FILE).unlink(missing_ok=True)
    if faults and not skip_broken:
        state["splits"] = {}
        write_text(out / BUILD_FILE, json.dumps(state) + "\n")
        return stored, faults
    wanted = {shard for entry in state["splits"].values() for shard in entry["shards"]}
    for stale in out.glob(f"{IMAGES}-*.array_record-*"):
        if stale.name not in wanted:
            stale.unlink()
    state["shards"] = {shard: done[shard] for shard in wanted}
    shards.write_metadata(IMAGES, lengths, out)
    write_text(out / BUILD_FILE, json.dumps({**state, "complete": True}) + "\n")
    _write_report(stored, len(faults), out)
    return stored, faults


def _find(source: pathlib.Path, wanted: Sequence[str] | None, val_fraction: float | None) -> dict[str, list[File]]:
    """The image files of each split, by name."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"--val-fraction is {val_fraction}; it needs to be above 0 and below 1")
    folders = {split: source / split for split in ("train", "val") if (source / split).is_dir()}
    if val_fraction is not None and "val" in folders:
        raise ValueError(f"{source} has a folder val: --val-fraction holds out images where there is none")
    with progress_bar(desc="listing", unit=" files") as progress:
        if "train" in folders:
            found = {split: sorted(_walk(folder, f"{split}/", progress)) for split, folder in folders.items()}
        else:
            found = {"train": sorted(_walk(source, "", progress))}
    if val_fraction is not None:
        held_out = [zlib.crc32(file.name.encode()) < val_fraction * 2**32 for file in found["train"]]
        files = list(zip(found["train"], held_out, strict=True))
        found = {"train": [file for file, out in files if not out], "val": [file for file, out in files if out]}
    unknown = sorted(set(wanted or ()) - found.keys())
    if unknown:
        raise ValueError(f"{source} has the splits {list(found)}, not {unknown}")
    found = {split: files for split, files in found.items() if wanted is None or split in wanted}
    empty = [split for split, files in found.items() if not files]
    if empty:
        raise FileNotFoundError(f"{source} has no image files ({', '.join(_ENDINGS)}) for the split {empty[0]!r}")
    return found


def _walk(folder: pathlib.Path, prefix: str, progress: tqdm) -> Iterator[File]:
    """The image files below a folder; their sizes come with the listing, no file is opened."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(pathlib.Path(entry.path), f"{prefix}{entry.name}/", progress)
            elif entry.name.lower().endswith(_ENDINGS):
                progress.update()
                yield File(prefix + entry.name, _size(entry))


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0  # a link to nothing: it is reported as broken when it is read


def _ranges(files: Sequence[File], divided: dict[str, Any], split: str) -> list[tuple[int, int]]:
    """(first, end) files of each shard: as `divided` has it for the same names, so that a repaired file moves none."""
    digest = hashlib.sha256("/".join(file.name for file in files).encode()).hexdigest()
    if divided.get(split, {}).get("digest") != digest:
        divided[split] = {"digest": digest, "ranges": shards.ranges([file.size for file in files])}
    return divided[split]["ranges"]


def _records(
    source: pathlib.Path, files: Sequence[File], first: int, broken: list[str], progress: tqdm
) -> Iterator[bytes]:
    """Records of the images of a shard; what is wrong with the others goes into `broken`."""

    def read(file: File) -> bytes | str:
        try:
            data = (source / file.name).read_bytes()
            image_size(data)
        except OSError as error:
            return f"{file.name}: cannot be read: {error.strerror}"
        except ValueError as error:
            return f"{file.name}: {error}"
        return data

    with ThreadPoolExecutor(_READERS) as readers:
        for number, (file, data) in enumerate(zip(files, readers.map(read, files), strict=True)):
            progress.update()
            if isinstance(data, str):
                broken.append(data)
            else:
                yield shards.record(data, first + number, file.name)


def _read_state(out: pathlib.Path) -> dict[str, Any]:
    if not (out / BUILD_FILE).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} is not empty and holds no build; choose another --out")
        return {}
    state = read_json(out / BUILD_FILE)
    if state.get("dataset") != IMAGES or state.get("format") != BUILD_FORMAT:
        raise ValueError(f"{out} holds another build; choose another --out, or delete it first")
    return state


def _write_report(stored: dict[str, int], num_broken: int, out: pathlib.Path) -> None:
    """Counts, and a picture of some images, the same ones in every build."""
    lines = [f"{split}: {count} images" for split, count in stored.items()]
    write_text(out / REPORT_TEXT, "\n".join([*lines, f"{num_broken} broken files were left out"]) + "\n")
    tiles, titles = [], []
    for split, count in stored.items():
        images = open_images(out, split)
        for image in range(0, count, -(-count // _SHOWN)):
            data, name = images.read(image)
            pixels = geometry.decode_jpeg(data)
            height, width = pixels.shape[:2]
            size = _TILE_HEIGHT, min(max(1, round(width * _TILE_HEIGHT / height)), 2 * _TILE_HEIGHT)
            tiles.append(geometry.resize_region(pixels, (0, 0, width, height), size))
            titles.append(name.rsplit("/", 1)[-1].encode("ascii", "replace").decode())
    draw.save_image(out / REPORT_PICTURE, draw.contact_sheet(tiles, titles))


def command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """`build images` of the command line. Returns the exit code: 0 done, 1 error, 2 files are broken, 130 stopped."""
    misplaced = [name for name in ("keypoints", "train", "val", "images") if getattr(options, name)]
    if misplaced:
        parser.error(f"--{misplaced[0]} is for a set of your own, not for {IMAGES}")
    out = options.out
    try:
        with interrupt.sigterm_like_ctrl_c():
            stored, faults = build_images(
                options.source, out, splits=options.splits, val_fraction=options.val_fraction,
                skip_broken=options.skip_broken,
            )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nStopped. Run the same command again to continue: finished shards are kept in {out}.", file=sys.stderr)
        return _EXIT_STOPPED
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return _EXIT_ERROR
    if faults and not options.skip_broken:
        print(f"The set is not finished, {len(faults)} files are broken:", file=sys.stderr)
        print(list_faults(faults, out), file=sys.stderr)
        print(
            "Repair them and run the command again, or leave them out with --skip-broken; shards without broken files "
            "are not read again.",
            file=sys.stderr,
        )
        return _EXIT_FAULTS
    if faults:
        print(f"Left out {len(faults)} broken files:\n{list_faults(faults, out)}")
    counts = ", ".join(f"{split} {count} images" for split, count in stored.items())
    print(f"Built {out}: {counts}. Look at {out / REPORT_PICTURE}.")
    return 0
