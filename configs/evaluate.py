"""Evaluates any checkpoint by the protocol that published numbers hold for, on one data set or several.

    python eval.py --config configs/evaluate.py:coco --checkpoint CHECKPOINT
    python eval.py --config configs/evaluate.py:mpii,aic,ap10k --checkpoint CHECKPOINT

A data set is expected in data/<name>; --config.datasets.<name>.dir=DIR says where else. Its name is its decoder's, too,
but OCHuman's is COCO's; --config.datasets.<name>.decoder=NAME takes another.
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
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named twice in {names!r}; name each data set once")
    config = common.get_config()
    config.name = "evaluate"
    with config.unlocked():
        config.datasets = ConfigDict({name: common.published(name) for name in chosen})
    config.dataset_order = tuple(chosen)
    return config
