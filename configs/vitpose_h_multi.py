r"""ViTPose-H on COCO + AI Challenger + MPII, a classic decoder for each, 256x192: 649.8 M parameters.

Expected: 79.5 / 84.5 AP / AR on COCO val2017 with detector boxes and flip test, 35.4 AP on AIC val,
94.1 PCKh on MPII val. Source: ViTPose Tables 9, 12 and 13. Not measured here: it needs
the full data sets and MAE weights.
Layer-wise decay 0.80 is the paper's for H (Table 1); the released config for COCO alone has 0.85.

    python train.py --config configs/vitpose_h_multi.py --config.init_from.path=MAE_H \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

With --config configs/vitpose_h_multi.py:crowdpose CrowdPose joins them: 79.8 / 84.8 on COCO val (the repository's
README), 6.3 M parameters more. Its training images include some of COCO val, so that this is no fair number;
train.py says so.
MAE_H is a checkpoint of the MAE pre-trained encoder. Without --config.init_from the encoder starts from random values
and ends lower. The data sets are expected in data/coco, data/aic and data/mpii (and data/crowdpose).
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 7.7e+14 FLOP a step at
6 x 125.8 GMAC a crop, without what remat computes again (a third more).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(also: str = "") -> ConfigDict:
    config = common.vitpose_multi("h", also, drop_path=0.55, layer_decay=0.8)
    config.model.remat = "full"
    config.mesh.fsdp = -1  # parameters and optimizer state are split over the devices of a host
    return config
