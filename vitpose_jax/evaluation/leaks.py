"""Data sets whose training images are evaluation images of others: a number that they help to is no fair number."""

from collections.abc import Iterable

# (trained on, (data set, split) evaluated on), by the names of `DATASETS`.
LEAKS = (("crowdpose", ("coco", "val")), ("crowdpose", ("wholebody", "val")))  # both are COCO val2017's images
_REASON = (
    "training images of CrowdPose include images of COCO val2017, at least 181 byte for byte (ViTPose issue 24): this "
    "result is not comparable with those of models trained without it"
)


def leaks(trained: Iterable[str], dataset: str, split: str) -> list[str]:
    """What makes an evaluation unfair: a sentence, or nothing if nothing is known.

    Args:
        trained: data sets that the model was trained on.
        dataset: what it is evaluated on.
        split: of it.
    """
    names = set(trained)
    leaking = [one for one, other in LEAKS if one in names and other == (dataset, split)]
    return [f"WARNING: {dataset} {split}: {_REASON}"] if leaking else []
