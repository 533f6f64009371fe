r"""ViTPose++-S on six data sets, an expert in each block and a classic decoder for each, 256x192: 55.2 M parameters.

Expected with flip test: COCO val2017 (detector boxes) 75.8 / 82.6 AP / AR, AIC 29.7 AP, MPII 92.7 PCKh, AP-10K 71.4 AP,
APT-36K 74.2 AP, COCO-WholeBody 54.4 AP. Source: the ViTPose repository's README; the authors evaluated each data set's
split model. Not measured here: it needs the full data sets and MAE weights.
While training, AP-10K is evaluated on val; configs/evaluate.py takes its test split, as published.
The released config has 192 features for each expert, the released weights of this size have 96 (repository issue 144);
for models like these add --config.model.part_features=96. The README's AR of S equals that of B and may be a slip.

    python train.py --config configs/vitpose_plus_s.py --config.init_from.path=MAE_S \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_S is a checkpoint of the MAE pre-trained encoder, whose MLPs are expanded into experts. Without --config.init_from
the encoder starts from random values and ends lower. The data sets are expected in data/<name>.
Cost by arithmetic: 210 epochs of as many steps as train.py prints, 1024 crops a step; 3.4e+13 FLOP a step at
6 x 5.59 GMAC a crop.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    return common.vitpose_plus("s", 192, drop_path=0.1, layer_decay=0.8)
