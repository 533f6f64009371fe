"""Sources of boxes: COCO files, the image, functions, a detector of Hugging Face's with random weights."""

import json

import numpy as np
import pytest

from vitpose_jax.data.coco_format import clean_box
from vitpose_jax.inference.boxes import Picture, box_source


def picture(name: str = "000000000139.jpg", number: int | None = None) -> Picture:
    return Picture(name, np.zeros((40, 60, 3), np.uint8), number)


def write(path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def detection(image_id: int, box, score: float = 1.0, **more) -> dict:
    return {"image_id": image_id, "category_id": 1, "bbox": box, "score": score} | more


def test_the_image_is_the_box():
    found = box_source("whole", threshold=0.5)(picture())
    assert found.bboxes_xywh.tolist() == [[0, 0, 60, 40]] and found.scores.tolist() == [1]


def test_detections_by_number_name_frame_score_and_category(tmp_path):
    path = write(
        tmp_path / "d.json",
        [
            detection(139, [1, 2, 3, 4], 0.9),
            detection(139, [5, 6, 7, 8], 0.2),
            detection(139, [9, 9, 9, 9], 0.8, category_id=17),
            detection(7, [2, 2, 2, 2], 0.7),
            detection(1, [3, 3, 3, 3], 0.6, file_name="sub/some name.png"),
        ],
    )
    source = box_source(path, threshold=0.5)
    found = source(picture("val/000000000139.jpg"))
    assert found.bboxes_xywh.tolist() == [[1, 2, 3, 4], [9, 9, 9, 9]]
    assert (found.scores.tolist(), found.category_ids.tolist(), found.image_id) == ([0.9, 0.8], [1, 17], 139)
    assert len(box_source(path, threshold=0.0)(picture()).scores) == 3
    assert box_source(path, threshold=0.5, category_ids=[17])(picture()).category_ids.tolist() == [17]
    assert source(picture("sub/some name.png")).scores.tolist() == [0.6]
    assert source(picture("clip.mp4#7", 7)).scores.tolist() == [0.7]
    assert source(picture("COCO_val2014_000000000139.jpg")).image_id == 139
    assert source(picture("140.jpg")).bboxes_xywh.shape == (0, 4)


def test_images_that_a_file_cannot_tell_apart_are_refused(tmp_path):
    by_number = write(tmp_path / "n.json", [detection(7, [1, 2, 3, 4])])
    by_name = write(tmp_path / "f.json", [detection(7, [1, 2, 3, 4], file_name=name) for name in ("a/7.jpg", "b.jpg")])
    annotations = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "bbox": [1, 2, 3, 4]}],
    }
    by_annotation = write(tmp_path / "a.json", annotations)
    for path in (by_number, by_annotation):
        with pytest.raises(ValueError, match=r"a/7\.jpg and b/7\.jpg are both image 7"):
            box_source(path, threshold=0.5, names=["a/7.jpg", "b/7.jpg"])
    with pytest.raises(ValueError, match="are both image 7"):
        box_source(by_name, threshold=0.5, names=["a/7.jpg", "b.jpg"])
    for path in (by_number, by_name):
        with pytest.raises(ValueError, match=r"no box for any of the 2 images: .* as in 'x/a\.jpg'"):
            box_source(path, threshold=0.5, names=["x/a.jpg", "x/8.jpg"])
    with pytest.raises(ValueError, match=r"none of the 1 images is in .*'7\.jpg'"):
        box_source(by_annotation, threshold=0.5, names=["8.jpg"])
    assert box_source(by_name, threshold=0.5, names=["a/7.jpg"])(picture("c/7.jpg")).image_id is None


