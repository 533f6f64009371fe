r"""ViTPose-L, classic decoder, COCO, 256x192: 308.5 M parameters.

Expected: 78.3 / 83.5 AP / AR on COCO val2017 with detector boxes and flip test.
Source: ViTPose Table 2. Not measured here: it needs full COCO and MAE weights.

    python train.py --config configs/vitpose_l.py --config.init_from.path=MAE_L \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_L is the MAE pre-trained encoder: python convert_torch_weights.py --input mae_pretrain_vit_large.pth --output MAE_L.
Without --config.init_from the encoder starts from random values and ends lower.
COCO is expected in data/coco (README, "Train on COCO").
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 1.2e+19 FLOP at 6 x 61.6 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_on_coco("l", "classic", drop_path=0.5, layer_decay=0.8)
    config.model.remat = "dots"  # less memory at the same arithmetic of the weights
    return config
