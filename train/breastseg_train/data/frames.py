"""Frames as the network sees them: torch data sets over the samples of a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from breastseg_deploy.preprocess.tensor import network_input
from breastseg_train.data.augment import Augment
from breastseg_train.data.dataset import Sample
from breastseg_train.data.sampler import Draw


class TrainingFrames(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; an item is (4, S, S) float32 network input and (1, S, S) float32 truth.

    An index is a `Draw`. The edge channel is computed by the runtime's own code after augmentation, so that it is the
    channel of the pixels the network sees.
    """

    def __init__(self, samples: Sequence[Sample], augmentation: Augment) -> None:
        self._samples, self._augmentation = samples, augmentation

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return _tensors(*self._augmentation(*self._samples[draw.sample].read(), draw.seed))


class WholeFrames(Dataset[tuple[Tensor, Tensor]]):
    """Frames as they are; an item is (4, H, W) float32 network input and (1, H, W) float32 truth."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return _tensors(*self._samples[index].read())


def _tensors(frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(network_input(frame[np.newaxis])[0]), torch.from_numpy(mask[np.newaxis]).float()
