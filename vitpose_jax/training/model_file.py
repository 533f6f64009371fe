"""What a checkpoint says of its model besides arrays: enough to use it from its folder alone."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vitpose_jax import trees
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet, keypoint_set
from vitpose_jax.models.mae import mae
from vitpose_jax.models.vitpose import vitpose

FORMAT = 1
FREE_SETTINGS = ("drop_path", "remat", "scan_unroll", "dtype")  # of the model; a run may change them on its way

# Task to the function that makes its model from plain settings.
MODELS: dict[str, Callable[..., Any]] = {"pose": vitpose, "mae": mae}


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """What, besides arrays, makes a model usable from its folder alone.

    Attributes:
        settings: keyword arguments of the task's row in `MODELS`.
        datasets: per decoder the data set's facts: `keypoint_set` (a name), `udp`; for a keypoint set that is not a
            published one also `keypoints`, its fields.
        codec: how heatmaps were made and are read: `sigma` (cells), `blur_kernel` (cells).
        task: what the model is for, a key of `MODELS`.
        trained_on: names of the data sets that the weights learned from, here or before (`DATASETS`, or "custom").
        provenance: where converted weights come from: `source` (file name), `sha256`, `converter` (its version),
            `layout`, `size`, `decoder`, `datasets`, `recognized_as` (a key of `convert.released.RELEASED`, or None).
            Empty for weights that were trained here.
    """

    settings: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    codec: Mapping[str, Any]
    task: str = "pose"
    trained_on: Sequence[str] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def keypoint_set(self, dataset: str) -> KeypointSet:
        """What a data set's decoder predicts.

        Raises:
            ValueError: the model has no such decoder, or its keypoint set is unknown.
        """
        if dataset not in self.datasets:
            raise ValueError(f"this model has no decoder for {dataset!r}, only for {sorted(self.datasets)}")
        name, own = self.datasets[dataset]["keypoint_set"], self.datasets[dataset].get("keypoints")
        if own is not None:
            return keypoint_set(name, own)
        if name not in KEYPOINT_SETS:
            raise ValueError(f"the checkpoint names the keypoint set {name!r}; known are {sorted(KEYPOINT_SETS)}")
        return KEYPOINT_SETS[name]

    def differences(self, saved: "ModelFile") -> list[str]:
        """What keeps a run with this model file from going on with a saved state: one line for each field.

        A setting that the saved file does not have yet had its default. How a model is computed may change on the way.
        """
        here, there = (trees.dotted(file._meaning()) for file in (self, saved))
        return [
            f"  {name}: {there.get(name)!r} in the checkpoint, {here.get(name)!r} in this run"
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]

    def _meaning(self) -> dict:
        known = {name: parameter.default for name, parameter in inspect.signature(MODELS[self.task]).parameters.items()}
        settings = {**known, **self.settings}
        return _plain(
            {
                "config.task": self.task,
                "config.model": {name: value for name, value in settings.items() if name not in FREE_SETTINGS},
                "data set": self.datasets,
                "config.codec": self.codec,
            }
        )

    def as_json(self) -> dict:
        """Plain dictionaries, lists, strings and numbers."""
        return {
            "format": FORMAT,
            "settings": _plain(self.settings),
            "datasets": _plain(self.datasets),
            "codec": _plain(self.codec),
            "task": self.task,
            "trained_on": _plain(self.trained_on),
            "provenance": _plain(self.provenance),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], path: os.PathLike) -> "ModelFile":
        """The model file of what `as_json` has made. Raises ValueError, naming the place, for another format."""
        if fields.get("format") != FORMAT:
            raise ValueError(f"{path} has format {fields.get('format')}, this version reads {FORMAT}")
        return cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls) if field.name in fields})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
