"""The whole way on real photographs: a small model learns 28 of them by heart and is scored by eval.py."""

import json

import pytest

import eval as eval_script
from configs import common
from tests import tolerances
from train import train
from vitpose_jax.data import build, datasets
from vitpose_jax.evaluation.bfloat16 import keypoint_shift
from vitpose_jax.training import checkpoint


@pytest.mark.slow
def test_a_small_model_learns_the_photographs_by_heart(samples_dir, tmp_path):
    """Official JSON and JPEG files, ArrayRecord, training without augmentation, checkpoint, eval.py."""
    build.build("coco", samples_dir / "coco", tmp_path / "coco", splits=["train"])
    config = common.get_config()
    config.name = "by_heart"
    config.datasets.coco.update(dir=str(tmp_path / "coco"), eval_split="train")
    config.model.update(
        embed_dim=128, depth=4, num_heads=2, mlp_dim=256, image_size=(96, 72), ratio=2, deconv_filters=64,
        scan_unroll=4, dtype="float32",
    )  # fmt: skip
    config.augment.update(
        flip_prob=0.0, half_body_prob=0.0, scale_factor=0.0, rotation_prob=0.0, center_jitter_prob=0.0
    )
    config.codec.update(sigma=1.5, blur_kernel=7)
    config.optimizer.update(weight_decay=0.0, b2=0.98)
    config.schedule.update(kind="cosine", learning_rate=2e-3, warmup_steps=50)
    config.train.update(batch_size=43, epochs=250, eval_every_epochs=0)
    config.eval.update(batch_size=43, boxes="annotations", flip_test=False)
    train(config, tmp_path / "run")
    found = eval_script.evaluate(config, tmp_path / "run")
    assert found["coco"]["AP"] >= 0.95
    # What rounding to bfloat16 does to keypoints that a model is sure of.
    loaded = checkpoint.load_model(tmp_path / "run")
    shift = keypoint_shift(
        loaded.model, loaded.variables, datasets.open_split(tmp_path / "coco", "train"), flip_test=False, blur_kernel=7
    )
    print(json.dumps(shift))
    assert shift["image_px"]["p99"] <= tolerances.BFLOAT16_KEYPOINT_P99_PX
