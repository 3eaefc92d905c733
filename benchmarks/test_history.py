"""What is worth comparing with earlier runs on the same machine: pytest-benchmark times and stores it.

`--benchmark-save NAME` or `--benchmark-autosave` keeps a run, `--benchmark-compare` shows the one before beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from breastseg_deploy import Segmenter
from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters
from edge_channel import SIZE_PX
from peers.opencv_front import filter2d_edge

ROUNDS, WARM_UP = 10, 1


@pytest.fixture(autouse=True)
def only_in_the_long_form(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--benchmark-short"):
        pytest.skip("short form: ratios only")


@pytest.mark.benchmark(group="edge channel 512 x 512")
@pytest.mark.parametrize("edge", [edge_channel, filter2d_edge], ids=["fft", "filter2d"])
def test_edge_channel(benchmark: Any, edge: Any) -> None:
    frame = rgb_frame(phantom_frame(0, SIZE_PX).frame, SIZE_PX)
    benchmark.pedantic(edge, (frame, GaborParameters()), rounds=ROUNDS, warmup_rounds=WARM_UP)


@pytest.mark.benchmark(group="frame to mask")
def test_frame_to_mask(benchmark: Any, bundle: Path) -> None:
    with Segmenter.open(bundle) as segment:
        frame = phantom_frame(0, segment.manifest.frame.size_px).frame
        benchmark.extra_info |= {"backend": segment.backend, "encoder": segment.manifest.encoder}
        benchmark.pedantic(segment, (frame,), rounds=ROUNDS, warmup_rounds=WARM_UP)
