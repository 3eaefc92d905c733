"""The GPU path from frame to mask: on the CPU over a stand-in for the device, and, marked `gpu`, on a GPU.

Without a GPU, `cupy_on_cpu` is the device, the kernels run as compiled for the CPU or (where a test is not about them)
as the CPU reference, and the network runs in ONNX Runtime at the very addresses that the pipeline binds.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_cpu import fake_cupy
from host_network import (
    FRAMES,
    GREY,
    SIDE,
    Float16Network,
    HostNetwork,
    Recorded,
    all_passed,
    light_probability,
)
from numpy.typing import NDArray
from surgery import alter_golden

from breastseg_deploy import BackendError, FrameError, ParityError, Segmenter
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeCpu
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.gpu.graph import BoundNetwork
from breastseg_deploy.gpu.pipeline import MAX_BATCH, GpuPipeline, SelfTest, run_sizes
from breastseg_deploy.inference import DeviceBackend, lies_on_gpu
from breastseg_deploy.metrics import dice


@pytest.fixture
def pipeline(bundle: Bundle, network: HostNetwork, cupy_on_cpu: ModuleType) -> Iterator[GpuPipeline]:
    opened = GpuPipeline(bundle, lambda stream: network, all_passed)
    yield opened
    opened.close()


def segmenter(bundle: Bundle, pipeline: GpuPipeline) -> Segmenter:
    return Segmenter(bundle, Choice("tested", BACKENDS["tensorrt"], "tested: for this test", pipeline, FP16))


# masks


def test_frames_through_kernels_and_float16_network_give_the_masks_of_the_cpu_backend(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    reference = OnnxRuntimeCpu(bundle).infer(FRAMES[:2]).probability
    answer = GpuPipeline(bundle, lambda stream: float16, all_passed).infer(FRAMES[:2])
    assert answer.mask is not None
    for mask, probability, wanted in zip(answer.mask, answer.probability, reference, strict=True):
        assert np.abs(probability - wanted).max() < 0.01
        assert dice(mask, wanted >= bundle.manifest.threshold) >= bundle.manifest.limits_of(FP16).worst_dice
    np.testing.assert_array_equal(answer.mask, answer.probability >= np.float32(bundle.manifest.threshold))
    assert {kernel for kernel, _ in cupy_on_cpu.launches} == {"edge_tensor", "logits_to_mask"}


@pytest.mark.parametrize("count", [*range(1, MAX_BATCH + 1), 9, 17, 29])
def test_every_frame_of_a_batch_gets_its_own_answer(
    pipeline: GpuPipeline, network: HostNetwork, bundle: Bundle, count: int
) -> None:
    frames = FRAMES[np.arange(count) % MAX_BATCH]
    for _ in range(2):
        network.runs.clear()
        answer = pipeline.infer(frames)
        assert answer.mask is not None
        assert answer.mask.shape == (count, SIDE, SIDE)
        np.testing.assert_allclose(answer.probability, light_probability(frames, bundle), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(answer.mask, answer.probability >= np.float32(bundle.manifest.threshold))
    assert set(network.runs) <= {1, MAX_BATCH}
    assert network.runs.count(MAX_BATCH) in (count // MAX_BATCH, count // MAX_BATCH + 1)


@pytest.mark.parametrize(
    ("frames", "padded_from", "sizes"),
    [
        (1, 2, [1]),
        (2, 2, [2]),
        (3, 4, [1, 1, 1]),
        (4, 4, [4]),
        (8, 8, [8]),
        (9, 2, [8, 1]),
        (11, 3, [8, 3]),
        (23, 8, [8, 8, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_rest_is_run_whole_or_frame_by_frame(frames: int, padded_from: int, sizes: list[int]) -> None:
    assert run_sizes(frames, padded_from) == sizes


@pytest.mark.parametrize(
    ("one_s", "eight_s", "served"), [(0.004, 0.009, [8]), (0.004, 0.0, [8]), (0.001, 0.009, [1, 1, 1])]
)
def test_the_measured_times_decide_how_a_rest_is_run(
    pipeline: GpuPipeline, network: HostNetwork, one_s: float, eight_s: float, served: list[int]
) -> None:
    network.spoil = lambda logits: time.sleep(one_s if len(logits) == 1 else eight_s)
    pipeline.infer(FRAMES[:3])
    network.runs.clear()
    pipeline.infer(FRAMES[:3])
    assert network.runs == served


def test_without_the_probabilities_none_are_computed_or_copied(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle
) -> None:
    whole = pipeline.infer(FRAMES[:1])
    copied = {}
    for probability in (True, False):
        cupy_on_cpu.copies.clear()
        answer = pipeline.infer(FRAMES[:1], probability=probability)
        copied[probability] = cupy_on_cpu.copies.count("to host")
        np.testing.assert_array_equal(answer.mask, whole.mask)
    assert answer.probability is None
    assert copied == {True: 3, False: 2}  # mask and flags
    assert segmenter(bundle, pipeline)(FRAMES[0], probability=False).probability is None


def test_frames_are_copied_to_the_gpu_while_others_are_computed(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = FRAMES[np.arange(24) % MAX_BATCH]
    pipeline.infer(frames)
    copied_before_waiting: list[int] = []
    wait = cupy_on_cpu.cuda.Event.synchronize

    def synchronize(event: Any) -> None:
        copied_before_waiting.append(cupy_on_cpu.copies.count("to device"))
        wait(event)

    monkeypatch.setattr(cupy_on_cpu.cuda.Event, "synchronize", synchronize)
    cupy_on_cpu.copies.clear()
    cupy_on_cpu.streams.late = True
    answer = pipeline.infer(frames)
    assert copied_before_waiting == [2, 3, 3]  # of three runs of eight frames
    np.testing.assert_allclose(answer.probability, light_probability(frames, bundle), rtol=0, atol=1e-6)


def test_answers_are_the_callers_own(pipeline: GpuPipeline) -> None:
    first = pipeline.infer(FRAMES[:1])
    kept = first.probability.copy()
    pipeline.infer(255 - FRAMES[:1])
    np.testing.assert_array_equal(first.probability, kept)


def test_threads_get_the_serial_answers(pipeline: GpuPipeline) -> None:
    serial = [pipeline.infer(FRAMES[n : n + 1]).probability for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda n: pipeline.infer(FRAMES[n % 4 : n % 4 + 1]).probability, range(16)))
    for n, found in enumerate(shared):
        np.testing.assert_array_equal(found, serial[n % 4])


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


def test_no_call_after_the_first_of_its_batch_size_makes_a_buffer(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline
) -> None:
    for count in (1, 3):
        pipeline.infer(FRAMES[:count])
    made = len(cupy_on_cpu.allocations)
    for count in (1, 3, 1):
        pipeline.infer(FRAMES[:count])
    assert len(cupy_on_cpu.allocations) == made


def test_everything_runs_on_one_stream_that_is_not_the_callers(
    cupy_on_cpu: ModuleType, bundle: Bundle, network: HostNetwork
) -> None:
    streams: list[Any] = []

    def open_network(stream: Any) -> HostNetwork:
        streams.append(stream)
        return network

    pipeline = GpuPipeline(bundle, open_network, all_passed)
    with cupy_on_cpu.cuda.Stream() as callers:
        pipeline.infer(FRAMES[:2])
        assert cupy_on_cpu.cuda.get_current_stream() is callers
    assert {address for _, address in cupy_on_cpu.launches} == {streams[0].ptr}


def test_timings_name_every_stage_in_order(pipeline: GpuPipeline, bundle: Bundle) -> None:
    stages = ["stage", "upload", "preprocess", "network", "mask", "download"]
    assert list(pipeline.infer(FRAMES[:1]).seconds) == stages
    nine = pipeline.infer(np.concatenate([FRAMES, FRAMES[:1]])).seconds
    assert list(nine) == stages
    assert all(seconds >= 0 for seconds in nine.values())
    answer = segmenter(bundle, pipeline)(FRAMES[0])
    assert list(answer.timings) == ["contract", *stages, "check", "total"]


def test_segmenter_serves_frames_of_the_host_through_a_gpu_backend(pipeline: GpuPipeline, bundle: Bundle) -> None:
    segment = segmenter(bundle, pipeline)
    np.testing.assert_allclose(segment(FRAMES[0]).probability, light_probability(FRAMES[:1], bundle)[0], atol=1e-6)
    for result in segment.batch(FRAMES[:3]):
        np.testing.assert_array_equal(result.mask, result.probability >= np.float32(bundle.manifest.threshold))
    deep = np.rint(FRAMES[0] / 255 * 4095).astype(np.uint16)
    np.testing.assert_array_equal(segment(deep, bit_depth=12).mask, segment(FRAMES[0]).mask)


def test_self_test_by_a_gpu_backend_holds_the_limit_of_the_float16_network(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    segment = segmenter(bundle, GpuPipeline(bundle, lambda stream: float16, all_passed))
    assert [golden.name for golden in segment.self_test()] == list(bundle.manifest.goldens)
    float16.spoil = opposite
    with pytest.raises(ParityError, match=r"by tested, the limit is 0.99"):
        segment.self_test()


# frames on the device


class CudaBuffer:
    """A camera's buffer: knows `__cuda_array_interface__` and its shape."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        self.shape = values.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._values.__array_interface__, "version": 3, "stream": None}


