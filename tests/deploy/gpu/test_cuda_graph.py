"""A network that can be captured is served by its CUDA graph; any other is enqueued, and that is told."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_cpu import fake_cupy
from host_network import (
    FRAMES,
    HostNetwork,
    all_passed,
    light_probability,
)

from breastseg_deploy import BackendError
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.gpu.graph import BoundNetwork
from breastseg_deploy.gpu.pipeline import GpuPipeline


class CapturingStream(fake_cupy.Stream):
    """Keeps what is enqueued while it captures, as far as a graph needs it here."""

    capturing = False
    refuses = False

    def begin_capture(self, mode: Any = None) -> None:
        if self.refuses:
            raise fake_cupy.CUDARuntimeError("cudaErrorStreamCaptureUnsupported: not here")
        type(self).capturing = True

    def end_capture(self) -> Any:
        type(self).capturing = False
        return Graph()


class Graph:
    launches: list[int] = []  # noqa: RUF012 - counted over all graphs of a test
    runs: Callable[[], None]

    def launch(self, stream: Any = None) -> None:
        Graph.launches.append(stream.ptr)
        Graph.runs()


class Captured:
    """A bound network that runs at once, or, while its stream captures, is remembered by the graph."""

    def __init__(self, inner: BoundNetwork) -> None:
        self._inner = inner

    def enqueue(self) -> None:
        if CapturingStream.capturing:
            Graph.runs = staticmethod(self._inner.enqueue)
        else:
            self._inner.enqueue()


class CapturableNetwork(HostNetwork):
    def bind(self, tensor_address: int, logits_address: int, batch: int) -> Captured:
        return Captured(super().bind(tensor_address, logits_address, batch))


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch, cupy_on_cpu: ModuleType) -> None:
    monkeypatch.setattr(fake_cupy.cuda, "Stream", CapturingStream)
    monkeypatch.setattr(Graph, "launches", [])


def test_a_network_that_can_be_captured_is_served_by_its_graph(capturing: None, bundle: Bundle) -> None:
    network = CapturableNetwork(capturable=True)
    pipeline = GpuPipeline(bundle, lambda stream: network, all_passed)
    for number in range(3):
        frame = FRAMES[number : number + 1]
        np.testing.assert_allclose(pipeline.infer(frame).probability, light_probability(frame, bundle), atol=1e-6)
    assert len(Graph.launches) == 1 + 3
    assert len(network.runs) == 1 + 1 + 3  # preparation, a black frame, the frames


def test_a_captured_network_lives_as_long_as_its_graph(capturing: None, bundle: Bundle) -> None:
    """The graph holds addresses; TensorRT's context and its memory must still be there when it runs."""
    kept: list[weakref.ref[Captured]] = []

    class Watched(CapturableNetwork):
        def bind(self, tensor_address: int, logits_address: int, batch: int) -> Captured:
            bound = super().bind(tensor_address, logits_address, batch)
            kept.append(weakref.ref(bound))
            return bound

    network = Watched(capturable=True)
    pipeline = GpuPipeline(bundle, lambda stream: network, all_passed)
    Graph.runs = staticmethod(lambda: None)  # the stand-in's own hold on it
    gc.collect()
    assert [bound() is not None for bound in kept] == [True]
    pipeline.close()
    gc.collect()
    assert [bound() is not None for bound in kept] == [False]


@pytest.mark.parametrize("where", ["begin", "enqueue"])
def test_a_network_that_cannot_be_captured_is_enqueued_and_that_is_told(
    capturing: None,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    def refuse(self: Captured) -> None:
        if CapturingStream.capturing:
            raise BackendError("this engine cannot be captured")
        self._inner.enqueue()

    caplog.set_level(logging.WARNING, logger="breastseg_deploy")
    network = CapturableNetwork(capturable=True)
    if where == "begin":
        monkeypatch.setattr(CapturingStream, "refuses", True)
    else:
        monkeypatch.setattr(Captured, "enqueue", refuse)
    pipeline = GpuPipeline(bundle, lambda stream: network, all_passed)
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1
    assert Graph.launches == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no CUDA graph of it can be made" in record.message
    assert not CapturingStream.capturing
