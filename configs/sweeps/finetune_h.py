"""Fine-tuning ViTPose-H: the published point and twelve draws of learning rate, layer decay and drop path around it.

    python -m vitpose_jax.sweep configs/sweeps/finetune_h.py --launch slurm --at-once 4 -- --gres=gpu:8 --time=12:00:00

MAE's encoder of size H is expected in checkpoints/mae_h (README, "Weights from PyTorch, and back"), COCO in data/coco.
Random draws look at twelve values of each setting where a grid of the same cost looks at two or three.
Cost by arithmetic: 50 epochs of 293 steps each, a quarter of the published training; 5.6e+18 FLOP a trial, see
configs/vitpose_h.py.
"""

from vitpose_jax.sweep import Sweep, draws, log_uniform, uniform

PUBLISHED = {"schedule.learning_rate": 5e-4, "optimizer.layer_decay": 0.85, "model.drop_path": 0.55}


def get_sweep() -> Sweep:
    around = {
        "schedule.learning_rate": log_uniform(1.5e-4, 2e-3),
        "optimizer.layer_decay": uniform(0.7, 0.95),
        "model.drop_path": uniform(0.3, 0.7),
    }
    return Sweep(
        config="configs/vitpose_h.py",
        trials=[PUBLISHED, *draws(12, around, seed=0)],
        fixed={
            "init_from.path": "checkpoints/mae_h",
            "init_from.fresh": ("backbone/last_norm/.*", "decoders/.*"),
            "train.epochs": 50,
            "schedule.drop_epochs": (40, 48),  # where the published 170 and 200 of 210 would be
        },
        metric="eval/coco/AP",
    )
