r"""Masked-autoencoder pre-training of the encoder of ViTPose-S: 47.6 M parameters, decoder included.

    python -m vitpose_jax.data.build images --source IMAGENET --out data/imagenet
    python train.py --config configs/mae_s.py
    python train.py --config configs/vitpose_s.py --config.init_from.path=runs/mae_s \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Other data, as in ViTPose Table 3: --config configs/mae_s.py:coco (crops of people, 256x192), :coco_aic (the same of
two sets), :coco_aic_images (whole images). The sets are expected in data/<name>.
MAE itself has no size S; the recipe is that of the others.
Cost by arithmetic: 1600 epochs of 313 steps, 4096 images a step; 8.0e+19 FLOP at 6 x 6.5 GMAC an image.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config(source: str = "imagenet") -> ConfigDict:
    return pretraining.masked_autoencoder("s", source)
