"""Frames that lie on the device already: read where they are, waited for, and refused where they break the contract."""

from __future__ import annotations

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
    CudaBuffer,
    HostNetwork,
    all_passed,
    light_probability,
    segmenter,
)
from numpy.typing import NDArray

from breastseg_deploy import FrameError, Segmenter
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeCpu
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.inference import DeviceBackend, lies_on_gpu


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
