r"""ViTPose-G, classic decoder, COCO, 576x432: a plain ViT-g of 1.0 B parameters.

The authors' G is a ViTAE-G that was never released; this is the published plain ViT of that size with the paper's
settings for G (Table 1: layer-wise decay 0.85, drop path 0.55).
Target: 81.0 AP / 85.6 AR on COCO val2017, reached by the authors' G on COCO + AIC + MPII. Source: ViTPose Table 9 and
repository README. Not measured here: it needs full data sets and MAE weights of this size.

    python train.py --config configs/vitpose_g.py --config.init_from.path=MAE_G \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Parameters and optimizer state (12 bytes a parameter) are split over all devices.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.vitpose_on_coco("g", "classic", drop_path=0.55, layer_decay=0.85)
    config.model.image_size = (576, 432)
    config.model.remat = "full"
    config.mesh.update(data=1, fsdp=-1)
    config.eval.batch_size = 64
    return config
