"""Fine-tuning with few labels, from a pre-training run or from random values: 50 drawn pictures of people.

    python -m vitpose_jax.data.synthetic --out data/few_source --num-train 50 --num-val 10 --seed 1
    python -m vitpose_jax.data.build coco --source data/few_source --out data/few
    python train.py --config configs/mae_finetune.py --config.init_from.path=runs/mae_quickstart
    python train.py --config configs/mae_finetune.py:scratch

Evaluated on the 200 validation pictures of data/synthetic. The encoder is that of configs/mae_quickstart.py; what was
measured with three seeds is in docs/transfer.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(start: str = "pretrained") -> ConfigDict:
    if start not in ("pretrained", "scratch"):
        raise ValueError(f"a fine-tuning run starts 'pretrained' or from 'scratch', not {start!r}")
    config = common.get_config()
    config.name = "mae_finetune" if start == "pretrained" else "mae_finetune_scratch"
    with config.unlocked():
        config.datasets = ConfigDict({"few": common.dataset("data/few"), "synthetic": common.dataset("data/synthetic")})
        config.model.num_keypoints = ConfigDict({"few": 17})
    config.datasets.few.eval_split = config.datasets.synthetic.train_split = ""
    config.datasets.synthetic.decoder = "few"
    config.model.update(
        embed_dim=128, depth=4, num_heads=4, mlp_dim=512, image_size=(96, 64), deconv_filters=64, scan_unroll=4,
        dtype="float32",
    )  # fmt: skip
    if start == "pretrained":
        config.init_from.fresh = ("backbone/last_norm/.*", "decoders/.*")
    config.augment.update(half_body_prob=0.0, scale_factor=0.2, rotation_factor_deg=20.0, center_jitter_prob=0.0)
    config.codec.update(sigma=1.5, blur_kernel=7)
    config.optimizer.update(weight_decay=0.05, b2=0.98)
    config.schedule.update(kind="cosine", learning_rate=2e-3, warmup_steps=50)
    config.train.update(batch_size=16, epochs=40, log_every_steps=20, eval_every_epochs=0, keep_last=1)
    config.eval.update(batch_size=100, boxes="annotations")
    return config
