r"""ViTPose++-B on six data sets, an expert in each block and a classic decoder for each, 256x192: 146.4 M parameters.

Expected with flip test: COCO val2017 (detector boxes) 77.0 / 82.6 AP / AR, AIC 31.8 AP, MPII 92.8 PCKh, AP-10K 74.5 AP,
APT-36K 75.9 AP, COCO-WholeBody 57.4 AP. Source: the ViTPose repository's README; the authors evaluated each data set's
split model. Not measured here: it needs the full data sets and MAE weights.
While training, AP-10K is evaluated on val; configs/evaluate.py takes its test split, as published.

    python train.py --config configs/vitpose_plus_b.py --config.init_from.path=MAE_B \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_B is a checkpoint of the MAE pre-trained encoder, whose MLPs are expanded into experts. Without --config.init_from
the encoder starts from random values and ends lower. The data sets are expected in data/<name>.
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 1.1e+14 FLOP a step at
6 x 18.5 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    return common.vitpose_plus("b", 192, drop_path=0.3, layer_decay=0.75)
