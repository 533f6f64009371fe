r"""ViTPose-G, classic decoder, COCO, 576x432: a plain ViT-g of 1.0 B parameters.

The authors' G is a ViTAE-G that was never released; this is the published plain ViT of that size with the paper's
settings for G (Table 1: layer-wise decay 0.85, drop path 0.55).
Target: 81.0 AP / 85.6 AR on COCO val2017, reached by the authors' G on COCO + AIC + MPII. Source: the
repository's README. Not measured here: it needs full data sets and MAE weights of this size.

    python train.py --config configs/vitpose_g.py --config.init_from.path=MAE_G \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

MAE_G is a checkpoint of an MAE pre-trained encoder of this size; none was published.
Parameters and optimizer state (12 bytes a parameter) are split over the devices of a host.
Cost by arithmetic: 210 epochs of 293 steps, 512 crops a step; 2.1e+20 FLOP at 6 x 1098 GMAC a crop, without what remat
computes again (a third more).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_on_coco("g", "classic", drop_path=0.55, layer_decay=0.85)
    config.model.image_size = (576, 432)
    config.model.remat = "full"
    config.mesh.fsdp = -1  # parameters and optimizer state are split over the devices of a host
    config.eval.batch_size = 64
    return config
