r"""ViTPose-B, simple decoder, COCO, 256x192: 85.9 M parameters.

Expected: 75.5 / 80.9 AP / AR on COCO val2017 with detector boxes and flip test.
Source: ViTPose Table 2. Not measured here: it needs full COCO and MAE weights.

    python train.py --config configs/vitpose_b_simple.py --config.init_from.path=MAE_B \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_B is the MAE pre-trained encoder: python convert_torch_weights.py --input mae_pretrain_vit_base.pth --output MAE_B.
Without --config.init_from the encoder starts from random values and ends lower.
COCO is expected in data/coco (README, "Train on COCO").
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 3.3e+18 FLOP at 6 x 17.46 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    return common.vitpose_on_coco("b", "simple", drop_path=0.3, layer_decay=0.75)
