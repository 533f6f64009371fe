"""Evaluates any checkpoint by the protocol that published numbers hold for, on one data set or several.

    python eval.py --config configs/evaluate.py:coco --checkpoint CHECKPOINT
    python eval.py --config configs/evaluate.py:mpii,aic,ap10k --checkpoint CHECKPOINT

A data set is expected in data/<name>; --config.datasets.<name>.dir=DIR says where else. Its name is its decoder's, too.
Not for training: there is no model here, eval.py takes it from the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common
from vitpose_jax.evaluation.published import PROTOCOLS


def get_config(names: str = "coco") -> ConfigDict:
    """Settings for the data sets named, with commas between them."""
    chosen = names.split(",")
    unknown = [name for name in chosen if name not in PROTOCOLS]
    if unknown:
        raise ValueError(f"no published protocol for {', '.join(unknown)}; known are {', '.join(PROTOCOLS)}")
    boxes = {PROTOCOLS[name].boxes for name in chosen}
    if len(boxes) > 1:
        kinds = ", ".join(f"{name} {PROTOCOLS[name].boxes}" for name in chosen)
        raise ValueError(
            f"these data sets are evaluated with different boxes, evaluate them one after the other: {kinds}"
        )
    config = common.get_config()
    config.name = "evaluate"
    with config.unlocked():
        config.datasets = ConfigDict({name: common.dataset(f"data/{name}") for name in chosen})
    for name in chosen:
        config.datasets[name].eval_split = PROTOCOLS[name].splits[0]
    config.eval.boxes = boxes.pop()
    return config
