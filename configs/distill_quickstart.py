r"""Knowledge transfer on drawn people: from the quickstart's model to one with a fifth of its parameters.

    make quickstart
    python train.py --config configs/distill_quickstart.py:alone
    python train.py --config configs/distill_quickstart.py:learn_token
    python train.py --config configs/distill_quickstart.py:both

Also :heatmap and :token. The teacher is the quickstart's model in runs/quickstart; encoder, width and decoder of the
student are others. What was measured with three seeds is in docs/transfer.md.
"""

from ml_collections import ConfigDict

from configs import distilling, quickstart


def get_config(stage: str = "both") -> ConfigDict:
    student = quickstart.get_config()
    student.name = "distill_quickstart_alone"
    student.model.update(embed_dim=48, depth=2, num_heads=2, mlp_dim=96, decoder="simple", scan_unroll=2)
    student.train.epochs = 2
    if stage == "alone":
        return student
    config = distilling.distillation("distill_quickstart", stage, teacher=quickstart.get_config(), student=student)
    if stage == "learn_token":
        config.schedule.warmup_steps = 20
        config.train.update(epochs=1, eval_every_epochs=0)
    return config
