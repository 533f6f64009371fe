"""Learning rate and weight decay of the quickstart: six short trials on drawn people.

    python -m vitpose_jax.data.synthetic --out data/synthetic_source
    python -m vitpose_jax.data.build coco --source data/synthetic_source --out data/synthetic
    python -m vitpose_jax.sweep configs/sweeps/quickstart_lr.py --launch local

Each trial is a third of the quickstart's training, all of them together twice as long as that.
"""

from vitpose_jax.sweep import Sweep, grid


def get_sweep() -> Sweep:
    return Sweep(
        config="configs/quickstart.py",
        trials=grid({"schedule.learning_rate": [1e-3, 4e-3, 1.6e-2], "optimizer.weight_decay": [0.01, 0.1]}),
        fixed={"train.epochs": 2, "schedule.warmup_steps": 30},
        metric="eval/synthetic/AP",
    )
