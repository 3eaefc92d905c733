"""The GPU pipeline when something fails: which errors pass, which stay, and what the next call finds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_cpu import fake_cupy
from host_network import (
    FRAMES,
    CudaBuffer,
    HostNetwork,
    all_passed,
    segmenter,
)
from numpy.typing import NDArray

from breastseg_deploy import BackendError
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.gpu.pipeline import GpuPipeline


def fail_once(error: Exception) -> Callable[[Any], None]:
    """Raises the first time it is called."""
    left = [error]

    def maybe(_: Any) -> None:
        if left:
            raise left.pop()

    return maybe


def test_no_memory_for_a_batch_size_is_an_error_and_the_next_call_works(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, network: HostNetwork
) -> None:
    network.spoil_binding = fail_once(cupy_on_cpu.cuda.memory.OutOfMemoryError("Out of memory allocating 9 bytes"))
    with pytest.raises(BackendError) as failure:
        pipeline.infer(FRAMES[:4])
    assert "has not enough memory for 4 frames at once (Out of memory allocating 9 bytes)" in str(failure.value)
    assert "stays usable: pass fewer frames, or free memory" in str(failure.value)
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1
    assert len(pipeline.infer(FRAMES[:4]).probability) == 4


def test_no_memory_for_buffers_is_an_error_and_the_next_call_works(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, refuse = cupy_on_cpu.empty, fail_once(cupy_on_cpu.cuda.memory.OutOfMemoryError("full"))

    def empty(shape: Any, dtype: Any = float) -> Any:
        refuse(None)
        return whole(shape, dtype)

    monkeypatch.setattr(cupy_on_cpu, "empty", empty)
    with pytest.raises(BackendError, match="not enough memory for 2 frames at once"):
        pipeline.infer(FRAMES[:2])
    assert len(pipeline.infer(FRAMES[:2]).probability) == 2


def test_a_failed_launch_is_an_error_and_the_next_call_works(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, network: HostNetwork
) -> None:
    network.spoil = fail_once(cupy_on_cpu.cuda.runtime.CUDARuntimeError("cudaErrorLaunchOutOfResources: too\nmany"))
    with pytest.raises(BackendError) as failure:
        pipeline.infer(FRAMES[:1])
    assert "failed on a batch of 1 frames: cudaErrorLaunchOutOfResources: too many; no mask" in str(failure.value)
    assert isinstance(failure.value.__cause__, cupy_on_cpu.cuda.runtime.CUDARuntimeError)
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


def test_an_error_that_stays_closes_the_segmenter_and_every_call_says_so(
    cupy_on_cpu: ModuleType,
    pipeline: GpuPipeline,
    network: HostNetwork,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise cupy_on_cpu.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")

    segment = segmenter(bundle, pipeline)
    network.spoil = broken
    with monkeypatch.context() as patch:
        patch.setattr(cupy_on_cpu.cuda.Stream, "synchronize", broken)
        with pytest.raises(BackendError) as failure:
            segment(FRAMES[0])
    network.spoil = lambda logits: None
    said = [str(failure.value)]
    for frames in (FRAMES[:1], FRAMES[:5], CudaBuffer(FRAMES[:1])):
        with pytest.raises(BackendError, match="the GPU failed for good while") as failure:
            segment.batch(frames)
        said.append(str(failure.value))
    assert len(set(said)) == 1
    assert "(cudaErrorIllegalAddress: an illegal memory access): this Segmenter is closed" in said[0]
    segment.close()


@pytest.mark.parametrize("where", ["entering", "leaving"])
def test_a_dead_gpu_that_cannot_even_be_chosen_is_an_error_in_words(
    cupy_on_cpu: ModuleType, bundle: Bundle, network: HostNetwork, where: str
) -> None:
    """CUDA reports an error that stays at every later call, choosing the device included."""
    dead: list[str] = []

    def fail(*_: Any) -> None:
        dead.append("cudaErrorIllegalAddress: an illegal memory access")
        raise cupy_on_cpu.cuda.runtime.CUDARuntimeError(dead[0])

    class Device(fake_cupy.Device):
        def __enter__(self) -> fake_cupy.Device:
            if dead and where == "entering":
                raise cupy_on_cpu.cuda.runtime.CUDARuntimeError(dead[0])
            return super().__enter__()

        def __exit__(self, *found: object) -> None:
            super().__exit__(*found)
            if dead and where == "leaving":
                raise cupy_on_cpu.cuda.runtime.CUDARuntimeError(dead[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_on_cpu.cuda, "Device", Device)
        segment = segmenter(bundle, GpuPipeline(bundle, lambda stream: network, all_passed))
        if where == "entering":  # the failure itself went unnoticed, as after another library's
            dead.append("cudaErrorIllegalAddress: an illegal memory access")
        network.spoil = fail
        patch.setattr(cupy_on_cpu.cuda.Stream, "synchronize", fail)
        for frames in (FRAMES[:1], FRAMES[:5], CudaBuffer(FRAMES[:1])):
            with pytest.raises(BackendError, match=r"the GPU failed for good while .*cudaErrorIllegalAddress"):
                segment.batch(frames)
        segment.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_gives_no_mask(pipeline: GpuPipeline, network: HostNetwork, value: float) -> None:
    def spoil(logits: NDArray[np.float32]) -> None:
        logits[-1, 0, 17, 93] = value

    network.spoil = spoil
    with pytest.raises(BackendError, match=r"logits that are NaN or infinite; no mask is returned: run `breastseg ver"):
        pipeline.infer(FRAMES[:3])
    network.spoil = lambda logits: None
    assert len(pipeline.infer(FRAMES[:3]).probability) == 3


def test_ctrl_c_leaves_the_segmenter_usable(pipeline: GpuPipeline, network: HostNetwork) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    network.spoil = interrupt
    with pytest.raises(KeyboardInterrupt):
        pipeline.infer(FRAMES[:1])
    network.spoil = lambda logits: None
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


def test_close_waits_for_the_call_that_runs(pipeline: GpuPipeline, network: HostNetwork, bundle: Bundle) -> None:
    entered, let_go = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        entered.set()
        assert let_go.wait(20)

    segment = segmenter(bundle, pipeline)
    network.spoil = hold
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(segment, FRAMES[0])
        assert entered.wait(20)
        closing = pool.submit(segment.close)
        with pytest.raises(TimeoutError):
            closing.result(timeout=0.1)
        let_go.set()
        assert call.result(20).backend == "tested"
        closing.result(20)
    with pytest.raises(BackendError, match="is closed"):
        segment(FRAMES[0])
