"""A small ViTPose on the embedded data set: the whole way in a few minutes on two CPU cores (`make quickstart`)."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    with config.unlocked():
        del config.datasets.coco
        config.datasets.synthetic = common.dataset("data/synthetic")
        config.model.num_keypoints = {"synthetic": 17}
    config.name = "quickstart"
    config.model.update(
        embed_dim=128, depth=4, num_heads=4, mlp_dim=512, image_size=(128, 96), decoder="simple", dtype="float32"
    )
    config.augment.update(half_body_prob=0.0, scale_factor=0.25, rotation_factor_deg=20.0)
    config.optimizer.update(weight_decay=0.05, b2=0.98)
    config.schedule.update(kind="cosine", learning_rate=2e-3, warmup_steps=100)
    config.train.update(batch_size=64, epochs=12, log_every_steps=25, eval_every_epochs=4, keep_last=1)
    config.eval.update(batch_size=64, boxes="annotations")
    return config
