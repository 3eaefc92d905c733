"""The wrapper around the kernels: contract, buffers and streams over a device made of NumPy; then on a real one."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.errors import ArgumentError, FrameError, MachineError
from breastseg_deploy.gpu.arrays import device_view
from breastseg_deploy.gpu.ops import Kernels, check_range
from breastseg_deploy.preprocess import tensor as preprocess
from breastseg_deploy.preprocess.gabor import GaborParameters

SIZE = (32, 38)
PAPER = GaborParameters()
TOLERANCE = 1e-5
"""Promised in gpu.ops; what 256 sums in float32 may lose, and the float32 reference as well."""


def noise(*shape: int, below: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, below, shape, dtype)


FRAMES = noise(1, *SIZE, 3)


def tensor_of(
    cupy: Any,
    frames: Any,
    size: tuple[int, int] = SIZE,
    bank: GaborParameters = PAPER,
    *,
    bit_depth: int | None = None,
) -> tuple[Any, Any]:
    """The tensor of frames on the device, and the brightest value over white."""
    out, over_range = cupy.empty((len(frames), 4, *size), np.float32), cupy.zeros((1,), np.int32)
    Kernels(size, bank).network_input(frames, bit_depth=bit_depth, out=out, over_range=over_range)
    return out, over_range


def mask_of(cupy: Any, logits: Any, threshold: float = 0.5) -> tuple[Any, Any, Any]:
    """Mask, probability and flag of logits on the device."""
    shape = (len(logits), *logits.shape[2:])
    mask, probability = cupy.empty(shape, np.uint8), cupy.empty(shape, np.float32)
    flag = cupy.empty((1,), np.int32)
    Kernels(SIZE, PAPER).mask_of_logits(logits, threshold, mask=mask, probability=probability, not_finite=flag)
    return mask, probability, flag


def assert_close(found: Any, frames: NDArray[Any], size: tuple[int, int] = SIZE, bit_depth: int | None = None) -> None:
    expected = preprocess.network_input(rgb_batch(frames, size, bit_depth=bit_depth))
    np.testing.assert_allclose(found.get(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(1, *SIZE), (2, *SIZE), (2, *SIZE, 1), (2, *SIZE, 3)])
def test_every_shape_of_the_contract_gives_the_reference(cupy_on_cpu: ModuleType, shape: tuple[int, ...]) -> None:
    frames = noise(*shape)
    assert_close(tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(frames))[0], frames)


@pytest.mark.parametrize("kind", [int, np.uint8])
def test_12_bit_frames_give_the_reference(cupy_on_cpu: ModuleType, kind: type) -> None:
    """In NumPy's uint8, 2 ** 12 would be 0."""
    frames = noise(1, *SIZE, 3, below=4096, dtype=np.uint16)
    assert_close(tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(frames), bit_depth=kind(12))[0], frames, bit_depth=12)


def test_bank_parameters_reach_the_kernel(cupy_on_cpu: ModuleType) -> None:
    bank = GaborParameters((6.0,), orientations=2)
    found, _ = tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(FRAMES), bank=bank)
    expected = preprocess.network_input(FRAMES, bank)
    np.testing.assert_allclose(found.get(), expected, rtol=0, atol=TOLERANCE)


class CameraBuffer:
    """Device memory of somebody else, with one of the two protocols."""

    def __init__(self, frame: NDArray[Any], protocol: str) -> None:
        self.streams: list[int | None] = []
        if protocol == "dlpack":
            self.__class__ = type("DlpackBuffer", (CameraBuffer,), {"__dlpack__": dlpack, "__dlpack_device__": place})
        else:
            pointer = (frame.ctypes.data, False)
            self.__cuda_array_interface__ = {
                "shape": frame.shape, "typestr": frame.dtype.str, "data": pointer, "strides": None, "version": 3,
            }  # fmt: skip
        self.frame = frame


def dlpack(self: CameraBuffer, stream: int | None = None, **_: Any) -> Any:
    self.streams.append(stream)
    return self.frame


def place(self: CameraBuffer) -> tuple[int, int]:
    return 2, 0


@pytest.mark.parametrize("protocol", ["cuda array interface", "dlpack"])
def test_memory_of_others_is_read_where_it_lies(cupy_on_cpu: ModuleType, protocol: str) -> None:
    camera = CameraBuffer(FRAMES.copy(), protocol)
    view = device_view(cupy_on_cpu, camera)
    assert (cupy_on_cpu.allocations, cupy_on_cpu.copies) == ([], [])
    camera.frame[:] = 255 - camera.frame
    assert_close(tensor_of(cupy_on_cpu, view)[0], camera.frame)


