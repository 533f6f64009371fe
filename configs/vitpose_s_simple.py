r"""ViTPose-S, simple decoder, COCO, 256x192: 21.7 M parameters.

Expected: 73.5 / 78.9 AP / AR on COCO val2017 with detector boxes and flip test.
Source: ViTPose repository README (the paper has no S). Not measured here: it needs full COCO and MAE weights.

The released config of this name defines the classic decoder by mistake; this one has the simple decoder.

    python train.py --config configs/vitpose_s_simple.py --config.init_from.path=MAE_S \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_S is the MAE pre-trained encoder: python convert_torch_weights.py --input mae_pretrain_vit_small.pth --output MAE_S.
Without --config.init_from the encoder starts from random values and ends lower.
COCO is expected in data/coco (README, "Train on COCO").
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 8.8e+17 FLOP at 6 x 4.65 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    return common.vitpose_on_coco("s", "simple", drop_path=0.1, layer_decay=0.8)
