"""The wrapper around the kernels: contract, buffers and streams over a device made of NumPy; then on a real one."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.errors import ArgumentError, BackendError, FrameError, MachineError
from breastseg_deploy.gpu import ops as gpu_ops
from breastseg_deploy.preprocess import tensor as preprocess
from breastseg_deploy.preprocess.gabor import GaborParameters

SIZE = (32, 38)
TOLERANCE = 1e-5
"""Promised in gpu.ops; what 256 sums in float32 may lose, and the float32 reference as well."""


def noise(*shape: int, below: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, below, shape, dtype)


FRAME = noise(*SIZE, 3)


def reference(frames: NDArray[Any], bit_depth: int | None = None) -> NDArray[np.float32]:
    return preprocess.network_input(rgb_batch(frames, SIZE, bit_depth=bit_depth))


def assert_close(found: Any, expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(found.get(), expected, rtol=0, atol=TOLERANCE)


class CameraBuffer:
    """Device memory of somebody else, with one of the two protocols."""

    def __init__(self, frame: NDArray[Any], protocol: str, kind: int = 2) -> None:
        self.streams: list[int | None] = []
        if protocol == "dlpack":
            self.__class__ = type("DlpackBuffer", (CameraBuffer,), {"__dlpack__": dlpack, "__dlpack_device__": place})
        else:
            pointer = (frame.ctypes.data, False)
            self.__cuda_array_interface__ = {
                "shape": frame.shape, "typestr": frame.dtype.str, "data": pointer, "strides": None, "version": 3,
            }  # fmt: skip
        self.frame, self.kind = frame, kind


def dlpack(self: CameraBuffer, stream: int | None = None, **_: Any) -> Any:
    self.streams.append(stream)
    return self.frame if self.kind == 2 else self.frame.__dlpack__()


def place(self: CameraBuffer) -> tuple[int, int]:
    return self.kind, 0


def test_frames_of_the_host_give_the_reference(cupy_on_cpu: ModuleType) -> None:
    tensor = gpu_ops.network_input(FRAME, SIZE)
    assert isinstance(tensor, cupy_on_cpu.ndarray)
    assert tensor.dtype == np.float32
    assert_close(tensor, reference(FRAME))


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (2, *SIZE), (2, *SIZE, 1), (2, *SIZE, 3)])
def test_every_shape_of_the_contract_is_taken(cupy_on_cpu: ModuleType, shape: tuple[int, ...]) -> None:
    frames = noise(*shape)
    assert_close(gpu_ops.network_input(frames, SIZE), reference(frames))


def test_a_12_bit_frame_of_another_byte_order_is_read(cupy_on_cpu: ModuleType) -> None:
    frames = noise(*SIZE, 3, below=4096, dtype=np.uint16).astype(">u2")
    assert_close(gpu_ops.network_input(frames, SIZE, bit_depth=12), reference(frames, 12))


def test_a_scattered_frame_of_the_host_is_gathered(cupy_on_cpu: ModuleType) -> None:
    frame = noise(32, 80, 3)[:, 12:50]
    assert_close(gpu_ops.network_input(frame, SIZE), reference(frame))


def test_bank_parameters_reach_the_kernel(cupy_on_cpu: ModuleType) -> None:
    bank = GaborParameters((6.0,), orientations=2)
    assert_close(gpu_ops.network_input(FRAME, SIZE, bank), preprocess.network_input(FRAME[np.newaxis], bank))


@pytest.mark.parametrize("protocol", ["cuda array interface", "dlpack"])
def test_memory_of_others_is_read_where_it_lies(cupy_on_cpu: ModuleType, protocol: str) -> None:
    camera = CameraBuffer(FRAME.copy(), protocol)
    out = cupy_on_cpu.empty((1, 4, *SIZE), np.float32)
    gpu_ops.network_input(camera, SIZE, out=out)
    before = len(cupy_on_cpu.allocations), len(cupy_on_cpu.copies)
    camera.frame[:] = 255 - camera.frame
    gpu_ops.network_input(camera, SIZE, out=out)
    assert (len(cupy_on_cpu.allocations), len(cupy_on_cpu.copies)) == before
    assert_close(out, reference(camera.frame))


def test_dlpack_producers_are_told_the_stream(cupy_on_cpu: ModuleType) -> None:
    stream, camera = cupy_on_cpu.cuda.Stream(), CameraBuffer(FRAME, "dlpack")
    gpu_ops.network_input(camera, SIZE, stream=stream)
    assert camera.streams == [stream.ptr]


def test_who_speaks_both_protocols_is_told_the_stream(cupy_on_cpu: ModuleType) -> None:
    camera = CameraBuffer(FRAME, "dlpack")
    camera.__cuda_array_interface__ = CameraBuffer(FRAME, "cuda array interface").__cuda_array_interface__
    gpu_ops.network_input(camera, SIZE)
    assert len(camera.streams) == 1


def test_dlpack_of_the_host_is_uploaded(cupy_on_cpu: ModuleType) -> None:
    assert_close(gpu_ops.network_input(CameraBuffer(FRAME, "dlpack", kind=1), SIZE), reference(FRAME))


def test_a_given_buffer_is_written(cupy_on_cpu: ModuleType) -> None:
    out = cupy_on_cpu.empty((1, 4, *SIZE), np.float32)
    assert gpu_ops.network_input(FRAME, SIZE, out=out) is out
    assert_close(out, reference(FRAME))


def test_with_every_buffer_given_nothing_is_allocated_and_nothing_waited_for(cupy_on_cpu: ModuleType) -> None:
    cupy, stream = cupy_on_cpu, cupy_on_cpu.cuda.Stream()
    frames = cupy.asarray(noise(*SIZE, 3, below=4096, dtype=np.uint16))
    out, logits = cupy.empty((1, 4, *SIZE), np.float32), cupy.asarray(np.zeros((1, *SIZE), np.float32))
    mask, probability = cupy.empty((1, *SIZE), np.uint8), cupy.empty((1, *SIZE), np.float32)
    flags = [cupy.empty((1,), np.int32) for _ in range(2)]

    def both() -> None:
        gpu_ops.network_input(frames, SIZE, bit_depth=12, out=out, over_range=flags[0], stream=stream)
        gpu_ops.mask_of_logits(logits, 0.5, mask=mask, probability=probability, not_finite=flags[1], stream=stream)

    both()
    before = len(cupy.allocations), len(cupy.copies), len(cupy.modules), stream.synchronized
    both()
    assert (len(cupy.allocations), len(cupy.copies), len(cupy.modules), stream.synchronized) == before


def test_kernels_run_on_the_stream_that_was_given_or_is_current(cupy_on_cpu: ModuleType) -> None:
    given, current = cupy_on_cpu.cuda.Stream(), cupy_on_cpu.cuda.Stream()
    logits = cupy_on_cpu.zeros((1, 4, 4), np.float32)
    with current:
        gpu_ops.network_input(FRAME, SIZE)
        gpu_ops.network_input(FRAME, SIZE, stream=given)
        gpu_ops.mask_of_logits(logits, 0.5)
        gpu_ops.mask_of_logits(logits, 0.5, stream=given)
    edge, mask = "edge_tensor", "logits_to_mask"
    streams = [(edge, current.ptr), (edge, given.ptr), (mask, current.ptr), (mask, given.ptr)]
    assert cupy_on_cpu.launches == streams


def test_modules_and_banks_are_made_once_for_each_device(cupy_on_cpu: ModuleType) -> None:
    for device in (0, 1, 0, 1):
        with cupy_on_cpu.cuda.Device(device):
            frames = cupy_on_cpu.asarray(FRAME)
        gpu_ops.network_input(frames, SIZE)
    assert [device for device, _ in cupy_on_cpu.modules] == [0, 1]
    assert cupy_on_cpu.allocations.count((1, 16, 16, 24)) == 2


@pytest.mark.parametrize(
    ("frames", "bit_depth", "message"),
    [
        (np.zeros((32, 37, 3), np.uint8), None, r"frames must be \(32, 38\) grey"),
        (np.zeros((*SIZE, 4), np.uint8), None, "keep one channel, or R, G and B without alpha"),
        (np.zeros((0, *SIZE, 3), np.uint8), None, "there is no frame in it"),
        (np.zeros(SIZE, np.uint16), None, r"need the scanner's bit_depth \(9 to 16\), got None"),
        (np.zeros(SIZE, np.uint8), 12, "uint8 frames have 8 bits"),
        (np.zeros(SIZE, np.int32), None, "frames must be uint8, uint16 with bit_depth, or floating point"),
        (np.zeros(SIZE, np.float32), None, "frames for the GPU must be uint8, or uint16 with bit_depth, got float32"),
        (np.full(SIZE, 5000, np.uint16), 12, "declared 12-bit hold the value 5000, over 4095; check bit_depth"),
        (np.ma.masked_array(FRAME), None, "got MaskedArray"),
        ([[0] * 38] * 32, None, "got list; numpy.asarray makes an array"),
    ],
)
def test_frames_that_break_the_contract_are_refused(
    cupy_on_cpu: ModuleType, frames: Any, bit_depth: int | None, message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        gpu_ops.network_input(frames, SIZE, bit_depth=bit_depth)


def test_scattered_frames_on_the_device_are_refused(cupy_on_cpu: ModuleType) -> None:
    frames = cupy_on_cpu.asarray(noise(32, 80, 3))[:, 12:50]
    with pytest.raises(FrameError, match=r"must be C-contiguous, got shape \(32, 38, 3\) with strides \(240, 3, 1\)"):
        gpu_ops.network_input(frames, SIZE)


def test_values_over_white_are_left_to_whoever_gave_the_flag(cupy_on_cpu: ModuleType) -> None:
    flag = cupy_on_cpu.empty((1,), np.int32)
    gpu_ops.network_input(np.full(SIZE, 5000, np.uint16), SIZE, bit_depth=12, over_range=flag)
    with pytest.raises(FrameError, match="hold the value 5000, over 4095"):
        gpu_ops.check_range(int(flag.get()[0]), 12)
    gpu_ops.network_input(np.full(SIZE, 4095, np.uint16), SIZE, bit_depth=12, over_range=flag)
    gpu_ops.check_range(int(flag.get()[0]), 12)


def test_frames_under_32_pixels_and_banks_that_are_not_even_are_refused(cupy_on_cpu: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="at least 32 x 32 px, got 16 x 64"):
        gpu_ops.network_input(np.zeros((16, 64), np.uint8), (16, 64))
    with pytest.raises(ArgumentError, match="psi_rad must be a multiple of pi"):
        gpu_ops.network_input(FRAME, SIZE, GaborParameters(psi_rad=1.0))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 3, *SIZE), np.float32, r"shape \(1, 4, 32, 38\), got float32 \(1, 3, 32, 38\)"),
        ((1, 4, *SIZE), np.float16, "of float32, .* got float16"),
    ],
)
def test_a_result_of_another_shape_or_dtype_is_refused(
    cupy_on_cpu: ModuleType, shape: tuple[int, ...], dtype: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        gpu_ops.network_input(FRAME, SIZE, out=cupy_on_cpu.empty(shape, dtype))


def test_a_scattered_or_foreign_result_is_refused(cupy_on_cpu: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="got strides"):
        gpu_ops.network_input(FRAME, SIZE, out=cupy_on_cpu.empty((1, 4, 32, 80), np.float32)[..., 12:50])
    with pytest.raises(ArgumentError, match="got ndarray; make it"):
        gpu_ops.network_input(FRAME, SIZE, out=np.empty((1, 4, *SIZE), np.float32))
    frames = cupy_on_cpu.asarray(FRAME)
    with cupy_on_cpu.cuda.Device(1):
        out = cupy_on_cpu.empty((1, 4, *SIZE), np.float32)
    with pytest.raises(ArgumentError, match="on device 0 with the input, got device 1"):
        gpu_ops.network_input(frames, SIZE, out=out)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_mask_is_sigmoid_over_threshold(cupy_on_cpu: ModuleType, threshold: float) -> None:
    logits = (np.random.default_rng(1).standard_normal((2, 1, 13, 29)) * 8).astype(np.float32)
    logits[0, 0, 0, :3] = 0, 60000, -60000
    found = gpu_ops.mask_of_logits(cupy_on_cpu.asarray(logits), threshold, with_probability=True)
    found.check()
    assert found.probability is not None
    probability = found.probability.get()
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.mask.get(), (probability >= threshold).astype(np.uint8))
    assert found.mask.get()[0, 0, 0] == (threshold <= 0.5)


def test_mask_without_probabilities_is_the_same(cupy_on_cpu: ModuleType) -> None:
    logits = cupy_on_cpu.asarray(np.linspace(-4, 4, 300, dtype=np.float32).reshape(1, 3, 100))
    alone, both = (gpu_ops.mask_of_logits(logits, 0.4, with_probability=wanted) for wanted in (False, True))
    assert alone.probability is None
    np.testing.assert_array_equal(alone.mask.get(), both.mask.get())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_is_no_background(cupy_on_cpu: ModuleType, value: float) -> None:
    logits = np.zeros((2, 5, 7), np.float32)
    logits[1, 4, 6] = value
    flag = cupy_on_cpu.empty((1,), np.int32)
    with pytest.raises(BackendError, match="logits must be finite, got NaN or infinity"):
        gpu_ops.mask_of_logits(cupy_on_cpu.asarray(logits), 0.5, not_finite=flag).check()
    logits[1, 4, 6] = 0
    gpu_ops.mask_of_logits(cupy_on_cpu.asarray(logits), 0.5, not_finite=flag).check()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(cupy_on_cpu: ModuleType, threshold: float) -> None:
    with pytest.raises(ArgumentError, match="threshold must be a probability"):
        gpu_ops.mask_of_logits(cupy_on_cpu.zeros((1, 4, 4), np.float32), threshold)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 4), np.float32), ((1, 2, 4, 4), np.float32), ((1, 1, 1, 4, 4), np.float32), ((1, 4, 4), np.float16)],
)
def test_logits_of_another_shape_or_dtype_are_refused(
    cupy_on_cpu: ModuleType, shape: tuple[int, ...], dtype: Any
) -> None:
    with pytest.raises(ArgumentError, match="logits must be a C-contiguous CuPy array of float32"):
        gpu_ops.mask_of_logits(cupy_on_cpu.zeros(shape, dtype), 0.5)


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MachineError, match=r"breastseg-deploy\[gpu\]"):
        gpu_ops.network_input(FRAME, SIZE)


# ---- on a GPU ----


@pytest.fixture
def cupy() -> Any:
    """CuPy itself."""
    return pytest.importorskip("cupy", reason="no CuPy: pip install 'breastseg-deploy[gpu]'")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 512, 512, 3), (8, 512, 512, 3), (3, 33, 47, 3), (2, 1080, 1918, 1)])
def test_device_gives_the_reference(cupy: Any, shape: tuple[int, ...]) -> None:
    frames = noise(*shape)
    size = shape[1:3]
    assert_close(gpu_ops.network_input(frames, size), preprocess.network_input(rgb_batch(frames, size)))


@pytest.mark.gpu
def test_device_reads_16_bit_frames_as_the_contract_does(cupy: Any) -> None:
    frames = noise(2, *SIZE, 3, below=4096, dtype=np.uint16)
    assert_close(gpu_ops.network_input(frames, SIZE, bit_depth=12), reference(frames, 12))
    with pytest.raises(FrameError, match="over 511; check bit_depth"):
        gpu_ops.network_input(frames, SIZE, bit_depth=9)


@pytest.mark.gpu
def test_device_takes_torch_tensors_without_a_copy(cupy: Any) -> None:
    torch = pytest.importorskip("torch")
    frames = torch.from_numpy(noise(1, *SIZE, 3)).cuda()
    torch.cuda.synchronize()
    assert cupy.asarray(frames).data.ptr == frames.data_ptr()
    assert cupy.from_dlpack(frames).data.ptr == frames.data_ptr()
    assert_close(gpu_ops.network_input(frames, SIZE), reference(frames.cpu().numpy()))


@pytest.mark.gpu
def test_device_flags_logits_that_are_no_numbers(cupy: Any) -> None:
    logits = cupy.zeros((1, 64, 64), np.float32)
    gpu_ops.mask_of_logits(logits, 0.5).check()
    logits[0, 63, 63] = np.nan
    with pytest.raises(BackendError, match="logits must be finite"):
        gpu_ops.mask_of_logits(logits, 0.5).check()


@pytest.mark.gpu
def test_both_kernels_can_be_captured(cupy: Any) -> None:
    size = (512, 512)
    frames, logits = cupy.asarray(noise(1, *size, 3)), cupy.ones((1, *size), np.float32)
    out, mask = cupy.empty((1, 4, *size), np.float32), cupy.empty((1, *size), np.uint8)
    flag, stream = cupy.empty((1,), np.int32), cupy.cuda.Stream(non_blocking=True)

    def both() -> None:
        gpu_ops.network_input(frames, size, out=out, stream=stream)
        gpu_ops.mask_of_logits(logits, 0.5, mask=mask, not_finite=flag, stream=stream)

    both()
    stream.synchronize()
    out.fill(np.nan)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        both()
        graph = stream.end_capture()
        graph.launch(stream)
    stream.synchronize()
    assert_close(out, preprocess.network_input(frames.get()))
    assert mask.get().all()


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 4, 8])
def test_device_time_is_printed(
    cupy: Any, count: int, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    """A figure, no limit: GPUs differ. Median of 200 launches, each between two events, after 20 to warm up."""
    size = (512, 512)
    frames, out = cupy.asarray(noise(count, *size, 3)), cupy.empty((count, 4, *size), np.float32)
    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    times_ms = []
    for turn in range(220):
        before.record()
        gpu_ops.network_input(frames, size, out=out)
        after.record()
        after.synchronize()
        if turn >= 20:
            times_ms.append(cupy.cuda.get_elapsed_time(before, after))
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    line = f"edge_tensor, {count} x 512 x 512, {name}: {np.median(times_ms):.4f} ms, fastest {min(times_ms):.4f} ms"
    record_property("edge_tensor", line)
    with capsys.disabled():
        print(f"\n{line}")
