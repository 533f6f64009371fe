r"""Masked-autoencoder pre-training of the encoder of ViTPose-H: 657.3 M parameters, decoder included.

    python -m vitpose_jax.data.build images --source IMAGENET --out data/imagenet
    python train.py --config configs/mae_h.py
    python train.py --config configs/vitpose_h.py --config.init_from.path=runs/mae_h \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Other data, as in ViTPose Table 3: --config configs/mae_h.py:coco (crops of people, 256x192), :coco_aic (the same of
two sets), :coco_aic_images (whole images). The sets are expected in data/<name>.
MAE's own H has patches of 14x14 pixels; these here are 16x16, as ViTPose has them.
Cost by arithmetic: 1600 epochs of 313 steps, 4096 images a step; 4.6e+20 FLOP at 6 x 37.2 GMAC an image.
Less memory: --config.model.remat=full, --config.mesh.fsdp=N.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config(source: str = "imagenet") -> ConfigDict:
    return pretraining.masked_autoencoder("h", source)