def test_dlpack_producers_are_told_the_stream(cupy_on_cpu: ModuleType) -> None:
    stream, camera = cupy_on_cpu.cuda.Stream(), CameraBuffer(FRAMES, "dlpack")
    with stream:
        device_view(cupy_on_cpu, camera)
    assert camera.streams == [stream.ptr]


def test_who_speaks_both_protocols_is_told_the_stream(cupy_on_cpu: ModuleType) -> None:
    camera = CameraBuffer(FRAMES, "dlpack")
    camera.__cuda_array_interface__ = CameraBuffer(FRAMES, "cuda array interface").__cuda_array_interface__
    device_view(cupy_on_cpu, camera)
    assert len(camera.streams) == 1


def test_the_second_call_allocates_copies_compiles_and_waits_for_nothing(cupy_on_cpu: ModuleType) -> None:
    cupy, stream = cupy_on_cpu, cupy_on_cpu.cuda.Stream()
    frames, logits = (
        cupy.asarray(noise(1, *SIZE, 3, below=4096, dtype=np.uint16)),
        cupy.zeros((1, 1, *SIZE), np.float32),
    )
    out, flags = cupy.empty((1, 4, *SIZE), np.float32), [cupy.empty((1,), np.int32) for _ in range(2)]
    mask, probability = cupy.empty((1, *SIZE), np.uint8), cupy.empty((1, *SIZE), np.float32)

    kernels = Kernels(SIZE, PAPER)

    def both() -> None:
        kernels.network_input(frames, bit_depth=12, out=out, over_range=flags[0])
        kernels.mask_of_logits(logits, 0.5, mask=mask, probability=probability, not_finite=flags[1])

    with stream:
        both()
        before = len(cupy.allocations), len(cupy.copies), len(cupy.modules), stream.synchronized
        both()
    assert (len(cupy.allocations), len(cupy.copies), len(cupy.modules), stream.synchronized) == before


def test_kernels_run_on_the_current_stream(cupy_on_cpu: ModuleType) -> None:
    stream = cupy_on_cpu.cuda.Stream()
    with stream:
        tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(FRAMES))
        mask_of(cupy_on_cpu, cupy_on_cpu.zeros((1, 1, 4, 4), np.float32))
    assert cupy_on_cpu.launches == [("edge_tensor", stream.ptr), ("logits_to_mask", stream.ptr)]


def test_modules_and_bank_are_made_once_and_belong_to_their_kernels(cupy_on_cpu: ModuleType) -> None:
    frames, flag = cupy_on_cpu.asarray(FRAMES), cupy_on_cpu.zeros((1,), np.int32)
    out = cupy_on_cpu.empty((1, 4, *SIZE), np.float32)
    for kernels in (Kernels(SIZE, PAPER), Kernels(SIZE, PAPER)):
        for _ in range(2):
            kernels.network_input(frames, out=out, over_range=flag)
    assert len(cupy_on_cpu.modules) == 2
    assert cupy_on_cpu.allocations.count((1, 16, 16, 24)) == 2


@pytest.mark.parametrize(
    ("frames", "bit_depth", "message"),
    [
        (np.zeros((1, 32, 37, 3), np.uint8), None, "the first axis of a batch is N, and each of its frames is"),
        (np.zeros((1, *SIZE, 4), np.uint8), None, "keep one channel, or R, G and B without alpha"),
        (np.zeros((0, *SIZE, 3), np.uint8), None, "the first axis of a batch is N"),
        (np.zeros((1, *SIZE), np.uint16), None, r"need the scanner's bit_depth \(9 to 16\), got None"),
        (np.zeros((1, *SIZE), np.uint8), 12, "uint8 frames have 8 bits"),
        (np.zeros((1, *SIZE), np.int32), None, "frames must be uint8, uint16 with bit_depth, or floating point"),
        (np.zeros((1, *SIZE), np.float32), None, "frames for the GPU must be uint8, or uint16 with bit_depth"),
        (np.zeros((1, *SIZE), ">u2"), 12, "must have this machine's byte order, got >u2"),
    ],
)
def test_frames_that_break_the_contract_are_refused(
    cupy_on_cpu: ModuleType, frames: NDArray[Any], bit_depth: int | None, message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(frames), bit_depth=bit_depth)


def test_scattered_frames_are_refused(cupy_on_cpu: ModuleType) -> None:
    frames = cupy_on_cpu.asarray(noise(1, 32, 80, 3))[:, :, 12:50]
    with pytest.raises(FrameError, match=r"must be C-contiguous, got shape \(1, 32, 38, 3\)"):
        tensor_of(cupy_on_cpu, frames)


