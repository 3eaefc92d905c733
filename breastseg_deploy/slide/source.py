"""What a run needs of a slide; `io.open_slide.Slide` is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.io.slide import SlideInfo


class SlideSource(Protocol):
    """An open slide after its conversion to what the network gets. Several threads may read."""

    @property
    def name(self) -> str:
        """Names the folder of its results."""

    @property
    def info(self) -> SlideInfo:
        """What its reader says."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of what `read_rgb` reads."""

    @property
    def pixel_size_um(self) -> float | None:
        """Of that; None where nobody knows it."""

    @property
    def conversion(self) -> Mapping[str, Any]:
        """Channel, window or bit depth, and scale: how its pixels became 8-bit RGB."""

    def read_rgb(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """A region inside the slide, (height, width, 3).

        Raises:
            SlideError: it cannot be decoded; the message names the place.
        """

    def read_intensity(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """The same region of the original channel, (height, width), in its own units."""

    def thumbnail(self, longest_px: int) -> tuple[NDArray[np.uint8], float]:
        """The whole slide, (h, w, 3), its longest side at most `longest_px`; and its downsample."""

    def sha256(self) -> str:
        """Hash of the slide's content."""
