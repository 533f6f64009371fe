"""What a build ends with, for a person to look at: ``report.txt`` and ``report.jpg``.

The text counts images, instances, labelled keypoints and box sizes. The picture is a contact sheet of crops with their
annotated keypoints, from a fixed choice of instances: wrong pairs, shifted coordinates and a wrong order show at once.
"""

import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import rich.box
import rich.console
import rich.table

from vitpose_jax import draw, geometry
from vitpose_jax.data import source
from vitpose_jax.data.catalog import Dataset
from vitpose_jax.data.custom import FALLBACK_SIGMA
from vitpose_jax.data.files import write_text
from vitpose_jax.data.source import Plan
from vitpose_jax.data.tables import Instances

REPORT_TEXT, REPORT_PICTURE, FAULTS_FILE = "report.txt", "report.jpg", "faults.txt"
FAULTS_SHOWN = 20

_CROPS_PER_SPLIT, _CROPS_PER_ROW = 16, 8
_CROP_SIZE = (256, 192)
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_WIDTH = 110  # columns of text


def write_report(dataset: Dataset, plans: Mapping[str, Plan], out: pathlib.Path, notes: Sequence[str] = ()) -> str:
    """Writes a report on a set that is being built.

    Args:
        dataset: row of the set.
        plans: what is stored of each split; each has instances.
        out: folder of the built set.
        notes: sentences to begin with, after the title.

    Returns:
        The text.

    Raises:
        ValueError: an image cannot be decoded.
    """
    text = report_text(dataset, plans, notes)
    write_text(out / REPORT_TEXT, text)
    draw.save_image(out / REPORT_PICTURE, _contact_sheet(dataset, plans))
    return text


def write_faults(out: pathlib.Path, faults: Sequence[str]) -> None:
    """Writes a sentence for each broken entry into the folder of a build."""
    write_text(out / FAULTS_FILE, "".join(f"{fault}\n" for fault in faults))


def list_faults(faults: Sequence[str], out: pathlib.Path) -> str:
    """The faults for a person to read, the first ones of many."""
    lines = [f"  {fault}" for fault in faults[:FAULTS_SHOWN]]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN} more")
    return "\n".join([*lines, f"All {len(faults)} are listed in {out / FAULTS_FILE}"])


def report_text(dataset: Dataset, plans: Mapping[str, Plan], notes: Sequence[str]) -> str:
    """The tables of a report, plain text."""
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=_WIDTH, color_system=None)
    keypoints = dataset.keypoint_set
    console.print(f"Data set {dataset.name}, keypoint set {keypoints.name} with {len(keypoints)} keypoints")
    if keypoints.sigmas and set(keypoints.sigmas) == {FALLBACK_SIGMA}:
        console.print(
            f"The OKS sigma of every keypoint is {FALLBACK_SIGMA}, which stands in where a keypoint file names none. "
            "AP then compares models on this set, but not with other sets."
        )
    for note in notes:
        console.print(note, highlight=False, markup=False)
    for table in (_counts(plans), _box_sizes(plans), _keypoint_fractions(dataset, plans)):
        console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _table(title: str, first: str, columns: list[str]) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, min_width=len(title) + 2)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _counts(plans: Mapping[str, Plan]) -> rich.table.Table:
    names = ["images", "without instances", "instances", "categories", "keypoints each", "left out as broken"]
    table = _table("Counts", "split", names)
    for split, plan in plans.items():
        instances = plan.instances
        empty = len(plan.images) - len(np.unique(instances.image))
        each = (instances.keypoints[:, :, 2] > 0).sum(axis=1).mean()
        counts = len(plan.images), empty, len(instances), len(np.unique(instances.category_id))
        table.add_row(split, *map(str, counts), f"{each:.1f}", str(len(plan.faults)))
    return table


def _box_sizes(plans: Mapping[str, Plan]) -> rich.table.Table:
    names = [{0.0: "smallest", 0.5: "median", 1.0: "largest"}.get(q, f"{q:.0%}") for q in _QUANTILES]
    table = _table("Sizes of boxes, pixels: that share of them is smaller", "", names)
    for split, plan in plans.items():
        for side, values in (("width", plan.instances.bbox_xywh[:, 2]), ("height", plan.instances.bbox_xywh[:, 3])):
            table.add_row(f"{split} {side}", *(f"{size:.0f}" for size in np.quantile(values, _QUANTILES)))
    return table


def _keypoint_fractions(dataset: Dataset, plans: Mapping[str, Plan]) -> rich.table.Table:
    table = _table("Instances in which a keypoint is labelled", "keypoint", list(plans))
    fractions = [(plan.instances.keypoints[:, :, 2] > 0).mean(axis=0) for plan in plans.values()]
    for name, *row in zip(dataset.keypoint_set.names, *fractions, strict=True):
        table.add_row(name, *(f"{fraction:.1%}" for fraction in row))
    return table


def _contact_sheet(dataset: Dataset, plans: Mapping[str, Plan]) -> np.ndarray:
    """uint8 [height, width, 3]: crops of instances of every split with their keypoints."""
    tiles, titles = [], []
    for split, plan in plans.items():
        for row in _chosen(plan.instances):
            tiles.append(_tile(dataset, plan, row))
            titles.append(f"{split} {plan.instances.annotation_id[row]}")
    return draw.contact_sheet(tiles, titles, columns=_CROPS_PER_ROW)


def _chosen(instances: Instances) -> list[int]:
    """Rows of instances at random, the same ones in every build."""
    rng = np.random.default_rng(0)
    return sorted(rng.choice(len(instances), min(_CROPS_PER_SPLIT, len(instances)), replace=False).tolist())


def _tile(dataset: Dataset, plan: Plan, row: int) -> np.ndarray:
    instances = plan.instances
    data, _ = source.read_image(plan.folder, plan.images, int(instances.image[row]))
    box = dataset.regions(instances.bbox_xywh[row], aspect_ratio=_CROP_SIZE[1] / _CROP_SIZE[0])
    matrix = geometry.crop_matrix(box, _CROP_SIZE, udp=dataset.udp)
    crop = geometry.cut_crop(geometry.decode_jpeg(data), matrix, _CROP_SIZE)
    points = geometry.transform(matrix, instances.keypoints[row, :, :2])
    return draw.draw_pose(crop, points, instances.keypoints[row, :, 2], dataset.keypoint_set, threshold=0.0)
