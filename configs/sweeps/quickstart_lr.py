"""Learning rate and weight decay of the quickstart: nine short runs on drawn people.

    python -m vitpose_jax.data.synthetic --out data/synthetic_source
    python -m vitpose_jax.data.build coco --source data/synthetic_source --out data/synthetic
    python -m vitpose_jax.sweep configs/sweeps/quickstart_lr.py --launch local

Each trial is a third of the quickstart's training: the order of learning rates shows long before the end.
"""

from vitpose_jax.sweep import Sweep, grid


def get_sweep() -> Sweep:
    return Sweep(
        config="configs/quickstart.py",
        trials=grid({"schedule.learning_rate": [1e-3, 4e-3, 1.6e-2], "optimizer.weight_decay": [0.0, 0.01, 0.1]}),
        fixed={"train.epochs": 2, "schedule.warmup_steps": 30},
        metric="eval/synthetic/AP",
    )
