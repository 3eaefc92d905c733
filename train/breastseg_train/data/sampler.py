"""Which frame is drawn when: complex frames more often, by static weights, the same over any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One draw: the number of a sample, and the seed of its augmentation."""

    sample: int
    seed: int


class SeededDraws(Sampler[Draw]):
    """An epoch's draws, decided by seed and epoch alone, so that a resumed or a distributed run draws the same.

    Args:
        weights: one positive weight per sample; a sample is drawn in proportion to it, with replacement. None draws
            every sample once, in random order.
        count: number of samples.
        seed: of the run.
        rank: of this process; it takes every `processes`-th draw.
        processes: number of processes. Draws that do not fill a round of all processes are left out.
    """

    def __init__(
        self, weights: Sequence[float] | None, count: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.epoch = 0
        self._weights = None if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        self._count, self._seed, self._rank, self._processes = count, seed, rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Called by PyTorch Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count // self._processes

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self._seed, self.epoch])
        if self._weights is None:
            indices = rng.permutation(self._count)
        else:
            indices = rng.choice(self._count, self._count, p=self._weights)
        seeds = rng.integers(2**62, size=self._count)
        mine = slice(self._rank, len(self) * self._processes, self._processes)
        for index, seed in zip(indices[mine].tolist(), seeds[mine].tolist(), strict=True):
            yield Draw(index, seed)
