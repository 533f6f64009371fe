"""Published numbers beside measured ones: which belong to a checkpoint, how they were measured, what differs here.

`convert.released` lists the checkpoints and their numbers. The table of `docs/parity.md` is made from it:

    python -m vitpose_jax.evaluation.published      # print the table
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitpose_jax.convert.released import RELEASED, Released
from vitpose_jax.data.datasets import Split


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the published numbers of a data set were measured. The flip test was always on.

    Attributes:
        splits: what was evaluated on.
        boxes: as the setting `eval.boxes`.
        boxes_of: the same in words.
        num_images: of the split, where it is known.
        suppresses: whether repeated people were suppressed before scoring (OKS metrics).
    """

    splits: tuple[str, ...]
    boxes: str
    boxes_of: str
    num_images: int | None = None
    suppresses: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the section `eval` that the numbers depend on."""
        found: dict[str, Any] = {"boxes": self.boxes, "flip_test": True}
        if self.suppresses:
            found |= {"suppression": "oks", "oks_threshold": 0.9, "min_keypoint_score": 0.2}
        if self.boxes == "detections":
            found |= {"detections_file": None, "detection_score_threshold": 0.0}
        return found


_ANNOTATED = "the annotated boxes"
_PERSON_DETECTOR = "boxes of a detector with 56 AP on people"

# Source: the README's tables and the configs that they link to.
PROTOCOLS: dict[str, Protocol] = {
    "coco": Protocol(("val",), "detections", _PERSON_DETECTOR, num_images=5000),
    "wholebody": Protocol(("val",), "detections", _PERSON_DETECTOR, num_images=5000),
    "ochuman": Protocol(("val", "test"), "annotations", _ANNOTATED),  # test in the README, val in the paper
    "aic": Protocol(("val",), "annotations", _ANNOTATED),
    "mpii": Protocol(("val",), "annotations", "the annotated centres and sizes", suppresses=False),
    "crowdpose": Protocol(("test",), "detections", "boxes of YOLOv3"),
    "ap10k": Protocol(("test",), "annotations", _ANNOTATED),
    "apt36k": Protocol(("val",), "annotations", _ANNOTATED),
    "interhand": Protocol(("test",), "annotations", "boxes around the annotated keypoints", suppresses=False),
}


def published_metrics(provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What was published for the checkpoint that converted weights come from.

    Args:
        provenance: `ModelFile.provenance`.

    Returns:
        {data set: {metric: value}} in the units of `print_metrics`; empty if the provenance names no published
        checkpoint, or one of another size or decoder (the file only bears its name).
    """
    entry = _released(provenance)
    return {name: dict(metrics) for name, metrics in entry.metrics.items()} if entry else {}


def reference(
    provenance: Mapping[str, Any], split: Split, *, image_size: tuple[int, int], settings: Mapping[str, Any]
) -> tuple[dict[str, float], list[str]]:
    """The published numbers for an evaluation at hand, and what to know before comparing.

    Args:
        provenance: `ModelFile.provenance`.
        split: what is evaluated on.
        image_size: (H, W) of the model's crops.
        settings: the section `eval` of the config.

    Returns:
        ({metric: value}, sentences): how the numbers were measured, and, where this evaluation differs from that, a
        warning that says in what. Both empty if nothing was published for this checkpoint and data set.
    """
    name, entry = split.dataset.name, _released(provenance)
    if entry is None or name not in entry.metrics:
        return {}, []
    protocol = PROTOCOLS[name]
    height, width = entry.image_size
    images = f", {protocol.num_images} images" if protocol.num_images else ""
    sentences = [
        f"{name}: published for {entry.title} ({entry.source}) on {' or '.join(protocol.splits)}{images}, with "
        f"{protocol.boxes_of}, flip test, crops of {height}x{width}."
        + (f" Note: {entry.note}." if entry.note else "")
    ]  # fmt: skip
    found = differences(
        protocol, split=split.name, num_images=len(split.images.image_id), image_size=image_size,
        published_image_size=entry.image_size, settings=settings,
    )  # fmt: skip
    if found:
        sentences.append(f"WARNING: {name}: this evaluation is not the published one: {'; '.join(found)}.")
    return dict(entry.metrics[name]), sentences


def differences(
    protocol: Protocol,
    *,
    split: str,
    num_images: int,
    image_size: tuple[int, int],
    published_image_size: tuple[int, int],
    settings: Mapping[str, Any],
) -> list[str]:
    """In what an evaluation differs from the published one: one phrase each, empty if in nothing."""
    found = []
    if split not in protocol.splits:
        found.append(f"split {split} instead of {' or '.join(protocol.splits)}")
    if protocol.num_images not in (None, num_images):
        found.append(f"{num_images} images instead of {protocol.num_images}")
    if tuple(image_size) != tuple(published_image_size):
        here, there = (f"{height}x{width}" for height, width in (image_size, published_image_size))
        found.append(f"crops of {here} instead of {there}")
    for name, value in protocol.settings.items():
        if settings[name] != value:
            other = "the published boxes" if name == "detections_file" else value
            found.append(f"{name} {settings[name]} instead of {other}")
    return found


def markdown_table() -> str:
    """The table of all published checkpoints for `docs/parity.md`, ending in a newline."""
    columns = ("checkpoint", "file", "convert", "evaluate", "published", "source", "measured here")
    rows = [_row(key, entry) for key, entry in RELEASED.items()]
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _released(provenance: Mapping[str, Any]) -> Released | None:
    entry = RELEASED.get(provenance.get("recognized_as") or "")
    if entry is None or any(provenance.get(field) != getattr(entry, field) for field in ("size", "decoder")):
        return None
    return entry


def _row(key: str, entry: Released) -> tuple[str, ...]:
    published = "; ".join(f"{name} {_percent(metrics)}" for name, metrics in entry.metrics.items())
    if not entry.released:
        return entry.title, "not released", "–", "–", published, _source(entry), "no weights"
    folder = f"checkpoints/{key.rsplit('/', 1)[-1]}"
    return (
        entry.title,
        f"`{entry.file}`" if entry.file else "name not confirmed; the README links to it",
        f"`python convert_torch_weights.py --input {entry.file or 'FILE'} --output {folder}`",
        f"`python eval.py --config configs/evaluate.py:{next(iter(entry.metrics))} --checkpoint {folder}`",
        published,
        _source(entry),
        "needs the weights",
    )


def _percent(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value if name == 'PCKh' else 100 * value:.1f}" for name, value in metrics.items())


def _source(entry: Released) -> str:
    return f"{entry.source}; {entry.note}" if entry.note else entry.source


if __name__ == "__main__":
    print(markdown_table(), end="")
