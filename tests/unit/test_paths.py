"""Names of places; a bucket, played by a local folder behind the same interface, holds what a run writes."""

import json

import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem

from tests.coco_folder import write_coco
from vitpose_jax import draw, paths
from vitpose_jax.data import build, datasets
from vitpose_jax.evaluation.results import write_results
from vitpose_jax.training import log


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://bucket lies in a folder: everything else is what paths in buckets go through."""

    class Bucket(LocalFileSystem):
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).replace("gs://bucket", str(tmp_path / "bucket"))

    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(backend._FileSystemSpecBackend, "_get_filesystem", lambda self, name: Bucket())
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: name == "gcsfs")
    return tmp_path / "bucket"


def test_names(tmp_path):
    assert paths.path(f"file://{tmp_path}/a%20b") == paths.path(tmp_path / "a b")
    assert not paths.in_bucket(paths.path(tmp_path))
    with pytest.raises(ValueError, match="s3://x/y: expected a path, file:///… or gs://"):
        paths.path("s3://x/y")


def test_a_bucket_without_what_reads_it(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install gcsfs"):
        paths.path("gs://bucket/run")


def test_what_a_run_writes_goes_to_a_bucket(bucket):
    first = log.ScalarLog("gs://bucket/run", start_step=0)
    for step in (1, 2):
        first.write(step, {"loss": 0.5})
    first.close()
    second = log.ScalarLog("gs://bucket/run", start_step=1)  # resumed from step 1
    second.write(2, {"loss": 0.25})
    second.close()
    lines = [json.loads(line) for line in (bucket / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert list((bucket / "run" / "tensorboard").glob("events*"))
    draw.save_image("gs://bucket/run/samples/x.png", np.zeros((4, 4, 3), np.uint8))
    write_results("gs://bucket/run/results.json", [{"image_id": 1}])
    written = sorted(str(file.relative_to(bucket)) for file in bucket.rglob("*") if file.is_file())
    assert [name for name in written if "tensorboard" not in name] == [
        "run/metrics.jsonl", "run/results.json", "run/samples/x.png",
    ]  # fmt: skip


def test_a_log_in_a_bucket_is_copied_while_it_grows(bucket, monkeypatch):
    monkeypatch.setattr(log, "_UPLOAD_SECONDS", 0.0)
    growing = log.ScalarLog("gs://bucket/run", start_step=0)
    growing.write(1, {"loss": 0.5})
    assert (bucket / "run" / "metrics.jsonl").read_text().startswith('{"step": 1')
    growing.close()


def test_a_silent_log_writes_nothing(tmp_path):
    silent = log.ScalarLog(tmp_path / "run", start_step=0, silent=True)
    silent.write(1, {"loss": 0.5})
    silent.close()
    assert not list(tmp_path.iterdir())


def test_a_data_set_at_a_file_address(tmp_path):
    write_coco(tmp_path / "source", train=2, val=2, people=1)
    build.build("coco", tmp_path / "source", tmp_path / "built")
    split = datasets.open_split(f"file://{tmp_path}/built", "val")
    assert split.pixels(0).ndim == 3
    assert len(datasets.detection_boxes(split)) > 0
