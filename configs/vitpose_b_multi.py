r"""ViTPose-B on COCO + AI Challenger + MPII, a classic decoder for each, 256x192: 98.4 M parameters.

Expected: 77.1 / 82.2 AP / AR on COCO val2017 with detector boxes and flip test, 32.0 AP on AIC val,
93.3 PCKh on MPII val. Source: ViTPose Tables 9, 12 and 13. Not measured here: it needs
the full data sets and MAE weights.

    python train.py --config configs/vitpose_b_multi.py --config.init_from.path=MAE_B \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

With --config configs/vitpose_b_multi.py:crowdpose CrowdPose joins them: 77.5 / 82.6 on COCO val (the repository's
README), 4.2 M parameters more. Its training images include some of COCO val, so that this is no fair number;
train.py says so.
MAE_B is a checkpoint of the MAE pre-trained encoder. Without --config.init_from the encoder starts from random values
and ends lower. The data sets are expected in data/coco, data/aic and data/mpii (and data/crowdpose).
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 1.1e+14 FLOP a step at
6 x 18.5 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(also: str = "") -> ConfigDict:
    return common.vitpose_multi("b", also, drop_path=0.3, layer_decay=0.75)
