"""Run a model over an evaluation set: crops in, keypoints in image pixels out, metrics and a picture from these."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vitpose_jax import codec, draw, geometry
from vitpose_jax.data import pipeline
from vitpose_jax.data.datasets import Split, detection_boxes
from vitpose_jax.data.tables import Instances
from vitpose_jax.evaluation import baseline
from vitpose_jax.evaluation.results import SUPPRESSIONS, Evaluation, Predictions
from vitpose_jax.evaluation.scoring import HEADLINE, METRICS, check_boxes, check_files
from vitpose_jax.evaluation.truncation import check_truncation, truncated_split
from vitpose_jax.models import inference_weights
from vitpose_jax.models.placement import in_chunks
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import sharding

BOXES = ("annotations", "detections")

# (variables, uint8 images [B, H, W, 3], crop_to_image [B, 2, 3]) to (points_img [B, K, 2], scores [B, K]).
PredictFunction = Callable[[Mapping, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_heatmaps(
    model: ViTPose, *, dataset: str, flip_index: np.ndarray, udp: bool, flip_test: bool
) -> Callable[[Mapping, jax.Array], jax.Array]:
    """The function from (variables, uint8 crops [B, H, W, 3]) to heatmaps, float32 [B, h, w, K].

    Args:
        model: has a decoder of `dataset`.
        dataset: name of the decoder.
        flip_index: int [K], `KeypointSet.flip_index`.
        udp: convention of the data set's crops and targets.
        flip_test: average with the heatmaps of the mirrored crop.
    """

    def once(variables: Mapping, crops: jax.Array) -> jax.Array:
        outputs: Any = model.apply(variables, crops, train=False, datasets=(dataset,))
        return outputs[dataset]

    def twice(variables: Mapping, crops: jax.Array) -> jax.Array:
        mirrored = once(variables, crops[:, :, ::-1])
        return codec.merge_flip(once(variables, crops), mirrored, jnp.asarray(flip_index), shift=not udp)

    return twice if flip_test else once


def make_predict(
    model: ViTPose, *, dataset: str, flip_index: np.ndarray, udp: bool, flip_test: bool, blur_kernel: int
) -> PredictFunction:
    """The function from crops to keypoints that evaluation and inference jit: model, flip test, decoding, mapping.

    Args:
        model: has a decoder of `dataset`.
        dataset: see `make_heatmaps`.
        flip_index: see `make_heatmaps`.
        udp: decides decoding, too.
        flip_test: see `make_heatmaps`.
        blur_kernel: cells, for UDP decoding, see `codec.decode`.
    """
    heatmaps_of = make_heatmaps(model, dataset=dataset, flip_index=flip_index, udp=udp, flip_test=flip_test)

    def predict(variables: Mapping, images: jax.Array, crop_to_image: jax.Array) -> tuple[jax.Array, jax.Array]:
        heatmaps = heatmaps_of(variables, images)
        points, scores = codec.decode(heatmaps, method="dark_udp" if udp else "quarter_shift", blur_kernel=blur_kernel)
        points = codec.points_to_crop(points, crop_size=model.image_size, heatmap_size=model.heatmap_size, udp=udp)
        return codec.points_to_image(points, crop_to_image), scores

    return predict


class Evaluator:
    """Evaluates a model on one split of one data set, as often as wanted, compiling once.

    Args:
        model: has a decoder called `dataset`.
        split: where images and annotations are.
        dataset: name of the decoder.
        mesh: devices to run on.
        blur_kernel: cells, see `codec.decode`.
        batch_size: crops per step, of all devices together; rounded up to what they can share.
        boxes: "annotations", or "detections" for a detector's boxes.
        detections_file: the detector's boxes; None takes the file that the data set was built with.
        detection_score_threshold: boxes below this confidence are left out.
        flip_test: average with the mirrored crop.
        suppression: "oks", "soft_oks" or "none". This and the next two mean something to metrics of average precision
            only; PCKh, PCK, AUC and EPE rank and suppress nobody.
        oks_threshold: people more alike than this are one.
        min_keypoint_score: keypoints above this count in an instance's score.
        num_workers: worker processes of the input stream; 0 uses threads.
        num_threads: threads of the input stream without workers.

    Raises:
        ValueError: for a setting outside these, if the model's decoder and the data set differ in keypoints, or if the
            split was built without a file that its metric needs.
    """

    def __init__(
        self,
        model: ViTPose,
        split: Split,
        *,
        dataset: str,
        mesh: Mesh,
        blur_kernel: int = 11,
        batch_size: int = 64,
        boxes: str = "annotations",
        detections_file: str | None = None,
        detection_score_threshold: float = 0.0,
        flip_test: bool = True,
        suppression: str = "oks",
        oks_threshold: float = 0.9,
        min_keypoint_score: float = 0.2,
        num_workers: int = 0,
        num_threads: int = 4,
    ):
        if boxes not in BOXES:
            raise ValueError(f"eval boxes must be one of {BOXES}, not {boxes!r}")
        if suppression not in SUPPRESSIONS:
            raise ValueError(f"eval suppression must be one of {SUPPRESSIONS}, not {suppression!r}")
        if blur_kernel < 1 or blur_kernel % 2 == 0:
            raise ValueError(f"codec blur_kernel must be odd and positive, not {blur_kernel}")
        batch_size = sharding.rounded_up(batch_size, mesh, name="config.eval.batch_size")
        check_decoder(model, split, dataset)
        check_boxes(split.dataset.metric, boxes)
        check_files(split)
        self.split, self.dataset, self.model, self._boxes = split, dataset, model, boxes
        self.keypoint_set = split.keypoint_set
        self.instances = (
            split.instances
            if boxes == "annotations"
            else detection_boxes(split, detections_file, score_threshold=detection_score_threshold)
        )
        self._mesh = mesh
        self._stream_settings: dict[str, Any] = {
            "crop_size": model.image_size, "udp": split.dataset.udp, "batch_size": batch_size,
            "rows": sharding.process_rows(batch_size, mesh), "num_workers": num_workers, "num_threads": num_threads,
        }  # fmt: skip
        self._scoring: dict[str, Any] = {
            "suppression": suppression, "oks_threshold": oks_threshold, "min_keypoint_score": min_keypoint_score,
        }  # fmt: skip
        predict = make_predict(
            model, dataset=dataset, flip_index=self.keypoint_set.flip_index, udp=split.dataset.udp,
            flip_test=flip_test, blur_kernel=blur_kernel,
        )  # fmt: skip
        self._predict = jax.jit(sharding.on_mesh(in_chunks(predict), mesh))

    @property
    def headline(self) -> str:
        """The metric that stands for all of this data set's."""
        return HEADLINE[self.split.dataset.metric]

    def __call__(
        self, variables: Mapping, *, progress: bool = True, between_batches: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Predicts every instance once and scores the result.

        Several processes predict together; each of them gets all predictions and the same result.

        Args:
            variables: {"params", "batch_stats"}.
            progress: show a progress bar.
            between_batches: called before each batch, by all processes; ends the evaluation by raising.
        """
        keypoints, scores = self._run(variables, self.instances, progress=progress, between_batches=between_batches)
        return self._score(Predictions(keypoints=keypoints, scores=scores, **self._identity(self.instances)))

    def truncated(self, variables: Mapping, part: str, *, progress: bool = True) -> Evaluation:
        """Predicts and scores half of every annotated box, see `truncation`.

        Args:
            variables: {"params", "batch_stats"}.
            part: one of `data.truncate.PARTS`.
            progress: show a progress bar.

        Raises:
            ValueError: for another part, or where there is no average precision of annotated boxes.
        """
        check_truncation(self.split, self._boxes)
        with truncated_split(self.split, part) as (split, pictures_ltrb):
            keypoints, scores = self._run(variables, split.instances, progress=progress, pictures_ltrb=pictures_ltrb)
            predictions = Predictions(keypoints=keypoints, scores=scores, **self._identity(split.instances))
            return METRICS[split.dataset.metric](predictions, split, **self._scoring)

    def mean_pose(self, train_split: Split) -> Evaluation:
        """What predicting the training set's mean pose in every box scores: the zero of this evaluation."""
        pose = baseline.mean_pose(train_split.instances.keypoints, train_split.instances.bbox_xywh)
        identity = self._identity(self.instances)
        return self._score(baseline.predict_mean_pose(pose, self.instances.bbox_xywh, **identity))

    def picture(self, variables: Mapping, *, count: int = 12) -> np.ndarray:
        """Predictions beside ground truth for a fixed choice of annotated instances.

        Args:
            variables: {"params", "batch_stats"}.
            count: how many instances, evenly spaced over the split.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        rows = np.unique(np.linspace(0, len(self.split) - 1, min(count, len(self.split))).round().astype(int))
        chosen = self.split.instances.take(rows)
        keypoints, scores = self._run(variables, chosen, progress=False)
        at_once = {"batch_size": len(chosen), "rows": None, "num_workers": 0}
        shown = next(pipeline.eval_stream(chosen, self.split, **self._stream_settings | at_once))
        order = np.argsort(shown["instance"])
        samples = []
        for row in range(len(chosen)):
            image_to_crop = geometry.invert(shown["crop_to_image"][order[row]])
            samples.append(
                draw.Comparison(
                    image=shown["image"][order[row]],
                    truth=geometry.transform(image_to_crop, chosen.keypoints[row, :, :2]),
                    truth_weights=chosen.keypoints[row, :, 2],
                    prediction=geometry.transform(image_to_crop, keypoints[row]),
                    scores=scores[row],
                    title=f"image {chosen.image_id[row]}",
                )
            )
        return draw.draw_comparison(samples, self.keypoint_set)

    def _run(
        self,
        variables: Mapping,
        instances: Instances,
        *,
        progress: bool,
        between_batches: Callable[[], None] = lambda: None,
        pictures_ltrb: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, K, 2] and scores [P, K] by row of `instances`."""
        num_keypoints = len(self.keypoint_set)
        keypoints = np.full((len(instances), num_keypoints, 2), np.nan, np.float32)
        scores = np.full((len(instances), num_keypoints), np.nan, np.float32)
        stream = pipeline.eval_stream(instances, self.split, pictures_ltrb=pictures_ltrb, **self._stream_settings)
        bar = progress_bar(
            desc=f"evaluate {self.dataset}", unit=" crops", total=len(instances),
            show=progress and jax.process_index() == 0,
        )  # fmt: skip
        variables = inference_weights.prepared(self.model, variables)
        in_flight: list[Any] = []

        def collect(done: dict[str, jax.Array]) -> None:
            host = multihost_utils.process_allgather(done, tiled=True)
            valid = host["valid"]
            keypoints[host["instance"][valid]] = host["points"][valid]
            scores[host["instance"][valid]] = host["scores"][valid]
            bar.update(int(valid.sum()))

        with bar, contextlib.closing(stream):
            for batch in stream:
                between_batches()
                on_device = sharding.global_batch(batch, self._mesh)
                points, values = self._predict(variables, on_device["image"], on_device["crop_to_image"])
                in_flight.append(
                    {"points": points, "scores": values, "instance": on_device["instance"], "valid": on_device["valid"]}
                )
                if len(in_flight) > 1:  # the device works on one batch while the host cuts the next
                    collect(in_flight.pop(0))
            for done in in_flight:
                collect(done)
        return keypoints, scores

    def _identity(self, instances: Instances) -> dict[str, np.ndarray]:
        """What predictions say of their boxes."""
        height, width = self.model.image_size
        return {
            "box_cxcywh": self.split.dataset.regions(instances.bbox_xywh, aspect_ratio=width / height),
            "bbox_scores": instances.bbox_score,
            "image_ids": instances.image_id,
            "instance_ids": instances.bbox_id,
            "category_ids": instances.category_id,
        }

    def _score(self, predictions: Predictions) -> Evaluation:
        return METRICS[self.split.dataset.metric](predictions, self.split, **self._scoring)


def check_decoder(model: ViTPose, split: Split, dataset: str) -> None:
    """Raises ValueError unless the model has a decoder for the data set with as many keypoints as it annotates."""
    found = model.num_keypoints.get(dataset)
    if found != len(split.keypoint_set):
        raise ValueError(
            f"data set {dataset!r} annotates {len(split.keypoint_set)} keypoints, the model's decoders have "
            f"{dict(model.num_keypoints)}; set config.model.num_keypoints.{dataset}={len(split.keypoint_set)}"
        )
