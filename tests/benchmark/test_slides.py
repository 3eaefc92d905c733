"""What the comparison of ways through a slide measures of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.slides import FRAME_PX, moved_grid_ppm
from breastseg_deploy.phantom import phantom_frame

IMAGE = phantom_frame(0, (FRAME_PX + 192, FRAME_PX + 256)).frame


def bright(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return image > 128


def bright_but_for_the_corner_of_each_frame(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = bright(image)
    mask[::FRAME_PX, ::FRAME_PX] = ~mask[::FRAME_PX, ::FRAME_PX]
    return mask


def test_a_grid_that_decides_nothing_flips_no_pixel() -> None:
    assert moved_grid_ppm(bright, IMAGE) == 0


def test_pixels_that_a_grid_decides_are_counted() -> None:
    compared = (IMAGE.shape[0] - 192) * (IMAGE.shape[1] - 192)
    assert (
        moved_grid_ppm(bright_but_for_the_corner_of_each_frame, IMAGE) == 2e6 / compared
    )  # one frame corner of each grid lies inside
