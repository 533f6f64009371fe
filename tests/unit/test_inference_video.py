"""Videos: frame times, broken frames, identities over frames, smoothing."""

import dataclasses
import fractions

import av
import numpy as np
import pytest

from tests.fake_estimator import FakeEstimator
from vitpose_jax.data.video import VideoFile, upright, video_writer
from vitpose_jax.inference.boxes import make_boxes
from vitpose_jax.inference.journal import Journal, read
from vitpose_jax.inference.tracking import Smoother, Tracker
from vitpose_jax.inference.video import predict_video
from vitpose_jax.interrupt import Guard

NTSC = fractions.Fraction(30000, 1001)
SIZE = (48, 80)


def frame(number: int, size=SIZE) -> np.ndarray:
    """A square that wanders over a grey ground."""
    pixels = np.full((*size, 3), 90, np.uint8)
    pixels[10:30, 2 * number : 2 * number + 20] = (230, 60, 40)
    return pixels


def write_video(path, count: int = 12, *, rate=NTSC, gap: int = 0, size=SIZE) -> None:
    """`gap`: so many frames' time passes before the last frame."""
    time_base = 1 / (rate * 1000)
    with video_writer(path, rate=rate, time_base=time_base) as write:
        for number in range(count):
            write(frame(number, size), 1000 * (number + (gap if number == count - 1 else 0)))


def two_people(picture):
    """One walks right, one stands; they change places in the list."""
    boxes = [[2 * picture.number, 10, 20, 20], [50, 20, 18, 24]]
    return make_boxes(boxes[:: 1 if picture.number % 2 else -1])


def predict(path, out, boxes=two_people, stop=None, **settings) -> list[dict]:
    journal = Journal(out / "poses.jsonl", {}, anew=True)
    predict_video(
        path, FakeEstimator(), boxes, journal, stop or Guard(), drawn=out / "drawn.mp4", threshold=0.3,
        **{"track": False, "smooth": False, "progress": False} | settings,
    )  # fmt: skip
    journal.close()
    return list(read(journal.path))


def test_frames_keep_their_rate_and_times(tmp_path):
    write_video(tmp_path / "in.mp4", gap=5)
    lines = predict(tmp_path / "in.mp4", tmp_path / "out")
    assert [line["frame"] for line in lines] == list(range(12))
    before, after = (list(VideoFile(path).frames()) for path in (tmp_path / "in.mp4", tmp_path / "out/drawn.mp4"))
    expected = [number / NTSC for number in (*range(11), 16)]
    np.testing.assert_allclose([each.time_s for each in before], np.array(expected, float), atol=1e-4)
    np.testing.assert_allclose([each.time_s for each in after], [each.time_s for each in before], atol=1e-4)
    np.testing.assert_allclose([line["time_s"] for line in lines], [each.time_s for each in before], atol=1e-6)
    write_video(tmp_path / "even.mp4")
    predict(tmp_path / "even.mp4", tmp_path / "out")
    assert VideoFile(tmp_path / "out/drawn.mp4").rate == VideoFile(tmp_path / "even.mp4").rate == NTSC
    plain, drawn = (
        next(VideoFile(path).frames()).pixels for path in (tmp_path / "even.mp4", tmp_path / "out/drawn.mp4")
    )
    assert plain.shape == drawn.shape and np.abs(plain.astype(int) - drawn).max() > 60  # a pose is on it
    assert np.median(np.abs(plain.astype(int) - drawn)) < 6


def test_odd_sizes_are_made_even(tmp_path):
    write_video(tmp_path / "in.mp4", 3, size=(47, 79))
    assert next(VideoFile(tmp_path / "in.mp4").frames()).pixels.shape == (48, 80, 3)


def test_frames_are_turned_as_the_phone_was_held():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    assert upright(pixels, 0)[0, 0, 0] == 255
    assert upright(pixels, -90).shape == (3, 2, 3) and upright(pixels, -90)[0, 1, 0] == 255  # clockwise
    assert upright(pixels, 90)[2, 0, 0] == 255 and upright(pixels, 180)[1, 2, 0] == 255


