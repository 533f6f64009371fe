"""What all streams are made with: a mix of shuffled sources, this process's rows of it, batches made ahead of time."""

import dataclasses
import signal
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from vitpose_jax.data.order import ByImage
from vitpose_jax.types import TrainCrop

_LONGEST = 2**52  # crops of an endless stream: Grain counts its batches in double precision


class Source(Protocol):
    """What streams are mixed of: something with a length, and its share; None is the length itself."""

    @property
    def split(self) -> Sized: ...
    @property
    def weight(self) -> float | None: ...


def interleaved(
    parts: Sequence[tuple[Any, grain.transforms.RandomMap]],
    share: Sequence[float],
    seed: int,
    images: Sequence[np.ndarray] | None = None,
) -> grain.MapDataset:
    """The endless sequence of crops of several sources, each shuffled anew whenever it has been gone through.

    Args:
        parts: of each source the records, at random access, and what makes a crop of one.
        share: see `shares`.
        seed: of order and crops.
        images: of each source int [P], of which image each record is: those of one follow one another; None: all are
            shuffled.
    """
    streams = []
    for index, (records, cut) in enumerate(parts):
        # One seed for each source: two of the same length would otherwise be shuffled alike.
        own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        if images is None:
            endless = grain.MapDataset.source(records).seed(own_seed).shuffle().repeat()
        else:
            endless = grain.MapDataset.source(ByImage(records, images[index], own_seed)).seed(own_seed)
        streams.append(endless.random_map(cut))
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, share)


def shares(sources: Sequence[Source]) -> list[float]:
    """What part of the stream comes from each source.

    Raises:
        ValueError: for no source, an empty one, or weights that do not fit.
    """
    if not sources:
        raise ValueError("a training stream needs at least one source")
    unweighted = [source.split for source in sources if source.weight is None]
    if 0 < len(unweighted) < len(sources):
        raise ValueError(
            "weights are relative to each other: give every data set one, or none (then numbers of instances count); "
            f"without one are {', '.join(map(repr, unweighted))}"
        )
    weights = [len(source.split) if source.weight is None else source.weight for source in sources]
    for index, (source, weight) in enumerate(zip(sources, weights, strict=True)):
        if not len(source.split) or not weight > 0:
            raise ValueError(f"source {index}, {source.split!r}, needs instances and a weight above 0, not {weight}")
    return [weight / sum(weights) for weight in weights]


def checked_rows(rows: Sequence[int] | np.ndarray | None, batch_size: int) -> np.ndarray:
    """int64 [R]: the rows, all if None. R divides the batch: processes hold equal shares."""
    if batch_size < 1:
        raise ValueError(f"batch_size is 1 or more, not {batch_size}")
    own = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    if not len(own) or batch_size % len(own) or own.min() < 0 or own.max() >= batch_size:
        raise ValueError(f"rows need to be an equal share of the {batch_size} rows of a batch, not {own.tolist()}")
    return own


def start(stream: grain.MapDataset, num_workers: int, num_threads: int, prefetch: int) -> grain.DatasetIterator:
    """Begins to make a stream's batches ahead of time; arguments as of `pipeline.train_stream`."""
    if num_workers < 0 or num_threads < 1 or prefetch < 1:
        raise ValueError(
            f"num_workers needs to be 0 or more, num_threads and prefetch 1 or more, not {num_workers}, {num_threads} "
            f"and {prefetch}"
        )
    if num_workers == 0:
        return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))
    if not flags.FLAGS.is_parsed():  # Grain hands its absl flags to the workers, even where no one uses absl
        flags.FLAGS.mark_as_parsed()
    in_worker = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=prefetch)
    return iter(in_worker.mp_prefetch(options, worker_init_fn=_leave_signals_to_the_parent))


def _leave_signals_to_the_parent(worker: int, count: int) -> None:
    """Ctrl-C and schedulers signal a whole process group; only the main process may decide to stop."""
    del worker, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def own_batches(stream: grain.MapDataset, rows: np.ndarray, batch_size: int, start_step: int) -> grain.MapDataset:
    """Batches of an endless stream from a step on, of which this process makes some rows."""
    return grain.MapDataset.source(_OwnRows(stream, rows, batch_size, start_step)).batch(len(rows))


@dataclasses.dataclass(frozen=True)
class _OwnRows:
    """Of an endless stream, cut into batches, this process's rows one after the other, at random access."""

    stream: grain.MapDataset
    rows: np.ndarray
    batch_size: int
    start_step: int

    def __len__(self) -> int:
        steps = min(len(self.stream), _LONGEST) // self.batch_size - self.start_step
        return steps * len(self.rows)

    def __getitem__(self, index: int) -> TrainCrop:
        batch, row = divmod(index, len(self.rows))
        return self.stream[(self.start_step + batch) * self.batch_size + int(self.rows[row])]
