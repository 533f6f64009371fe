"""Evaluate masked-autoencoder pre-training: the loss on held-out images, and pictures of what the model paints."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vitpose_jax import draw, geometry
from vitpose_jax.data.views import Views, eval_stream
from vitpose_jax.models import mae
from vitpose_jax.models.vitpose import IMAGE_MEAN, IMAGE_STD, normalize
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import sharding

_TILE_HEIGHT = 160  # of a picture's tiles, pixels, if images are not larger
_GREY = 127  # of masked patches


class Reconstructed(NamedTuple):
    """What an evaluation found: `metrics` has `loss`, the lower the better."""

    metrics: dict[str, float]


class ReconstructionEvaluator:
    """Evaluates a masked autoencoder on one split, as often as wanted, compiling once.

    What is masked of an image depends on `seed` and on the image's number only, so that losses of different steps,
    batch sizes and devices are those of the same patches.

    Args:
        model: the masked autoencoder.
        views: held-out images.
        dataset: name for progress bars.
        mesh: devices to run on.
        batch_size: images per step, of all devices together; rounded up to what they can share.
        max_images: how many to look at, evenly spaced over the split; all if there are fewer.
        seed: of the masks.
        num_workers: worker processes of the input stream; 0 uses threads.
        num_threads: threads of the input stream without workers.

    Raises:
        ValueError: for a setting outside these.
    """

    def __init__(
        self,
        model: mae.MAE,
        views: Views,
        *,
        dataset: str,
        mesh: Mesh,
        batch_size: int = 256,
        max_images: int = 5000,
        seed: int = 0,
        num_workers: int = 0,
        num_threads: int = 4,
    ):
        batch_size = sharding.rounded_up(batch_size, mesh, name="config.eval.batch_size")
        if max_images < 1 or not len(views):
            raise ValueError(f"an evaluation needs images: {len(views)} in {views!r}, eval.max_images {max_images}")
        self.model, self.views, self.dataset, self._mesh = model, views, dataset, mesh
        self._rows = _evenly(len(views), max_images)
        self._stream_settings: dict[str, Any] = {
            "crop_size": model.image_size, "batch_size": batch_size,
            "rows": sharding.process_rows(batch_size, mesh), "num_workers": num_workers, "num_threads": num_threads,
        }  # fmt: skip

        def reconstruct(params: Any, images: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), rows)
            patch_rows, patch_cols = model.patch_grid
            noise = jax.vmap(lambda key: jax.random.uniform(key, (patch_rows * patch_cols,)))(keys)
            outputs: Any = model.apply({"params": params}, images, train=False, noise=noise)
            predicted, mask = outputs
            errors = jnp.square(predicted - model.target(images)).mean(axis=-1)
            return {
                "row": rows, "loss": (errors * mask).sum(axis=1) / mask.sum(axis=1),
                "shown": _shown(model, images, predicted, mask),
            }  # fmt: skip

        self._reconstruct = jax.jit(reconstruct)

    def __call__(
        self, variables: Mapping, *, progress: bool = True, between_batches: Callable[[], None] = lambda: None
    ) -> Reconstructed:
        """The mean loss over the held-out images.

        Args:
            variables: {"params"}.
            progress: show a progress bar.
            between_batches: called before each batch, by all processes; ends the evaluation by raising.
        """
        bar = progress_bar(
            desc=f"evaluate {self.dataset}", unit=" images", total=len(self._rows),
            show=progress and jax.process_index() == 0,
        )  # fmt: skip
        losses = []
        with bar:
            for batch in eval_stream(self.views, self._rows, **self._stream_settings):
                between_batches()
                on_device = sharding.global_batch(batch, self._mesh)
                found = self._reconstruct(variables["params"], on_device["image"], on_device["row"])
                row, loss = multihost_utils.process_allgather((found["row"], found["loss"]), tiled=True)
                losses.append(loss[row >= 0])
                bar.update(len(losses[-1]))
        return Reconstructed({"loss": float(np.concatenate(losses).mean(dtype=np.float64))})

    def picture(self, variables: Mapping, *, count: int = 12) -> np.ndarray:
        """Original, what the encoder sees of it, and reconstruction, side by side, for a fixed choice of images.

        Where the model predicts normalised patches, they are shown with the mean and deviation of the original's.
        Patches that were not masked are shown as they are.

        Args:
            variables: {"params"}.
            count: how many images, evenly spaced over the split.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        tiles, titles = [], []
        for batch in eval_stream(self.views, _evenly(len(self.views), count), **self._stream_settings):
            on_device = sharding.global_batch(batch, self._mesh)
            found = self._reconstruct(variables["params"], on_device["image"], on_device["row"])
            host = multihost_utils.process_allgather(found, tiled=True)
            for i in np.flatnonzero(host["row"] >= 0):
                tiles.append(self._tile(host["shown"][i]))
                titles.append(f"image {host['row'][i]}, loss {host['loss'][i]:.3f}")
        return draw.contact_sheet(tiles, titles, columns=3)

    def _tile(self, shown: np.ndarray) -> np.ndarray:
        height, width = self.model.image_size
        size = max(height, _TILE_HEIGHT), max(width, round(width * _TILE_HEIGHT / height))
        gap = np.full((size[0], 4, 3), 255, np.uint8)
        parts = [geometry.resize_region(part, (0, 0, width, height), size) for part in shown]
        return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def _shown(model: mae.MAE, images: jax.Array, predicted: jax.Array, mask: jax.Array) -> jax.Array:
    """uint8 [B, 3, H, W, 3]: the images, what the encoder sees of them, and what is painted in the removed patches."""
    values = mae.patches(normalize(images))
    if model.norm_pix_loss:
        _, mean, deviation = mae.standardize(values)
        predicted = predicted * deviation + mean
    removed = mask[..., None].astype(bool)
    painted = mae.image_of(jnp.where(removed, predicted, values), model.image_size)
    painted = (painted * jnp.array(IMAGE_STD) + jnp.array(IMAGE_MEAN)) * 255
    hidden = mae.image_of(jnp.broadcast_to(removed, values.shape), model.image_size)
    seen = jnp.where(hidden, jnp.uint8(_GREY), images)
    return jnp.stack([images, seen, jnp.clip(jnp.round(painted), 0, 255).astype(jnp.uint8)], axis=1)


def _evenly(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
