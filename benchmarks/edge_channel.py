"""The edge channel by FFT against 24 x `cv2.filter2D`, in turn, on the same frame and as many threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from breastseg_benchmark.process import Timed, in_turn, seconds_of
from breastseg_benchmark.results import Ratio
from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.progress import Progress
from peers.opencv_front import filter2d_edge

SIZE_PX = (512, 512)
_TOLERANCE = 1e-5
_WARM_UP = 2


def edge_channel_figures(rounds: int) -> dict[str, dict[str, float]]:
    """How many times as fast the FFT is, after both have agreed within 1e-5; as `Results.extra`."""
    frame, parameters = rgb_frame(phantom_frame(0, SIZE_PX).frame, SIZE_PX), GaborParameters()
    threads = cv2.getNumThreads()
    np.testing.assert_allclose(edge_channel(frame, parameters), filter2d_edge(frame, parameters), atol=_TOLERANCE)
    callers = {
        "filter2d": partial(_time, lambda: filter2d_edge(frame, parameters)),
        "fft": partial(_time, lambda: edge_channel(frame, parameters, threads)),
    }
    with Progress("edge channel", rounds + _WARM_UP, "rounds") as progress:
        calls, _ = in_turn(callers, rounds + _WARM_UP, 1, progress.update)
    ratio = Ratio.of(*(seconds_of(calls[name])[_WARM_UP:] for name in ("filter2d", "fft")))
    return {"edge channel": {"times_as_fast_as_filter2d": ratio.median}}


def _time(call: Callable[[], object], _frame: int) -> Timed:
    started = time.perf_counter()
    call()
    return Timed(time.perf_counter() - started, {})
