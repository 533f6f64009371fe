r"""Knowledge transfer from ViTPose-L to ViTPose-B (classic decoders, COCO, 256x192): 90.8 M parameters with the token.

    python train.py --config configs/distill_l_to_b.py:learn_token
    python train.py --config configs/distill_l_to_b.py:both --config.init_from.path=MAE_B \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

The teacher is expected in runs/vitpose_l: train it (configs/vitpose_l.py), or convert the published one and name it by
--config.init_from.path (first command) and --config.teacher.path (second). For MAE_B see configs/vitpose_b.py.
With :heatmap in place of :both the student has no token, with :token it has that and sees no teacher; docs/transfer.md
says what each stage does.
Expected: 76.6 / 81.8 AP / AR on COCO val2017 with detector boxes and flip test; :heatmap 76.3 / 81.5, :token 76.0 /
81.3, B alone 75.8 / 81.1. Source: ViTPose Table 8. Not measured here: it needs full COCO and trained weights.
"""

from ml_collections import ConfigDict

from configs import distilling, vitpose_b, vitpose_l


def get_config(stage: str = "both") -> ConfigDict:
    return distilling.distillation(
        "distill_l_to_b", stage, teacher=vitpose_l.get_config(), student=vitpose_b.get_config()
    )
