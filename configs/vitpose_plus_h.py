r"""ViTPose++-H on six data sets, an expert in each block and a classic decoder for each, 256x192: 930.9 M parameters.

Expected with flip test: COCO val2017 (detector boxes) 79.4 / 84.8 AP / AR, AIC 34.8 AP, MPII 94.2 PCKh, AP-10K 82.4 AP,
APT-36K 82.3 AP, COCO-WholeBody 61.2 AP. Source: the ViTPose repository's README; the authors evaluated each data set's
split model. Not measured here: it needs the full data sets and MAE weights.
While training, AP-10K is evaluated on val; configs/evaluate.py takes its test split, as published.
Layer-wise decay is 0.80 as in the released config (COCO alone: 0.85).

    python train.py --config configs/vitpose_plus_h.py --config.init_from.path=MAE_H \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_H is a checkpoint of the MAE pre-trained encoder, whose MLPs are expanded into experts. Without --config.init_from
the encoder starts from random values and ends lower. The data sets are expected in data/<name>.
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 7.7e+14 FLOP a step at
6 x 125.8 GMAC a crop, without what remat computes again (a third more).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_plus("h", 320, drop_path=0.55, layer_decay=0.8)
    config.model.remat = "full"
    config.mesh.fsdp = -1  # parameters and optimizer state are split over the devices of a host
    return config
