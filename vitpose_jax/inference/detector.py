"""People by an object detector of Hugging Face's hub, where transformers and PyTorch are installed."""

from collections.abc import Callable, Collection

import numpy as np

# RT-DETR, Apache-2.0, trained on COCO; YOLO models of the same speed are AGPL.
DEFAULT_DETECTOR = "PekingU/rtdetr_r50vd"

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def hugging_face_detector(
    name: str | None = None, *, threshold: float = 0.3, labels: Collection[str] = ("person",)
) -> Detector:
    """A detector by its name on the hub, or the path of its folder. A name is downloaded once.

    Args:
        name: of a model for object detection; None for `DEFAULT_DETECTOR`.
        threshold: detections below this confidence are left out.
        labels: what to look for, in the model's own words.

    Returns:
        From uint8 [H, W, 3], RGB to (bboxes_xywh float64 [P, 4], clipped to the image, scores float64 [P]), the surest
        first.

    Raises:
        ImportError: transformers or PyTorch is missing.
        ValueError: there is no such model, or it does not know a label.
    """
    try:
        import PIL.Image
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"a detector needs transformers and PyTorch, and {error.name} is missing: pip install transformers torch "
            "pillow; or give boxes from a file"
        ) from error
    name = name or DEFAULT_DETECTOR
    try:
        pipeline = transformers.pipeline(
            "object-detection", model=name, device="cuda" if torch.cuda.is_available() else "cpu"
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no object detector {name!r} could be loaded: {error}") from error
    known = {str(label) for label in (pipeline.model.config.id2label or {}).values()}
    unknown = sorted(set(labels) - known)
    if unknown:
        raise ValueError(f"detector {name} knows no {', '.join(unknown)}; it knows {', '.join(sorted(known))}")

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = pipeline(PIL.Image.fromarray(image), threshold=threshold)
        found = sorted((each for each in found if each["label"] in labels), key=lambda each: -each["score"])
        corners = np.array([[each["box"][k] for k in ("xmin", "ymin", "xmax", "ymax")] for each in found], np.float64)
        corners = corners.reshape(-1, 2, 2).clip(0, image.shape[1::-1])
        bboxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
        scores = np.array([each["score"] for each in found], np.float64)
        extended = (bboxes[:, 2:] > 0).all(axis=1)
        return bboxes[extended], scores[extended]

    return detect
