"""Probabilities of a bundle, for the evaluation that measures checkpoints too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import DataError
from breastseg_deploy.segmenter import Segmenter
from breastseg_train.data.dataset import Sample, read_frame
from breastseg_train.evaluate.evaluation import Predictor


def bundle_predictor(segment: Segmenter, skips: list[bool]) -> Predictor:
    """A predictor that runs an open bundle by its backend, from raw frame to probability; valid while that is open.

    Args:
        segment: open.
        skips: gets, for each frame, whether the empty-frame gate skipped it; stays as it is without one.
    """

    def predict(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        results = segment.batch(frames)
        skips.extend(result.skipped for result in results if result.skipped is not None)
        return np.stack([result.probability for result in results if result.probability is not None])

    return predict


def check_frame_sizes(samples: Sequence[Sample], size_px: tuple[int, int]) -> None:
    """Refuse frames that a bundle would refuse, before the first of them is segmented.

    Args:
        samples: that are to be segmented.
        size_px: (H, W) of the bundle's frame contract.

    Raises:
        DataError: a frame has another size; the first is named.
    """
    sizes = {sample: read_frame(sample.image).shape[:2] for sample in samples}
    other = [sample for sample, size in sizes.items() if size != size_px]
    if other:
        height, width = sizes[other[0]]
        raise DataError(
            f"the bundle takes frames of {size_px[0]} x {size_px[1]} px, {other[0].image} has {height} x {width} "
            f"({len(other)} of {len(samples)} frames differ); crop them, or export a bundle with another --size"
        )