class Dlpack:
    """A tensor of another library, on a GPU or (kind 1) on the host."""

    def __init__(self, values: NDArray[Any], kind: int = 2) -> None:
        self._values, self._kind = values, kind
        self.shape = values.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._kind, 0

    def __dlpack__(self, *, stream: Any = None) -> Any:
        assert stream is not None, "the producer must be told on which stream its array is read"
        return self._values


WAYS = {"cupy": fake_cupy.asarray, "interface": CudaBuffer, "dlpack": Dlpack}


@pytest.mark.parametrize("way", WAYS)
def test_frames_on_the_device_are_read_where_they_lie(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle, way: str
) -> None:
    segment = segmenter(bundle, pipeline)
    reference = segment(FRAMES[0])
    frames = WAYS[way](FRAMES[0].copy())
    cupy_on_cpu.copies.clear()
    answer = segment(frames)
    assert "to device" not in cupy_on_cpu.copies
    np.testing.assert_array_equal(answer.probability, reference.probability)
    np.testing.assert_array_equal(answer.mask, reference.mask)
    assert "upload" not in answer.timings


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, SIDE, 3)])
def test_a_frame_on_the_device_has_the_mask_that_it_has_from_the_host(
    pipeline: GpuPipeline, bundle: Bundle, shape: tuple[int, ...]
) -> None:
    frame = np.resize(FRAMES, shape)
    segment = segmenter(bundle, pipeline)
    np.testing.assert_array_equal(segment(CudaBuffer(frame)).mask, segment(frame).mask)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (3, SIDE, SIDE), (1, SIDE, SIDE, 3), (9, SIDE, SIDE, 3)])
