"""The order of an endless training stream in which the people of an image follow one another."""

import dataclasses
import functools
import sys
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ByImage:
    """Records again and again at random access: images in an order that every epoch draws anew, and their people too.

    An epoch is a pure function of the seed and its number, and has every record once.

    Attributes:
        records: P of them.
        images: int [P], of which image each one is, 0 or more.
        seed: 0 or more.
    """

    records: Any
    images: np.ndarray
    seed: int

    def __len__(self) -> int:
        """Whole epochs, and as many as can be counted."""
        return sys.maxsize // len(self.records) * len(self.records)

    def __getitem__(self, index: int) -> Any:
        epoch, place = divmod(index, len(self.records))
        return self.records[int(self._order(epoch)[place])]

    @functools.cached_property
    def _order(self) -> Any:
        return functools.lru_cache(2)(self._draw)  # batches that are made at once may lie in two epochs

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        of_image = rng.permutation(int(self.images.max()) + 1)
        return np.lexsort((rng.random(len(self.images)), of_image[self.images]))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_order"}  # a cache stays where it is