def test_the_brightest_value_over_white_is_kept_and_refused(cupy_on_cpu: ModuleType) -> None:
    _, flag = tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(np.full((1, *SIZE), 5000, np.uint16)), bit_depth=12)
    with pytest.raises(FrameError, match="declared 12-bit hold the value 5000, over 4095; check bit_depth"):
        check_range(int(flag.get()[0]), 12)


def test_a_flag_of_earlier_frames_is_cleared(cupy_on_cpu: ModuleType) -> None:
    out, flag = cupy_on_cpu.empty((1, 4, *SIZE), np.float32), cupy_on_cpu.asarray(np.array([5000], np.int32))
    frames = cupy_on_cpu.asarray(np.full((1, *SIZE), 4095, np.uint16))
    Kernels(SIZE, PAPER).network_input(frames, bit_depth=12, out=out, over_range=flag)
    check_range(int(flag.get()[0]), 12)


def test_frames_under_32_pixels_and_banks_that_are_not_even_are_refused(cupy_on_cpu: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="at least 32 x 32 px, got 16 x 64"):
        tensor_of(cupy_on_cpu, cupy_on_cpu.zeros((1, 16, 64), np.uint8), (16, 64))
    with pytest.raises(ArgumentError, match="psi_rad must be a multiple of pi"):
        tensor_of(cupy_on_cpu, cupy_on_cpu.asarray(FRAMES), bank=GaborParameters(psi_rad=1.0))


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
        write_to(cupy_on_cpu, cupy_on_cpu.empty(shape, dtype))


def test_a_scattered_or_foreign_result_is_refused(cupy_on_cpu: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="got strides"):
        write_to(cupy_on_cpu, cupy_on_cpu.empty((1, 4, 32, 80), np.float32)[..., 12:50])
    with pytest.raises(ArgumentError, match="got ndarray; make it"):
        write_to(cupy_on_cpu, np.empty((1, 4, *SIZE), np.float32))
    with cupy_on_cpu.cuda.Device(1):
        out = cupy_on_cpu.empty((1, 4, *SIZE), np.float32)
    with pytest.raises(ArgumentError, match="on device 0 with the input, got device 1"):
        write_to(cupy_on_cpu, out)


def write_to(cupy: Any, out: Any) -> None:
    frames, over_range = cupy.asarray(FRAMES), cupy.zeros((1,), np.int32)
    Kernels(SIZE, PAPER).network_input(frames, out=out, over_range=over_range)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_mask_is_sigmoid_over_threshold(cupy_on_cpu: ModuleType, threshold: float) -> None:
    logits = (np.random.default_rng(1).standard_normal((2, 1, 13, 29)) * 8).astype(np.float32)
    logits[0, 0, 0, :3] = 0, 60000, -60000
    mask, probability, flag = (found.get() for found in mask_of(cupy_on_cpu, cupy_on_cpu.asarray(logits), threshold))
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mask, (probability >= threshold).astype(np.uint8))
    assert mask[0, 0, 0] == (threshold <= 0.5)
    assert not flag[0]


def test_mask_without_probabilities_is_the_same(cupy_on_cpu: ModuleType) -> None:
    logits = cupy_on_cpu.asarray(np.linspace(-4, 4, 300, dtype=np.float32).reshape(1, 1, 3, 100))
    both, _, flag = mask_of(cupy_on_cpu, logits, 0.4)
    alone = cupy_on_cpu.empty((1, 3, 100), np.uint8)
    Kernels(SIZE, PAPER).mask_of_logits(logits, 0.4, mask=alone, probability=None, not_finite=flag)
    np.testing.assert_array_equal(alone.get(), both.get())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_is_flagged_and_the_flag_cleared(cupy_on_cpu: ModuleType, value: float) -> None:
    logits = np.zeros((2, 1, 5, 7), np.float32)
    logits[1, 0, 4, 6] = value
    mask, probability, flag = mask_of(cupy_on_cpu, cupy_on_cpu.asarray(logits))
    assert flag.get()[0]
    healthy = cupy_on_cpu.zeros((2, 1, 5, 7), np.float32)
    Kernels(SIZE, PAPER).mask_of_logits(healthy, 0.5, mask=mask, probability=probability, not_finite=flag)
    assert not flag.get()[0]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(cupy_on_cpu: ModuleType, threshold: float) -> None:
    with pytest.raises(ArgumentError, match="threshold must be a probability"):
        mask_of(cupy_on_cpu, cupy_on_cpu.zeros((1, 1, 4, 4), np.float32), threshold)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 4, 4), np.float32), ((1, 2, 4, 4), np.float32), ((1, 1, 4, 4), np.float16)]
)
def test_logits_of_another_shape_or_dtype_are_refused(
    cupy_on_cpu: ModuleType, shape: tuple[int, ...], dtype: Any
) -> None:
    with pytest.raises(ArgumentError, match="logits must be a C-contiguous CuPy array of float32"):
        mask_of(cupy_on_cpu, cupy_on_cpu.zeros(shape, dtype))


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MachineError, match=r"breastseg-deploy\[gpu\]"):
        Kernels(SIZE, PAPER).network_input(FRAMES, out=None, over_range=None)