def test_a_batch_on_the_device_has_the_masks_that_it_has_from_the_host(
    pipeline: GpuPipeline, bundle: Bundle, shape: tuple[int, ...]
) -> None:
    frames = np.resize(FRAMES, shape)
    segment = segmenter(bundle, pipeline)
    found, reference = segment.batch(CudaBuffer(frames)), segment.batch(frames)
    assert len(found) == len(reference) == shape[0]
    for ours, theirs in zip(found, reference, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_16_bit_frames_on_the_device_take_their_bit_depth(pipeline: GpuPipeline, bundle: Bundle) -> None:
    deep = np.rint(GREY[0] / 255 * 4095).astype(np.uint16)
    segment = segmenter(bundle, pipeline)
    np.testing.assert_array_equal(segment(CudaBuffer(deep), bit_depth=12).mask, segment(GREY[0]).mask)
    with pytest.raises(FrameError, match="need the scanner's bit_depth"):
        segment(CudaBuffer(deep))


def test_16_bit_frames_on_the_device_over_their_bit_depth_are_refused(
    cupy_on_cpu: ModuleType, bundle: Bundle, network: HostNetwork
) -> None:
    segment = segmenter(bundle, GpuPipeline(bundle, lambda stream: network, all_passed))
    deep = np.zeros((SIDE, SIDE), np.uint16)
    deep[5, 7] = 4096
    with pytest.raises(FrameError, match=r"declared 12-bit hold the value 4096, over 4095"):
        segment(CudaBuffer(deep), bit_depth=12)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((SIDE, SIDE + 1), np.uint8), "never resized"),
        (np.zeros((3, SIDE, SIDE), np.uint8), "move the channels last"),
        (np.zeros((SIDE, SIDE, 4), np.uint8), "without alpha"),
        (np.zeros((SIDE, SIDE), np.float32), "must be uint8, or uint16"),
        (np.zeros((SIDE, SIDE), np.int32), "got int32"),
    ],
)
def test_frames_on_the_device_that_break_the_contract_are_refused(
    pipeline: GpuPipeline, network: HostNetwork, bundle: Bundle, frames: NDArray[Any], words: str
) -> None:
    segment = segmenter(bundle, pipeline)
    network.runs.clear()
    with pytest.raises(FrameError, match=words):
        segment(CudaBuffer(frames))
    assert network.runs == []
    assert segment(FRAMES[0]).mask.shape == (SIDE, SIDE)


