r"""ViTPose++-L on six data sets, an expert in each block and a classic decoder for each, 256x192: 460.7 M parameters.

Expected with flip test: COCO val2017 (detector boxes) 78.6 / 84.1 AP / AR, AIC 34.3 AP, MPII 94.0 PCKh, AP-10K 80.4 AP,
APT-36K 80.8 AP, COCO-WholeBody 60.6 AP. Source: the ViTPose repository's README; the authors evaluated each data set's
split model. Not measured here: it needs the full data sets and MAE weights.
While training, AP-10K is evaluated on val; configs/evaluate.py takes its test split, as published.

    python train.py --config configs/vitpose_plus_l.py --config.init_from.path=MAE_L \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_L is a checkpoint of the MAE pre-trained encoder, whose MLPs are expanded into experts. Without --config.init_from
the encoder starts from random values and ends lower. The data sets are expected in data/<name>.
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 3.8e+14 FLOP a step at
6 x 61.6 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_plus("l", 256, drop_path=0.5, layer_decay=0.8)
    config.model.remat = "dots"  # less memory at the same arithmetic of the weights
    return config
