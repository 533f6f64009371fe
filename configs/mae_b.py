r"""Masked-autoencoder pre-training of the encoder of ViTPose-B: 111.9 M parameters, decoder included.

    python -m vitpose_jax.data.build images --source IMAGENET --out data/imagenet
    python train.py --config configs/mae_b.py
    python train.py --config configs/vitpose_b.py --config.init_from.path=runs/mae_b \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Other data, as in ViTPose Table 3: --config configs/mae_b.py:coco (crops of people, 256x192), :coco_aic (the same of
two sets), :coco_aic_images (whole images). The sets are expected in data/<name>.
Expected: ViTPose-B fine-tuned from it reaches, by the data it saw, 75.8 AP (imagenet), 74.5 (coco), 75.8 (coco_aic,
coco_aic_images) on COCO val2017. Source: ViTPose Table 3. Not measured here: it needs these data sets.
Cost by arithmetic: 1600 epochs of 313 steps, 4096 images a step; 1.2e+20 FLOP at 6 x 9.8 GMAC an image.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config(source: str = "imagenet") -> ConfigDict:
    return pretraining.masked_autoencoder("b", source)