def test_frames_on_the_device_with_a_full_scale_are_refused(pipeline: GpuPipeline, bundle: Bundle) -> None:
    with pytest.raises(FrameError, match=r"frames on a GPU must be uint8, .* got full_scale 1.0"):
        segmenter(bundle, pipeline)(CudaBuffer(FRAMES[0]), full_scale=1.0)


def test_frames_on_another_gpu_are_refused(cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle) -> None:
    with cupy_on_cpu.cuda.Device(1):
        elsewhere = cupy_on_cpu.asarray(FRAMES[0])
    with pytest.raises(FrameError, match="frames lie on GPU 1, this Segmenter runs on GPU 0"):
        segmenter(bundle, pipeline)(elsewhere)


class OwnStream:
    """A tensor whose library has a current stream of its own, unknown to CuPy, as PyTorch does; by DLPack alone."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._stream = fake_cupy.Stream(non_blocking=True)
        self._array = fake_cupy.empty(values.shape, values.dtype)
        self._stream.put(lambda: np.copyto(self._array.host, values))
        self.shape = values.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> Any:
        fake_cupy.cuda.ExternalStream(stream).wait_event(self._stream.record())
        return self._array.host


class ByDlpack:
    """A CuPy array behind DLPack, which therefore follows CuPy's rule."""

    def __init__(self, values: NDArray[Any]) -> None:
        array = fake_cupy.asarray(values)
        self.shape, self.__dlpack__, self.__dlpack_device__ = array.shape, array.__dlpack__, array.__dlpack_device__


