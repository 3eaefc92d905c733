"""One Segmenter and many threads: the same answers, and an end that waits for the last call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from segmented import FRAME, SIDE

from breastseg_deploy import BackendError, FrameError, Segmenter
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import PORTABLE, Bundle
from breastseg_deploy.inference import Inference
from breastseg_deploy.phantom import phantom_frame


def test_threads_sharing_one_segmenter_get_the_serial_answers(segment: Segmenter) -> None:
    frames = [phantom_frame(n, (SIDE, SIDE)).frame for n in range(6)]
    serial = [segment(frame) for frame in frames]
    with ThreadPoolExecutor(6) as pool:
        shared = list(pool.map(segment, frames * 4))
    for found, expected in zip(shared, serial * 4, strict=True):
        np.testing.assert_array_equal(found.probability, expected.probability)
        np.testing.assert_array_equal(found.mask, expected.mask)


def test_calls_and_self_test_after_close_are_refused(demo_bundle: Path) -> None:
    segment = Segmenter.open(demo_bundle, "onnxruntime")
    segment.close()
    segment.close()
    for call in (lambda: segment(FRAME), segment.self_test):
        with pytest.raises(BackendError, match=r"is closed; open the bundle again with Segmenter.open"):
            call()


def test_close_waits_for_running_calls_and_refuses_later_ones(demo_bundle: Path) -> None:
    segment = Segmenter.open(demo_bundle, "onnxruntime")
    expected = segment(FRAME).probability
    outcomes: list[object] = []
    started = threading.Barrier(5)

    def work() -> None:
        started.wait()
        try:
            while True:
                outcomes.append(np.array_equal(segment(FRAME).probability, expected))
        except BackendError as err:
            outcomes.append(str(err))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    started.wait()
    while len(outcomes) < 4:
        threading.Event().wait(0.01)
    segment.close()
    for worker in workers:
        worker.join()
    refusals = [outcome for outcome in outcomes if outcome is not True]
    assert refusals == ["this Segmenter is closed; open the bundle again with Segmenter.open"] * 4


class SlowEngine:
    """Stays in `infer` until it is let go, and notes what happens in which order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.entered, self.let_go = threading.Event(), threading.Event()

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        self.entered.set()
        assert self.let_go.wait(20)
        self.events.append("inferred")
        return Inference(np.full(rgb.shape[:3], 0.5, np.float32), {})

    def close(self) -> None:
        self.events.append("closed")


def test_engine_is_given_back_only_after_the_last_call_has_left_it(demo_bundle: Path) -> None:
    engine = SlowEngine()
    segment = Segmenter(
        Bundle.open(demo_bundle), Choice("slow", BACKENDS["onnxruntime"], "for this test", engine, PORTABLE)
    )
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(segment, FRAME)
        assert engine.entered.wait(20)
        closing = pool.submit(segment.close)
        while not closing.running():
            threading.Event().wait(0.01)
        with pytest.raises(TimeoutError):
            closing.result(timeout=0.2)
        engine.let_go.set()
        assert call.result(20).backend == "slow"
        closing.result(20)
    assert engine.events == ["inferred", "closed"]


def test_block_closes_the_segmenter_also_after_an_error(demo_bundle: Path) -> None:
    with pytest.raises(FrameError), Segmenter.open(demo_bundle, "onnxruntime") as segment:
        segment(np.zeros((3, 3), np.uint8))
    with pytest.raises(BackendError, match="is closed"):
        segment(FRAME)
