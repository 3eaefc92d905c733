"""What a model has to beat: Otsu's threshold on the frame's luma, after a Gaussian blur of 1 px."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.progress import followed
from breastseg_train.data.dataset import Sample, read_frame
from breastseg_train.evaluate.evaluation import Predictor

BLUR_SIGMA_PX = 1.0
OTSU_FRAME, OTSU_DATA_SET = "Otsu, threshold of the frame", "Otsu, threshold of the data set"
"""What the two are called in tables; both after the blur."""

_LEVELS = 256


def otsu_predictors(samples: Sequence[Sample]) -> dict[str, Predictor]:
    """Otsu's masks as predictors whose probabilities are 0 and 1.

    Args:
        samples: the frames that are measured; the threshold of the data set is Otsu's over the pixels of all of them.

    Source: Otsu 1979; light cells on a dark background, as in fluorescence.
    """
    histogram = np.zeros(_LEVELS, np.int64)
    for sample in followed(samples, "histogram", "frames"):
        histogram += np.bincount(_blurred(read_frame(sample.image)).ravel(), minlength=_LEVELS)
    of_all = otsu_threshold(histogram)

    def by_frame(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        lights = [_blurred(frame) for frame in frames]
        thresholds = [otsu_threshold(np.bincount(light.ravel(), minlength=_LEVELS)) for light in lights]
        return np.stack([light > at for light, at in zip(lights, thresholds, strict=True)]).astype(np.float32)

    def by_data_set(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([_blurred(frame) > of_all for frame in frames]).astype(np.float32)

    return {OTSU_FRAME: by_frame, OTSU_DATA_SET: by_data_set}


def otsu_threshold(histogram: NDArray[np.int64]) -> int:
    """The grey level that parts a histogram (L,) with the largest variance between both sides; brighter is cell.

    A frame of one level cannot be parted: its threshold is the last level, so that nothing in it is a cell.
    """
    share = histogram / max(1, histogram.sum())
    below = np.cumsum(share)
    mean_below = np.cumsum(share * np.arange(len(histogram)))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean_below[-1] * below - mean_below) ** 2 / (below * (1 - below))
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    return int(np.argmax(between)) if np.count_nonzero(histogram) > 1 else len(histogram) - 1


def _blurred(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), BLUR_SIGMA_PX), np.uint8)
