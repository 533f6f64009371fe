r"""ViTPose-H, classic decoder, COCO, 256x192: 637.2 M parameters.

Expected: 79.1 / 84.1 AP / AR on COCO val2017 with detector boxes and flip test.
Source: ViTPose Table 2. Not measured here: it needs full COCO and MAE weights.

    python train.py --config configs/vitpose_h.py --config.init_from.path=MAE_H \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_H is the MAE pre-trained encoder: python convert_torch_weights.py --input mae_pretrain_vit_huge.pth --output MAE_H.
Without --config.init_from the encoder starts from random values and ends lower.
COCO is expected in data/coco (README, "Train on COCO").
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 2.4e+19 FLOP at 6 x 125.8 GMAC a crop, without
what remat computes again (a third more).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_on_coco("h", "classic", drop_path=0.55, layer_decay=0.85)
    config.model.remat = "full"
    config.mesh.fsdp = -1  # parameters and optimizer state are split over the devices of a host
    return config
