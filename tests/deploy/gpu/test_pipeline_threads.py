"""The GPU pipeline under several threads: neighbouring frames overlap, and each gets its own answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from host_network import FRAMES, MAX_BATCH, HostNetwork
from numpy.typing import NDArray

from breastseg_deploy import BackendError
from breastseg_deploy.gpu.pipeline import GpuPipeline


class Held:
    """Threads that wait for an event of the stand-in stay there, each until it is let go by its name."""

    def __init__(self, cupy: ModuleType, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> None:
        self.waiting = {name: threading.Event() for name in names}
        self.let_go = {name: threading.Event() for name in names}
        wait = cupy.cuda.Event.synchronize

        def synchronize(event: Any) -> None:
            name = threading.current_thread().name
            if name in self.waiting:
                self.waiting[name].set()
                assert self.let_go[name].wait(20)
            wait(event)

        monkeypatch.setattr(cupy.cuda.Event, "synchronize", synchronize)


class Call(threading.Thread):
    """One frame through the pipeline by a thread of its own."""

    def __init__(self, pipeline: GpuPipeline, name: str, frames: NDArray[np.uint8]) -> None:
        super().__init__(name=name)
        self._infer = lambda: pipeline.infer(frames).probability
        self.start()

    def run(self) -> None:
        self.found = self._infer()

    def result(self) -> NDArray[np.float32]:
        self.join(20)
        return self.found


def test_a_frame_is_copied_to_the_gpu_while_another_threads_is_computed_and_a_third_waits(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is woken first: the third frame takes the slot that was read, not the one that still holds an answer."""
    serial = [pipeline.infer(FRAMES[n : n + 1]).probability for n in range(3)]
    held = Held(cupy_on_cpu, monkeypatch, "abc")
    first = Call(pipeline, "a", FRAMES[0:1])
    assert held.waiting["a"].wait(20)
    second = Call(pipeline, "b", FRAMES[1:2])
    assert held.waiting["b"].wait(20)
    third = Call(pipeline, "c", FRAMES[2:3])
    assert not held.waiting["c"].wait(0.1)
    held.let_go["b"].set()
    assert held.waiting["c"].wait(20)
    held.let_go["c"].set()
    np.testing.assert_array_equal(second.result(), serial[1])
    np.testing.assert_array_equal(third.result(), serial[2])
    held.let_go["a"].set()
    np.testing.assert_array_equal(first.result(), serial[0])


def test_a_batch_waits_for_single_frames_and_they_wait_for_it(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, many = pipeline.infer(FRAMES[:1]).probability, pipeline.infer(FRAMES[:3]).probability
    held = Held(cupy_on_cpu, monkeypatch, "abc")
    first = Call(pipeline, "a", FRAMES[:1])
    assert held.waiting["a"].wait(20)
    batch = Call(pipeline, "b", FRAMES[:3])
    assert not held.waiting["b"].wait(0.1)
    held.let_go["a"].set()
    assert held.waiting["b"].wait(20)
    last = Call(pipeline, "c", FRAMES[:1])
    assert not held.waiting["c"].wait(0.1)
    held.let_go["b"].set()
    held.let_go["c"].set()
    np.testing.assert_array_equal(batch.result(), many)
    for one in (first, last):
        np.testing.assert_array_equal(one.result(), single)


def test_batches_and_single_frames_of_several_threads_get_the_serial_answers(pipeline: GpuPipeline) -> None:
    sizes = (1, 3, 1, 1, 2, 1, 9, 1)
    frames = [FRAMES[(np.arange(size) + number) % MAX_BATCH] for number, size in enumerate(sizes)]
    serial = [pipeline.infer(one).probability for one in frames]
    with ThreadPoolExecutor(5) as pool:
        shared = list(pool.map(lambda n: pipeline.infer(frames[n % len(sizes)]).probability, range(32)))
    for number, found in enumerate(shared):
        np.testing.assert_array_equal(found, serial[number % len(sizes)])


def test_a_call_that_fails_gives_its_slot_back(pipeline: GpuPipeline, network: HostNetwork) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("a launch failed")

    for count in (1, 3):
        for _ in range(3):
            network.spoil = fail
            with pytest.raises(BackendError, match="a launch failed"):
                pipeline.infer(FRAMES[:count])
            network.spoil = lambda logits: None
            assert len(pipeline.infer(FRAMES[:count]).probability) == count