def test_broken_frames_are_told_and_the_rest_is_saved(tmp_path, capsys):
    write_video(tmp_path / "whole.mp4", 40)
    data = bytearray((tmp_path / "whole.mp4").read_bytes())
    with av.open(str(tmp_path / "whole.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets]
    for position, size in places[20:22]:
        data[position : position + size] = b"\xff" * size
    (tmp_path / "broken.mp4").write_bytes(data)
    lines = predict(tmp_path / "broken.mp4", tmp_path / "out")
    broken = [line for line in lines if "error" in line]
    assert len(broken) >= 1 and len(lines) - len(broken) >= 20
    assert "skipped broken.mp4#" in capsys.readouterr().err
    assert len(list(VideoFile(tmp_path / "out/drawn.mp4").frames())) == len(lines) - len(broken)

    def boxes(picture):
        return make_boxes([[500, 0, 5, 5]]) if picture.number == 3 else two_people(picture)

    write_video(tmp_path / "in.mp4")
    lines = predict(tmp_path / "in.mp4", tmp_path / "out", boxes)
    assert [line.get("frame") for line in lines] == [0, 1, 2, None, *range(4, 12)]
    assert len(list(VideoFile(tmp_path / "out/drawn.mp4").frames())) == 12  # the frame itself is sound

    for name, content in (("text.mp4", b"text"), ("cut.mp4", bytes(data[:2000]))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as a video|no video in it"):
            predict(tmp_path / name, tmp_path / "out")


def test_people_keep_their_identity(tmp_path):
    write_video(tmp_path / "in.mp4", 14)

    def boxes(picture):
        found = two_people(picture)
        if picture.number in (5, 6):  # the one who stands is out of sight
            return make_boxes(found.bboxes_xywh[found.bboxes_xywh[:, 0] != 50])
        return found

    lines = predict(tmp_path / "in.mp4", tmp_path / "out", boxes, track=True)
    assert not any("track_id" in pose for pose in lines[0]["poses"])  # known from the second frame on
    stands = {pose["track_id"] for line in lines[1:] for pose in line["poses"] if pose["bbox"][0] == 50}
    walks = {pose["track_id"] for line in lines[1:] for pose in line["poses"] if pose["bbox"][0] != 50}
    assert len(stands) == len(walks) == 1 and stands != walks


def test_a_box_that_is_not_sure_has_no_identity():
    estimator = FakeEstimator()
    tracker, poses = Tracker(30.0), [estimator.pose([0, 0, 20, 20], 0.9), estimator.pose([50, 0, 20, 20], 0.2)]
    tracker(poses)
    found = tracker(poses)
    assert found[0].track_id is not None and found[1].track_id is None
    assert Tracker(30.0)([]) == []


def test_smoothing_steadies_at_rest_and_follows_in_motion():
    rng = np.random.default_rng(0)
    smoother, moving = Smoother(), Smoother()
    rest, motion = [], []
    for number in range(60):
        pose = dataclasses.replace(FakeEstimator().pose([100, 100, 80, 120], 1.0), track_id=1)
        noise = rng.normal(0, 1, pose.keypoints.shape).astype(np.float32)
        noisy = dataclasses.replace(pose, keypoints=pose.keypoints + noise)
        rest.append(smoother([noisy], number / 30)[0].keypoints - pose.keypoints)
        shift = np.float32(10 * number)
        quick = dataclasses.replace(pose, keypoints=pose.keypoints + shift)
        motion.append(moving([quick], number / 30)[0].keypoints - quick.keypoints)
    assert np.std(rest[20:]) < 0.6
    assert np.abs(motion[30:]).max() < 10  # of 300 pixels a second, less than a frame's way
    stranger = FakeEstimator().pose([0, 0, 10, 10], 1.0)
    assert smoother([stranger], 3.0)[0] is stranger
    back = dataclasses.replace(FakeEstimator().pose([0, 0, 10, 10], 1.0), track_id=1)
    np.testing.assert_array_equal(smoother([back], 60.0)[0].keypoints, back.keypoints)  # after a long absence, anew


def test_a_stop_leaves_a_video_that_plays(tmp_path):
    write_video(tmp_path / "in.mp4", 40)
    stop = Guard()

    def boxes(picture):
        stop.requested = picture.number >= 6
        return two_people(picture)

    lines = predict(tmp_path / "in.mp4", tmp_path / "out", boxes, stop)
    assert 6 < len(lines) < 40 and len(list(VideoFile(tmp_path / "out/drawn.mp4").frames())) == len(lines)
