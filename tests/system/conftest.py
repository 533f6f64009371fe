"""A drawn data set, a shrunk config and one finished run, shared by the system tests."""

import pathlib

import pytest

from configs import quickstart
from train import train
from vitpose_jax.data import build
from vitpose_jax.data.synthetic import write_synthetic


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> pathlib.Path:
    """A built data set of a few drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic(folder / "source", num_train=16, num_val=6, seed=0, num_workers=0, progress=False)
    build.build("coco", folder / "source", folder / "built")
    return folder / "built"


@pytest.fixture(scope="session")
def shrunk_config(drawn):
    """Makes the quickstart config, shrunk to a tiny model and a few steps, with the given changes."""

    def make(changes: dict | None = None):
        config = quickstart.get_config()
        config.name = "shrunk"
        config.datasets.synthetic.dir = str(drawn)
        config.model.update(
            embed_dim=32, depth=2, num_heads=4, mlp_dim=64, image_size=(64, 48), ratio=1, decoder="simple",
            drop_path=0.3,
        )  # fmt: skip
        config.augment.update(rotation_prob=0.6, scale_factor=0.3, center_jitter_prob=0.3)
        config.schedule.update(learning_rate=1e-3, warmup_steps=2)
        config.train.update(batch_size=8, epochs=2, log_every_steps=1, eval_every_epochs=0, keep_last=1)
        config.eval.update(batch_size=8)
        config.update_from_flattened_dict(changes or {})
        return config

    return make


@pytest.fixture(scope="session")
def finished_run(shrunk_config, tmp_path_factory) -> pathlib.Path:
    """The folder of a run that went through without a stop."""
    workdir = tmp_path_factory.mktemp("finished")
    train(shrunk_config(), workdir)
    return workdir
