"""A small ViTPose on drawn people: the whole way in a few minutes on two CPU cores (`make quickstart`).

    python -m vitpose_jax.data.synthetic --out data/synthetic_source
    python -m vitpose_jax.data.build coco --source data/synthetic_source --out data/synthetic
    python train.py --config configs/quickstart.py --workdir runs/quickstart
    python eval.py --config configs/quickstart.py --checkpoint runs/quickstart --mean_pose

Expected: at least 0.70 AP on the 200 validation pictures with annotated boxes; the README says what was measured.
Where it leaves the published recipe, it is to learn fast from random values: overlapping patches (1/8 features) of
small crops, crops that are only mirrored, a high learning rate that falls along a cosine.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.name = "quickstart"
    with config.unlocked():
        del config.datasets.coco
        config.datasets.synthetic = common.dataset("data/synthetic")
        config.model.num_keypoints = ConfigDict({"synthetic": 17})
    config.model.update(
        embed_dim=96, depth=4, num_heads=2, mlp_dim=192, image_size=(96, 72), ratio=2, deconv_filters=32,
        scan_unroll=4, dtype="float32",
    )  # fmt: skip
    config.augment.update(half_body_prob=0.0, scale_factor=0.0, rotation_prob=0.0, center_jitter_prob=0.0)
    config.codec.update(sigma=1.5, blur_kernel=7)
    config.optimizer.update(weight_decay=0.01, b2=0.98)
    config.schedule.update(kind="cosine", learning_rate=4e-3, warmup_steps=100)
    config.train.update(batch_size=32, epochs=6, log_every_steps=25, eval_every_epochs=0, keep_last=1)
    config.eval.update(batch_size=64, boxes="annotations")
    return config