def test_annotations_are_cleaned_as_for_evaluation(tmp_path):
    content = {
        "images": [{"id": 5, "file_name": "sub/a.jpg"}, {"id": 6, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 5, "category_id": 1, "bbox": [-3, 4, 30, 30]},
            {"image_id": 5, "category_id": 2, "bbox": [1, 1, 10, 10]},
            {"image_id": 5, "category_id": 1, "bbox": [1, 1, 50, 20], "iscrowd": 1},
            {"image_id": 5, "category_id": 1, "bbox": [70, 1, 50, 20]},
        ],
    }
    source = box_source(write(tmp_path / "a.json", content), threshold=0.9)
    found = source(picture("sub/a.jpg"))
    expected = [clean_box(np.array(box, float), (40, 60)) for box in ([-3, 4, 30, 30], [1, 1, 10, 10])]
    assert found.bboxes_xywh.tolist() == expected and found.image_id == 5
    assert source(picture("elsewhere/a.jpg")).image_id == 5  # the only one of that name
    assert len(source(picture("b.jpg")).scores) == 0
    with pytest.raises(ValueError, match=r"c\.jpg is not among the images"):
        source(picture("c.jpg"))


def only_boxes(image):
    return [[0, 0, image.shape[1], 5]]


def boxes_and_scores(image):
    return np.array([[0, 0, 9, 9], [1, 1, 9, 9]]), [0.9, 0.1]


def nothing(image):
    return None


def one_score_for_two(image):
    return [[0, 0, 9, 9], [1, 1, 9, 9]], [0.9]


def test_functions():
    found = box_source(f"{__name__}:only_boxes", threshold=0.5)(picture())
    assert found.bboxes_xywh.tolist() == [[0, 0, 60, 5]] and found.scores.tolist() == [1]
    assert box_source(f"{__name__}:boxes_and_scores", threshold=0.5)(picture()).scores.tolist() == [0.9]
    for name in ("nothing", "one_score_for_two"):
        with pytest.raises(ValueError, match=rf"{name} returned .*; expected boxes \[P, 4\], or"):
            box_source(f"{__name__}:{name}", threshold=0.5)(picture())


def test_sources_that_are_none_are_refused(tmp_path):
    for source, expected in (
        ("everything", "expected FILE.json"),
        ("nowhere.json", "no file nowhere.json"),
        ("no_module:function", "no function 'function' in a module 'no_module'"),
        ("json:nothing", "no function 'nothing'"),
        (write(tmp_path / "1.json", [{"image_id": 1}]), "box number 0 is not an object with"),
        (write(tmp_path / "2.json", [detection(1, [1, 2, 3])]), "its bbox has 3 numbers"),
        (write(tmp_path / "3.json", [detection(1, [1, 2, 3, 4], 0.1)]), "no box with a score of at least 0.5"),
        (write(tmp_path / "4.json", {"images": []}), "neither a list of detections nor an annotation file"),
        (write(tmp_path / "5.json", {"images": [], "annotations": []}), "has no boxes"),
    ):
        with pytest.raises(ValueError, match=expected):
            box_source(source, threshold=0.5)


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    """RT-DETR, the default detector's kind, tiny and with random weights."""
    import torch
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil, RTDetrResNetConfig

    folder = str(tmp_path_factory.mktemp("detector"))
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[16] * 3, encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=30, decoder_in_channels=[16] * 3, decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_n_points=2, num_denoising=0,
        id2label={0: "person", 1: "dog"}, label2id={"person": 0, "dog": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_detector_of_hugging_face(detector_folder):
    photo = Picture("a.jpg", np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))
    both = box_source(f"detector:{detector_folder}", threshold=0.0, labels=["dog", "person"])(photo)
    assert len(both.scores) and (np.diff(both.scores) <= 0).all()
    left, top, width, height = both.bboxes_xywh.T
    assert (left >= 0).all() and (top >= 0).all() and (width > 0).all() and (height > 0).all()
    assert (left + width <= 120).all() and (top + height <= 80).all()
    middle = float(np.median(both.scores))
    people = box_source(f"detector:{detector_folder}", threshold=middle)(photo)
    assert 0 < len(people.scores) < len(both.scores) and people.scores.min() > middle
    assert set(people.scores) < set(both.scores)


def test_detectors_that_are_none_are_refused(detector_folder, monkeypatch):
    with pytest.raises(ValueError, match="knows no cat; it knows dog, person"):
        box_source(f"detector:{detector_folder}", threshold=0.5, labels=["cat"])
    with pytest.raises(ValueError, match="no object detector"):
        box_source("detector:/no/such/folder", threshold=0.5)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers torch"):
        box_source("detector", threshold=0.5)