class WithoutStream:
    """An interface that does not say which stream writes the array, as PyTorch's."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._array = fake_cupy.asarray(values)
        self.shape = values.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._array.__cuda_array_interface__, "stream": None}


def any_stream() -> Any:
    return fake_cupy.Stream()


def non_blocking() -> Any:
    return fake_cupy.Stream(non_blocking=True)


def null() -> Any:
    return fake_cupy.Stream.null


@pytest.mark.parametrize(
    ("make", "callers"),
    [
        (fake_cupy.asarray, non_blocking),
        (fake_cupy.asarray, any_stream),
        (fake_cupy.asarray, null),
        (ByDlpack, non_blocking),
        (ByDlpack, null),
        (OwnStream, non_blocking),
        (OwnStream, null),
        (WithoutStream, non_blocking),
        (WithoutStream, null),
    ],
)
def test_frames_that_are_still_being_written_are_waited_for(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle, make: Any, callers: Any
) -> None:
    """Nothing on a stream is done before somebody waits for it: what is read too early is what was there before."""
    segment = segmenter(bundle, pipeline)
    wanted = segment(FRAMES[0])
    cupy_on_cpu.streams.late = True
    with callers():
        found = segment(make(FRAMES[0]))
    np.testing.assert_array_equal(found.probability, wanted.probability)


def test_the_host_goes_on_only_when_its_answer_is_there(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle
) -> None:
    cupy_on_cpu.streams.late = True
    for frames in (FRAMES[:1], FRAMES[:3], FRAMES[3:4]):
        answer = pipeline.infer(frames)
        np.testing.assert_allclose(answer.probability, light_probability(frames, bundle), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [CudaBuffer(FRAMES[0]), Dlpack(FRAMES[0]), Dlpack(FRAMES[0], kind=13)])
def test_a_cpu_backend_refuses_frames_on_a_gpu(demo_bundle: Path, frames: Any) -> None:
    with (
        Segmenter.open(demo_bundle, backend="onnxruntime") as segment,
        pytest.raises(FrameError, match=r"lie on a GPU, and onnxruntime takes NumPy arrays alone; copy them"),
    ):
        segment(frames)


def test_arrays_of_the_host_are_not_taken_for_the_devices() -> None:
    assert lies_on_gpu(CudaBuffer(FRAMES[0]))
    assert lies_on_gpu(Dlpack(FRAMES[0]))
    assert not lies_on_gpu(FRAMES)
    assert not lies_on_gpu(Dlpack(FRAMES[0], kind=1))
    assert not lies_on_gpu([[0]])


def test_only_gpu_backends_take_frames_on_the_device(pipeline: GpuPipeline, bundle: Bundle) -> None:
    assert isinstance(pipeline, DeviceBackend)
    assert not isinstance(OnnxRuntimeCpu(bundle), DeviceBackend)


# failures


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


# CUDA graphs


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


# goldens


def open_pipeline(bundle: Bundle, network: HostNetwork, verdicts: SelfTest) -> GpuPipeline:
    return GpuPipeline(bundle, lambda stream: network, verdicts)


def test_each_batch_size_runs_the_goldens_before_it_serves(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded()
    pipeline = open_pipeline(bundle, float16, verdicts)
    goldens = len(bundle.manifest.goldens)
    assert float16.runs == [1] + [1] * goldens
    assert list(verdicts.recorded) == [1]
    float16.runs.clear()
    pipeline.infer(FRAMES)
    assert float16.runs == [8, 8, *[1, 8] * 3, 8]  # preparation, goldens, timed in turn, frames
    assert list(verdicts.recorded) == [1, 8]
    assert all(result.dice >= 0.99 for results in verdicts.recorded.values() for result in results)
    float16.runs.clear()
    pipeline.infer(FRAMES)
    assert float16.runs == [8]


def test_a_batch_size_that_has_passed_before_is_not_tested_again(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded(known={1})
    pipeline = open_pipeline(bundle, float16, verdicts)
    pipeline.infer(FRAMES[:1])
    assert float16.runs == [1, 1, 1]  # preparation, a black frame, the frame
    assert verdicts.recorded == {}


def opposite(logits: NDArray[np.float32]) -> None:
    np.negative(logits, out=logits)


def test_a_network_that_does_not_reproduce_the_goldens_refuses_to_open(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded()
    float16.spoil = opposite
    with pytest.raises(ParityError) as failure:
        open_pipeline(bundle, float16, verdicts)
    assert "by the network under test in batches of 1, the limit is 0.99; do not use its" in str(failure.value)
    assert verdicts.recorded == {}


def test_a_batch_size_that_does_not_reproduce_the_goldens_never_serves(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    pipeline = open_pipeline(bundle, float16, Recorded())

    def wrong_in_eights(logits: NDArray[np.float32]) -> None:
        if len(logits) == 8:
            opposite(logits)

    float16.spoil = wrong_in_eights
    for _ in range(2):
        with pytest.raises(ParityError, match="in batches of 8"):
            pipeline.infer(FRAMES[:3])
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


@pytest.mark.parametrize(
    ("limit", "words"), [("worst_dice", "has Dice .*, the limit is 1.01"), ("mean_dice", "a mean Dice of .* is 1.01")]
)
def test_the_limits_are_the_float16_networks_for_the_worst_golden_and_for_their_mean(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network, limit: str, words: str
) -> None:
    limits = bundle.manifest.limits_of(FP16).model_copy(update={limit: 1.01})
    artefacts = tuple(
        artefact.model_copy(update={"limits": limits}) if artefact.role == FP16 else artefact
        for artefact in bundle.manifest.artefacts
    )
    strict = replace(bundle, manifest=bundle.manifest.model_copy(update={"artefacts": artefacts}))
    with pytest.raises(ParityError, match=words):
        open_pipeline(strict, float16, Recorded())


def test_a_golden_that_says_otherwise_refuses_to_open(
    cupy_on_cpu: ModuleType, bundle_copy: Path, float16: Float16Network
) -> None:
    name = alter_golden(bundle_copy, number=-1, frame=np.full((SIDE, SIDE, 3), 255, np.uint8) - FRAMES[0])
    with pytest.raises(ParityError, match=name):
        open_pipeline(Bundle.open(bundle_copy), float16, Recorded())


def test_goldens_with_logits_that_are_no_numbers_refuse_to_open(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    float16.spoil = lambda logits: logits.fill(np.nan)
    with pytest.raises(BreastsegError, match="NaN or infinite"):
        open_pipeline(bundle, float16, Recorded())
