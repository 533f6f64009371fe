"""What the configs of masked-autoencoder pre-training share: the recipe, and the sources of ViTPose's Table 3.

Source of the numbers: facebookresearch/mae, `main_pretrain.py` and PRETRAIN.md; ViTPose (arXiv 2204.12484) §4.3 names
mask ratio, epochs and data sets, and neither learning rate nor batch: they are MAE's.
"""

from ml_collections import ConfigDict, config_dict

from configs import common

# By the name that follows the config's file (configs/mae_b.py:coco): folders of built sets, what is looked at in them
# (vitpose_jax.data.views.VIEWS), and the size of a crop. People are looked at in the shape of the pose crops.
SOURCES: dict[str, tuple[tuple[str, ...], str, tuple[int, int]]] = {
    "imagenet": (("imagenet",), "images", (224, 224)),
    "coco": (("coco",), "people", (256, 192)),
    "coco_aic": (("coco", "aic"), "people", (256, 192)),
    "coco_aic_images": (("coco", "aic"), "images", (224, 224)),
}
BASE_LEARNING_RATE, BASE_BATCH = 1.5e-4, 256


def masked_autoencoder(size: str | None, source: str = "imagenet") -> ConfigDict:
    """MAE's recipe for one size of encoder.

    Args:
        size: of the encoder; None leaves it to be set.
        source: a key of `SOURCES`.

    Raises:
        ValueError: for another source.
    """
    if source not in SOURCES:
        raise ValueError(f"sources of pre-training are {', '.join(SOURCES)}, not {source!r}")
    names, views, image_size = SOURCES[source]
    config = common.get_config()
    config.name = f"mae_{size}" if source == "imagenet" else f"mae_{size}_{source}"
    config.task = "mae"
    config.dataset_order = names
    with config.unlocked():
        del config.codec, config.input.by_image
        config.model = _model(size, image_size)
        config.datasets = ConfigDict({name: dataset(f"data/{name}", views) for name in names})
        config.augment = _augment()
        config.eval = _evaluation()
        config.optimizer.clip_norm = config_dict.placeholder(float)  # none
        # By the linear rule, whatever the batch is: 2.4e-3 at 4096.
        config.schedule.learning_rate = (
            config.train.get_oneway_ref("batch_size").to_float() * BASE_LEARNING_RATE / BASE_BATCH
        )
    config.optimizer.update(weight_decay=0.05, b2=0.95)
    config.schedule.update(kind="cosine", warmup_epochs=40.0, warmup_ratio=0.0)
    config.train.update(batch_size=4096, epochs=1600, eval_every_epochs=20)
    return config.lock()


def dataset(data_dir: str, views: str) -> ConfigDict:
    """Settings of one data set, built by `python -m vitpose_jax.data.build`."""
    section = ConfigDict()
    section.dir = data_dir
    section.train_split = "train"  # "" does not train on it
    section.eval_split = "val"  # held-out images; "" for none
    section.views = views  # "images"; "people": crops around annotated boxes
    section.weight = config_dict.placeholder(float)  # relative to the other sets'; None: its number of images or people
    return section


def _model(size: str | None, image_size: tuple[int, int]) -> ConfigDict:
    """vitpose_jax.models.mae.mae"""
    model = ConfigDict()
    model.size = config_dict.placeholder(str)  # "s", "b", "l", "h", "g"; or None and the next four
    model.size = size
    model.embed_dim = config_dict.placeholder(int)
    model.depth = config_dict.placeholder(int)
    model.num_heads = config_dict.placeholder(int)
    model.mlp_dim = config_dict.placeholder(int)
    model.image_size = image_size  # pixels, multiples of 16
    model.decoder_embed_dim = 512
    model.decoder_depth = 8
    model.decoder_num_heads = 16
    model.mask_ratio = 0.75
    model.norm_pix_loss = True
    model.layer_norm_eps = 1e-6
    model.remat = "none"  # "none", "dots", "full": less memory, more arithmetic
    model.scan_unroll = 1
    model.dtype = "bfloat16"  # of the computation; parameters are float32. "float32" for parity
    return model


def _augment() -> ConfigDict:
    """vitpose_jax.data.views.RandomResizedCrop"""
    augment = ConfigDict()
    augment.min_area = 0.2
    augment.max_area = 1.0
    augment.max_stretch = 4 / 3
    augment.flip_prob = 0.5
    return augment


def _evaluation() -> ConfigDict:
    """vitpose_jax.evaluation.reconstruction.ReconstructionEvaluator"""
    evaluation = ConfigDict()
    evaluation.batch_size = 256
    evaluation.max_images = 5000
    evaluation.seed = 0  # of what is masked
    return evaluation
