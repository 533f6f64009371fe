r"""ViTPose-L on COCO + AI Challenger + MPII, a classic decoder for each, 256x192: 319.0 M parameters.

Expected: 78.7 / 83.8 AP / AR on COCO val2017 with detector boxes and flip test, 34.5 AP on AIC val,
94.0 PCKh on MPII val. Source: ViTPose Tables 9, 12 and 13. Not measured here: it needs
the full data sets and MAE weights.

    python train.py --config configs/vitpose_l_multi.py --config.init_from.path=MAE_L \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

With --config configs/vitpose_l_multi.py:crowdpose CrowdPose joins them: 79.1 / 84.1 on COCO val (the repository's
README), 5.2 M parameters more. Its training images include some of COCO val, so that this is no fair number;
train.py says so.
MAE_L is a checkpoint of the MAE pre-trained encoder. Without --config.init_from the encoder starts from random values
and ends lower. The data sets are expected in data/coco, data/aic and data/mpii (and data/crowdpose).
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 3.8e+14 FLOP a step at
6 x 61.6 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(also: str = "") -> ConfigDict:
    config = common.vitpose_multi("l", also, drop_path=0.5, layer_decay=0.8)
    config.model.remat = "dots"  # less memory at the same arithmetic of the weights
    return config
