r"""Fine-tune a model on your own keypoints; docs/datasets.md walks through it.

    python -m vitpose_jax.data.build custom --source DIR --keypoints FILE --out data/custom
    python train.py --config configs/finetune_custom.py --config.init_from.path=CHECKPOINT
    python eval.py --config configs/finetune_custom.py --checkpoint runs/finetune_custom

CHECKPOINT is the folder of any run, or of a converted checkpoint. The encoder starts from its weights, the decoder is
new, with as many keypoints as the data set has. The model is the checkpoint's own; what is set here or on the command
line (--config.model.image_size="(384, 288)", --config.model.decoder=simple) is changed.
--config.datasets.custom.dir=DIR names another built set. To train from random values instead of a checkpoint, name a
model: --config.model.size=s.
Expected: docs/datasets.md says what was measured on its example.
"""

from ml_collections import ConfigDict, config_dict

from configs import common

# Of these, what is None is as in the checkpoint.
_FROM_CHECKPOINT = {
    "image_size": tuple, "ratio": int, "decoder": str, "deconv_filters": int, "attention": str,
    "full_every": int, "token_position": bool, "layer_norm_eps": float, "drop_path": float,
}  # fmt: skip


def get_config() -> ConfigDict:
    config = common.get_config()
    config.name = "finetune_custom"
    with config.unlocked():
        del config.datasets.coco
        config.datasets.custom = common.dataset("data/custom")
        config.model.num_keypoints = ConfigDict({"custom": config_dict.placeholder(int)})
        for name, kind in _FROM_CHECKPOINT.items():
            del config.model[name]
            config.model[name] = config_dict.placeholder(kind)
    config.init_from.fresh = ("decoders/.*",)
    config.optimizer.layer_decay = 0.75  # early layers change least
    config.schedule.update(kind="cosine", learning_rate=5e-4, warmup_steps=50)
    config.train.update(batch_size=32, epochs=20, log_every_steps=25, eval_every_epochs=5)
    config.eval.update(batch_size=64, boxes="annotations")
    return config