# ---- on a GPU ----


@pytest.fixture
def cupy() -> Any:
    """CuPy itself."""
    return pytest.importorskip("cupy", reason="no CuPy: pip install 'breastseg-deploy[gpu]'")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 512, 512, 3), (8, 512, 512, 3), (3, 33, 47, 3), (2, 1080, 1918, 1)])
def test_device_gives_the_reference(cupy: Any, shape: tuple[int, int, int, int]) -> None:
    frames, size = noise(*shape), shape[1:3]
    assert_close(tensor_of(cupy, cupy.asarray(frames), size)[0], frames, size)


@pytest.mark.gpu
def test_device_reads_16_bit_frames_as_the_contract_does(cupy: Any) -> None:
    frames = noise(2, *SIZE, 3, below=4096, dtype=np.uint16)
    out, flag = tensor_of(cupy, cupy.asarray(frames), bit_depth=12)
    assert_close(out, frames, bit_depth=12)
    assert flag.get()[0] == 0
    _, flag = tensor_of(cupy, cupy.asarray(frames), bit_depth=9)
    assert flag.get()[0] == frames.max()


@pytest.mark.gpu
def test_device_takes_torch_tensors_without_a_copy(cupy: Any) -> None:
    torch = pytest.importorskip("torch")
    frames = torch.from_numpy(noise(1, *SIZE, 3)).cuda()
    torch.cuda.synchronize()
    view = device_view(cupy, frames)
    assert view.data.ptr == frames.data_ptr()
    assert_close(tensor_of(cupy, view)[0], frames.cpu().numpy())


@pytest.mark.gpu
def test_device_flags_logits_that_are_no_numbers(cupy: Any) -> None:
    logits = cupy.zeros((1, 1, 64, 64), np.float32)
    assert not mask_of(cupy, logits)[2].get()[0]
    logits[0, 0, 63, 63] = np.nan
    assert mask_of(cupy, logits)[2].get()[0]


@pytest.mark.gpu
def test_both_kernels_can_be_captured(cupy: Any) -> None:
    size = (512, 512)
    frames, logits = cupy.asarray(noise(1, *size, 3)), cupy.ones((1, 1, *size), np.float32)
    out, mask = cupy.empty((1, 4, *size), np.float32), cupy.empty((1, *size), np.uint8)
    flag, stream = cupy.empty((1,), np.int32), cupy.cuda.Stream(non_blocking=True)

    kernels = Kernels(size, PAPER)

    def both() -> None:
        kernels.network_input(frames, out=out, over_range=flag)
        kernels.mask_of_logits(logits, 0.5, mask=mask, probability=None, not_finite=flag)

    cupy.cuda.Device().synchronize()
    with stream:
        both()
        out.fill(np.nan)
        stream.begin_capture()
        both()
        graph = stream.end_capture()
        graph.launch(stream)
    stream.synchronize()
    assert_close(out, frames.get(), size)
    assert mask.get().all()


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 4, 8])
def test_device_time_is_printed(
    cupy: Any, count: int, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    """A figure, no limit: GPUs differ. Median of 200 launches, each between two events, after 20 to warm up."""
    size = (512, 512)
    frames, out = cupy.asarray(noise(count, *size, 3)), cupy.empty((count, 4, *size), np.float32)
    flag = cupy.zeros((1,), np.int32)
    kernels, before, after = Kernels(size, PAPER), cupy.cuda.Event(), cupy.cuda.Event()
    times_ms = []
    for turn in range(220):
        before.record()
        kernels.network_input(frames, out=out, over_range=flag)
        after.record()
        after.synchronize()
        if turn >= 20:
            times_ms.append(cupy.cuda.get_elapsed_time(before, after))
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    line = f"edge_tensor, {count} x 512 x 512, {name}: {np.median(times_ms):.4f} ms, fastest {min(times_ms):.4f} ms"
    record_property("edge_tensor", line)
    with capsys.disabled():
        print(f"\n{line}")
