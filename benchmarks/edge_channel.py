"""The edge channel by FFT against 24 x `cv2.filter2D`, in turn, on the same frame and as many threads."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.contestants import Timed, in_turn, seconds_of
from breastseg_benchmark.results import Ratio
from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters
from peers.opencv_front import filter2d_edge

SIZE_PX = (512, 512)
_TOLERANCE = 1e-5
_WARM_UP = 2


class Call:
    """A function of one frame as `in_turn` calls it."""

    def __init__(self, function: Callable[[NDArray[np.uint8]], object], frame: NDArray[np.uint8]) -> None:
        self._function, self._frame = function, frame

    def time(self, start: int, count: int = 1) -> Timed:
        started = time.perf_counter()
        self._function(self._frame)
        return Timed(time.perf_counter() - started, {})


def edge_channel_figures(rounds: int) -> dict[str, dict[str, float]]:
    """How many times as fast the FFT is, after both have agreed within 1e-5; as `Results.extra`."""
    frame, parameters = rgb_frame(phantom_frame(0, SIZE_PX).frame, SIZE_PX), GaborParameters()
    threads = cv2.getNumThreads()
    by_fft = Call(lambda rgb: edge_channel(rgb, parameters, threads), frame)
    by_filter = Call(lambda rgb: filter2d_edge(rgb, parameters), frame)
    np.testing.assert_allclose(edge_channel(frame, parameters), filter2d_edge(frame, parameters), atol=_TOLERANCE)
    calls = in_turn({"filter2d": by_filter, "fft": by_fft}, rounds + _WARM_UP, 1, lambda name, err: None)
    ratio = Ratio.of(*(seconds_of(calls[name])[_WARM_UP:] for name in ("filter2d", "fft")))
    return {"edge channel": {"times_as_fast_as_filter2d": ratio.median}}
