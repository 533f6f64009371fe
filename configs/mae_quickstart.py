"""Masked-autoencoder pre-training on drawn people.

    python -m vitpose_jax.data.synthetic --out data/synthetic_source
    python -m vitpose_jax.data.build coco --source data/synthetic_source --out data/synthetic
    python train.py --config configs/mae_quickstart.py

configs/mae_finetune.py starts from it; docs/transfer.md has the whole comparison and its numbers.
Encoder, decoder and crops are small; people are looked at as pose training sees them.
"""

from ml_collections import ConfigDict

from configs import pretraining


def get_config() -> ConfigDict:
    config = pretraining.masked_autoencoder(None, "coco")
    config.name = "mae_quickstart"
    with config.unlocked():
        config.datasets = ConfigDict({"synthetic": pretraining.dataset("data/synthetic", "people")})
    config.dataset_order = ()
    config.model.update(
        embed_dim=128, depth=4, num_heads=4, mlp_dim=512, image_size=(96, 64), decoder_embed_dim=64, decoder_depth=2,
        decoder_num_heads=4, scan_unroll=4, dtype="float32",
    )  # fmt: skip
    config.augment.min_area = 0.4
    config.schedule.update(learning_rate=1e-3, warmup_epochs=2.0)
    config.train.update(batch_size=64, epochs=14, log_every_steps=50, eval_every_epochs=7, keep_last=1)
    config.eval.update(batch_size=100)
    return config
