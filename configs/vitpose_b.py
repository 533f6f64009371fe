r"""ViTPose-B, classic decoder, COCO, 256x192: 90.0 M parameters.

Expected: 75.8 / 81.1 AP / AR on COCO val2017 with detector boxes and flip test.
Source: ViTPose Table 2. Not measured here: it needs full COCO and MAE weights.

    python train.py --config configs/vitpose_b.py --config.init_from.path=MAE_B \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_B is the MAE pre-trained encoder: python convert_torch_weights.py --input mae_pretrain_vit_base.pth --output MAE_B.
Without --config.init_from the encoder starts from random values and ends lower.
COCO is expected in data/coco (README, "Train on COCO").
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 3.5e+18 FLOP at 6 x 18.5 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    return common.vitpose_on_coco("b", "classic", drop_path=0.3, layer_decay=0.75)
