"""A folder of images becomes a built set in one pass; what is broken is named; what is finished is not read again."""

import pathlib
import time

import cv2
import numpy as np
import pytest

from vitpose_jax.data import build as builder
from vitpose_jax.data import datasets, shards
from vitpose_jax.data.report import FAULTS_FILE


def write_image(path: pathlib.Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 5, 30, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def source(tmp_path):
    """Two classes to train on, one image held out, as ImageNet has them; and a file that is no image."""
    for i in range(6):
        write_image(tmp_path / f"source/train/n0{i % 2}/n0{i % 2}_{i}.JPEG", i)
    write_image(tmp_path / "source/train/n01/picture.png", 7)
    write_image(tmp_path / "source/val/n00/held_out.JPEG", 8)
    (tmp_path / "source/train/LOC_synset_mapping.txt").write_text("n00 fish")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(source, out, *arguments) -> int:
    return builder.main(["images", "--source", str(source), "--out", str(out), *arguments])


def stored(out, split: str) -> dict[str, bytes]:
    images = datasets.open_images(out, split)
    return {name: jpeg for jpeg, name in map(images.read, range(len(images)))}


def test_every_image_is_there_untouched(source, out, capsys):
    assert run(source, out) == 0
    for split, count in (("train", 7), ("val", 1)):
        found = stored(out, split)
        assert len(found) == count
        assert all((source / name).read_bytes() == jpeg for name, jpeg in found.items())
    assert "train 7 images, val 1 images" in capsys.readouterr().out
    assert (out / "report.txt").read_text().startswith("train: 7 images")
    assert (out / "report.jpg").stat().st_size


def test_no_file_is_read_twice(source, out, monkeypatch):
    reads = []
    read = pathlib.Path.read_bytes
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: (reads.append(path), read(path))[1])
    assert run(source, out) == 0
    images = [path for path in reads if source in path.parents]
    assert len(images) == len(set(images)) == 8
    assert run(source, out) == 0  # all is there: nothing is read
    assert len([path for path in reads if source in path.parents]) == 8


def test_broken_files_are_named_and_only_their_shard_is_read_again(source, out, monkeypatch, capsys):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # one image a shard
    good = (source / "train/n01/n01_1.JPEG").read_bytes()
    (source / "train/n01/n01_1.JPEG").write_bytes(good[: len(good) // 2])
    (source / "train/n00/n00_2.JPEG").write_bytes(b"not an image at all")
    (source / "train/n00/z.jpg").symlink_to("nowhere.jpg")
    assert run(source, out) == 2
    said = capsys.readouterr().err
    assert "3 files are broken" in said and "train/n01/n01_1.JPEG: JPEG file" in said and "n00_2.JPEG" in said
    assert "train/n00/z.jpg: cannot be read: No such file" in said
    assert len((out / FAULTS_FILE).read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="unfinished"):
        datasets.open_images(out, "train")

    reads = []
    read = pathlib.Path.read_bytes
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: (reads.append(path.name), read(path))[1])
    (source / "train/n01/n01_1.JPEG").write_bytes(good)
    assert run(source, out) == 2
    assert [name for name in reads if name.endswith("EG")] == ["n00_2.JPEG", "n01_1.JPEG"]
    assert run(source, out, "--skip-broken") == 0
    assert [name for name in reads if name.endswith("EG")] == ["n00_2.JPEG", "n01_1.JPEG"]
    assert set(stored(out, "train")) == {
        path.relative_to(source).as_posix()
        for path in source.glob("train/*/*")
        if path.name not in ("n00_2.JPEG", "z.jpg")
    }


def test_a_repaired_file_moves_no_other_into_another_shard(tmp_path, out, monkeypatch):
    names = [f"{i:02d}.jpg" for i in range(12)]
    for name in names:
        write_image(tmp_path / "plain" / name, seed=0)
    good = (tmp_path / "plain/00.jpg").read_bytes()
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * len(good))
    for name in names[:2]:
        (tmp_path / "plain" / name).write_bytes(good[: len(good) // 2])  # so that four files fit into the first shard
    assert run(tmp_path / "plain", out) == 2
    for name in names[:2]:
        (tmp_path / "plain" / name).write_bytes(good)
    reads = []
    read = pathlib.Path.read_bytes
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: (reads.append(path.name), read(path))[1])
    assert run(tmp_path / "plain", out) == 0
    assert [name for name in reads if name in names] == names[:4]
    assert stored(out, "train").keys() == set(names)


def test_a_stopped_build_goes_on(source, out, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    write, written = shards.write_shard, []

    def stop_after_three(path, records):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, records)

    monkeypatch.setattr(shards, "write_shard", stop_after_three)
    assert run(source, out) == 130
    monkeypatch.setattr(shards, "write_shard", lambda path, records: (written.append(path.name), write(path, records)))
    assert run(source, out) == 0
    assert len(written) == len(set(written)) == 8
    assert len(stored(out, "train")) == 7


def test_other_files_in_the_source_make_other_shards(source, out):
    assert run(source, out) == 0
    write_image(source / "train/n00/new.jpg", 11)
    assert run(source, out) == 0
    assert "train/n00/new.jpg" in stored(out, "train")


def test_a_plain_folder_holds_a_fraction_out(tmp_path, out):
    for i in range(60):
        write_image(tmp_path / f"plain/{i}.jpg", i)
    assert run(tmp_path / "plain", out, "--val-fraction", "0.25") == 0
    train, val = stored(out, "train"), stored(out, "val")
    assert len(train) + len(val) == 60 and not train.keys() & val.keys()
    assert 5 <= len(val) <= 25


@pytest.mark.parametrize("arguments, message", [
    (["--val-fraction", "0.5"], "has a folder val"),
    (["--splits", "test"], "not ['test']"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence(source, out, capsys, arguments, message):
    assert run(source, out, *arguments) == 1
    assert message in capsys.readouterr().err


def test_images_without_annotations_are_no_poses(source, out):
    assert run(source, out) == 0
    with pytest.raises(ValueError, match="images without annotations"):
        datasets.open_split(out, "train")


def test_a_million_names_fit_in_memory_and_are_grouped_quickly():
    """Planning the shards of ImageNet takes seconds; only names and sizes are held."""
    begin = time.process_time()
    ranges = shards.ranges([110_000] * 1_281_167)
    assert ranges[0] == (0, 1220) and ranges[-1][1] == 1_281_167
    assert time.process_time() - begin < 10
