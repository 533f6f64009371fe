r"""Masked-autoencoder pre-training of the encoder of ViTPose-L: 329.5 M parameters, decoder included.

    python -m vitpose_jax.data.build images --source IMAGENET --out data/imagenet
    python train.py --config configs/mae_l.py
    python train.py --config configs/vitpose_l.py --config.init_from.path=runs/mae_l \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Other data, as in ViTPose Table 3: --config configs/mae_l.py:coco (crops of people, 256x192), :coco_aic (the same of
two sets), :coco_aic_images (whole images). The sets are expected in data/<name>.
Cost by arithmetic: 1600 epochs of 313 steps, 4096 images a step; 2.6e+20 FLOP at 6 x 20.8 GMAC an image.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config(source: str = "imagenet") -> ConfigDict:
    return pretraining.masked_autoencoder("l", source)
