r"""Masked-autoencoder pre-training of the encoder of ViTPose-G: 1037.8 M parameters, decoder included.

    python -m vitpose_jax.data.build images --source IMAGENET --out data/imagenet
    python train.py --config configs/mae_g.py
    python train.py --config configs/vitpose_g.py --config.init_from.path=runs/mae_g \
        --config.init_from.fresh='("backbone/last_norm/.*", "decoders/.*")'

Other data, as in ViTPose Table 3: --config configs/mae_g.py:coco (crops of people, 256x192), :coco_aic (the same of
two sets), :coco_aic_images (whole images). The sets are expected in data/<name>.
Of the authors' G (a ViTAE-G) nothing was released; this is the plain ViT-g that vitpose_g.py fine-tunes.
Cost by arithmetic: 1600 epochs of 313 steps, 4096 images a step; 6.9e+20 FLOP at 6 x 56.4 GMAC an image.
Less memory: --config.model.remat=full, --config.mesh.fsdp=N.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config(source: str = "imagenet") -> ConfigDict:
    return pretraining.masked_autoencoder("g", source)
