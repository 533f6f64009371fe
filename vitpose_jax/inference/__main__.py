"""Poses for images and videos.

    python -m vitpose_jax.inference INPUT --checkpoint DIR --bboxes SOURCE [--out DIR]

INPUT is an image, a folder, a glob pattern (quoted) or a video. Writes into --out: drawn images or the drawn video,
keypoints.json (COCO results), keypoints.csv, poses.jsonl (everything, written as it comes), skipped.csv if something
could not be read. With --write labels: annotations.json for labelling tools and review.csv, what to look at first.

Given again, the same command goes on where it stopped (a video starts anew).
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

from vitpose_jax import compile_cache
from vitpose_jax.draw import SCORE_THRESHOLD
from vitpose_jax.inference import outputs, video
from vitpose_jax.inference.boxes import FORMS, box_source
from vitpose_jax.inference.estimator import CROPPING, PoseEstimator
from vitpose_jax.inference.images import find_input, predict_images
from vitpose_jax.inference.journal import NAME, Journal
from vitpose_jax.interrupt import Guard
from vitpose_jax.models.settings import DTYPES

WRITE = ("drawn", "json", "csv", "labels")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m vitpose_jax.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("input", metavar="INPUT", help="an image, a folder, a glob pattern (quoted) or a video")
    add("--checkpoint", required=True, help="a run's folder (its best step is taken) or one step's folder")
    add("--bboxes", required=True, metavar="SOURCE", help=FORMS)
    add("--out", metavar="DIR", help="folder to write to (default: poses_<name of INPUT>)")
    add("--write", default="drawn,json,csv", help=f"what, of {','.join(WRITE)} (default: drawn,json,csv)")

    model = arguments.add_argument_group("model")
    add = model.add_argument
    add("--dataset", help="whose keypoints, of a model with several decoders")
    add("--no-flip-test", action="store_true", help="half the work, a little less accurate")
    add("--dtype", choices=DTYPES, help="of the computation (default: the checkpoint's)")
    add("--batch-size", type=int, default=64, help="most crops at once (default: 64)")
    add("--cropping", choices=CROPPING, default="host", help="where crops are cut (default: host)")

    boxes = arguments.add_argument_group("boxes")
    add = boxes.add_argument
    add("--bbox-threshold", type=float, default=0.3, help="least confidence of a box (default: 0.3)")
    add("--category-ids", type=_integers, help="only boxes of these categories of a file, e.g. 1,17 (default: all)")
    add("--detect", default="person", help="what a detector looks for, in its words, e.g. dog,cat (default: person)")

    results = arguments.add_argument_group("results")
    add = results.add_argument
    add("--threshold", type=float, default=SCORE_THRESHOLD, help="least score of a keypoint drawn or labelled "
        f"(default: {SCORE_THRESHOLD})")  # fmt: skip
    add("--score-threshold", type=float, default=0.3, help="labels: least score of an instance (default: 0.3)")
    add("--review", type=int, default=200, help="labels: how many instances review.csv lists (default: 200)")
    add("--no-track", action="store_true", help="video: no identities over frames")
    add("--smooth", action="store_true", help="video: steady keypoints over time")
    return arguments


def run(settings: argparse.Namespace) -> int:
    """Does what the command line asks.

    Returns:
        The exit code: 0; 130 when stopped by Ctrl-C, with everything so far on the disk; 1 when nothing could be read.

    Raises:
        ValueError: for an input, source, checkpoint or setting that does not fit.
        ImportError: a package that this needs is missing.
    """
    wanted = settings.write.split(",")
    if set(wanted) - set(WRITE):
        raise ValueError(f"--write is {settings.write!r}; expected some of {', '.join(WRITE)}, with commas between")
    if settings.smooth and settings.no_track:
        raise ValueError("keypoints are smoothed person by person: --smooth does not go with --no-track")
    name = pathlib.Path(settings.input).stem if not any(c in settings.input for c in "*?[") else "images"
    out = pathlib.Path(settings.out or f"poses_{name}")
    given = find_input(settings.input, out=out)
    boxes = box_source(
        settings.bboxes, threshold=settings.bbox_threshold, names=() if given.is_video else given.names,
        category_ids=settings.category_ids, labels=settings.detect.split(","),
    )  # fmt: skip
    estimator = PoseEstimator.load(
        settings.checkpoint, dataset=settings.dataset, flip_test=not settings.no_flip_test, dtype=settings.dtype,
        batch_size=settings.batch_size, cropping=settings.cropping,
    )  # fmt: skip
    made_by: dict[str, Any] = {
        "input": str(given.root / given.names[0]) if given.is_video else str(given.root),
        "checkpoint": estimator.path,
        "dataset": estimator.dataset,
        "drawn": "drawn" in wanted,
        **{
            name: getattr(settings, name)
            for name in (
                "bboxes", "bbox_threshold", "category_ids", "detect", "no_flip_test", "dtype", "no_track", "smooth",
            )
        },
    }  # fmt: skip
    journal = Journal(out / NAME, made_by, anew=given.is_video)
    if journal.done:
        print(f"{len(journal.done)} images are done already in {out}")
    with Guard() as stop:
        try:
            if given.is_video:
                path = given.root / given.names[0]
                drawn = out / f"{path.stem}.mp4" if "drawn" in wanted else None
                video.predict_video(
                    path, estimator, boxes, journal, stop, drawn=drawn,
                    threshold=settings.threshold, track=not settings.no_track, smooth=settings.smooth,
                )  # fmt: skip
            else:
                predict_images(
                    given, estimator, boxes, journal, stop, drawn=out / "drawn" if "drawn" in wanted else None,
                    threshold=settings.threshold,
                )  # fmt: skip
        finally:
            journal.close()
        print(f"writing the files that are made from {journal.path}", flush=True)  # minutes for a million images
        write_files(out, journal, estimator, settings, wanted)
    print(
        f"{journal.poses} instances on {len(journal.done) - journal.skipped} "
        f"{'frames' if given.is_video else 'images'}; {journal.skipped} skipped"
        + (f", see {out / 'skipped.csv'}" if journal.skipped else "")
        + f"\nwritten to {out}"
    )
    if stop.requested:
        print("stopped" + ("" if given.is_video else "; the same command goes on from here"))
        return 130
    return 1 if journal.skipped == len(journal.done) else 0


def write_files(
    out: pathlib.Path, journal: Journal, estimator: PoseEstimator, settings: argparse.Namespace, wanted: Sequence[str]
) -> None:
    """Writes from a journal what was asked for."""
    source, keypoint_set = journal.path, estimator.keypoint_set
    if "json" in wanted:
        outputs.write_results(out / "keypoints.json", source, keypoint_set)
    if "csv" in wanted:
        outputs.write_csv(out / "keypoints.csv", source, keypoint_set)
    if "labels" in wanted:
        count = outputs.write_annotations(
            out / "annotations.json", source, keypoint_set, threshold=settings.threshold,
            score_threshold=settings.score_threshold, review_path=out / "review.csv", review_count=settings.review,
        )  # fmt: skip
        print(f"{count} of {journal.poses} instances are sure enough for {out / 'annotations.json'}")
    if journal.skipped:
        outputs.write_skipped(out / "skipped.csv", source)


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between, not {text!r}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells how it opens a folder
    compile_cache.use()
    try:
        raise SystemExit(run(parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("inference: interrupted; the poses so far are in poses.jsonl")
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"inference: {error}") from error


if __name__ == "__main__":
    main()
