"""The two kernels of the GPU path behind the CPU reference's contract: frames to tensor, logits to mask.

Nothing here waits for the GPU unless it says so, and with every buffer given nothing is allocated: after one call that
compiles the kernel and uploads the bank, the calls can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from breastseg_deploy.errors import ArgumentError, BackendError, FrameError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu.arrays import check_buffer, device_of, frame_count, on_device, taken
from breastseg_deploy.gpu.bank import folded_bank
from breastseg_deploy.gpu.sources import MASK_OPTIONS, edge_options, edge_shape, source
from breastseg_deploy.preprocess.gabor import GaborParameters, check_side

_MASK_THREADS = 256
_NO_POINTER = np.uint64(0)

_caches = threading.Lock()
_kernels: dict[tuple[int, str, tuple[str, ...]], Any] = {}
_banks: dict[tuple[int, GaborParameters], Any] = {}


@dataclass(frozen=True)
class DeviceMask:
    """A mask on the device, still being computed when the call returns.

    Attributes:
        mask: uint8, 0 or 1, in the shape of the logits without a channel axis.
        probability: float32 of the same shape, or None where it was not asked for.
        not_finite: (1,) int32; not 0 where a logit is NaN or infinite.
        stream: what computes it.
    """

    mask: Any
    probability: Any | None
    not_finite: Any
    stream: Any

    def check(self) -> None:
        """Wait for the mask, and refuse it where it rests on logits that are no numbers.

        Raises:
            BackendError: a logit was NaN or infinite.
        """
        with self.stream:
            broken = bool(self.not_finite.get()[0])
        if broken:
            raise BackendError(
                "logits must be finite, got NaN or infinity from the network; no mask is returned: "
                "run `breastseg verify` on this bundle, float16 may have overflowed"
            )


def network_input(
    frames: Any,
    size_px: tuple[int, int],
    parameters: GaborParameters | None = None,
    *,
    bit_depth: int | None = None,
    out: Any | None = None,
    over_range: Any | None = None,
    stream: Any | None = None,
) -> Any:
    """Frames to the network's tensor on the device, in one launch; the twin of `preprocess.network_input`.

    Args:
        frames: one frame (H, W[, 1 or 3]) or a batch of them, as `contract.rgb_batch` takes it, uint8 or uint16: a
            NumPy array (the call waits for its upload), a CuPy array, or anything with DLPack or
            `__cuda_array_interface__`. What lies on the device is read where it is, after its producer's stream as
            these protocols say, and must be C-contiguous. Floating point is refused: whoever has floats on a GPU can
            round them there.
        size_px: (H, W) that every frame must have, each >= 32.
        parameters: of the Gabor bank, the paper's by default; psi_rad must be a multiple of pi.
        bit_depth: for uint16, 9 to 16.
        out: device buffer (N, 4, H, W) float32 to write, such as an engine's input.
        over_range: for uint16, a (1,) int32 buffer on the device that takes the brightest value over white, 0 where
            there is none; whoever gives it passes it to `check_range`. Without it the call waits for the GPU and
            looks itself. uint8 needs neither.
        stream: CuPy stream to work on; the current one by default.

    Returns:
        CuPy array (N, 4, H, W), float32, `out` where it was given. Within 1e-5 of the reference.

    Raises:
        FrameError: frames that break the contract, lie scattered in device memory, or come in no known form.
        ArgumentError: a side below 32 px, a bank that is not even, a buffer of another shape, dtype or device.
        MachineError: CuPy is not installed.
    """
    cupy = require("cupy", "gpu")
    check_side(*size_px)
    bank = parameters or GaborParameters()
    with _working_on(stream):
        held = taken(cupy, frames)
        count = frame_count(held.shape, held.dtype, size_px, bit_depth)
        channels = math.prod(held.shape) // (count * math.prod(size_px))
        with device_of(cupy, held, out):
            pixels = on_device(cupy, held)
            shape = (count, 4, *size_px)
            tensor = cupy.empty(shape, np.float32) if out is None else out
            check_buffer(cupy, "out", tensor, shape, ("float32",))
            too_bright = _range_flag(cupy, over_range) if pixels.dtype == np.uint16 else None
            folded = _bank_on_device(cupy, bank)
            white = np.uint32(2**bit_depth - 1 if bit_depth else 255)
            sides = (np.int32(size_px[0]), np.int32(size_px[1]))
            flag = _NO_POINTER if too_bright is None else too_bright
            kernel = _kernel(cupy, "edge", "edge_tensor", edge_options(pixels.dtype, channels))
            arguments = (pixels, folded, tensor, *sides, np.int32(len(folded)), white, flag)
            kernel(*edge_shape(count, size_px), arguments)
            if too_bright is not None and over_range is None:
                check_range(int(too_bright.get()[0]), bit_depth)
    return tensor


def check_range(brightest: int, bit_depth: int | None) -> None:
    """Refuse frames whose `over_range` flag holds a value.

    Raises:
        FrameError: the flag is not 0.
    """
    if brightest:
        white = 2 ** (bit_depth or 16) - 1
        raise FrameError(f"frames declared {bit_depth}-bit hold the value {brightest}, over {white}; check bit_depth")


def mask_of_logits(
    logits: Any,
    threshold: float,
    *,
    mask: Any | None = None,
    probability: Any | None = None,
    with_probability: bool = False,
    not_finite: Any | None = None,
    stream: Any | None = None,
) -> DeviceMask:
    """Logits to a mask on the device: 1 where sigmoid(logit) >= threshold in float32, as on the CPU.

    Args:
        logits: (N, H, W) or (N, 1, H, W) float32, C-contiguous; on the device, as `network_input` takes it.
        threshold: of the probability, 0 to 1.
        mask: device buffer (N, H, W) uint8 to write.
        probability: device buffer (N, H, W) float32 to write.
        with_probability: make the probabilities where no buffer for them is given.
        not_finite: device buffer (1,) int32 to write.
        stream: CuPy stream to work on; the current one by default.

    Returns:
        The given buffers, and new ones for the others. Nothing has been waited for: `check` before use.

    Raises:
        ArgumentError: a threshold outside [0, 1], logits or buffers of another shape, dtype or device, or scattered.
        MachineError: CuPy is not installed.
    """
    cupy = require("cupy", "gpu")
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"threshold must be a probability in [0, 1], got {threshold}; it is not a logit")
    with _working_on(stream):
        held = taken(cupy, logits)
        with device_of(cupy, held, None):
            given = held.shape if held.ndim in (3, 4) and (held.ndim == 3 or held.shape[1] == 1) else ("N", "H", "W")
            check_buffer(cupy, "logits", held, given, ("float32",))
            shape = (given[0], *given[-2:])
            mask = cupy.empty(shape, np.uint8) if mask is None else mask
            if probability is None and with_probability:
                probability = cupy.empty(shape, np.float32)
            check_buffer(cupy, "mask", mask, shape, ("uint8",))
            if probability is not None:
                check_buffer(cupy, "probability", probability, shape, ("float32",))
            flag = cupy.empty((1,), np.int32) if not_finite is None else not_finite
            check_buffer(cupy, "not_finite", flag, (1,), ("int32",))
            flag.data.memset_async(0, 4)
            count = math.prod(shape)
            written = _NO_POINTER if probability is None else probability
            kernel = _kernel(cupy, "mask", "logits_to_mask", MASK_OPTIONS)
            grid = (-(-count // _MASK_THREADS), 1, 1)
            numbers = (np.int64(count), np.float32(threshold))
            kernel(grid, (_MASK_THREADS, 1, 1), (held, mask, written, flag, *numbers))
            return DeviceMask(mask, probability, flag, cupy.cuda.get_current_stream())


def forget() -> None:
    """Drop the compiled kernels and uploaded banks, as after a device was reset."""
    with _caches:
        _kernels.clear()
        _banks.clear()


@contextmanager
def _working_on(stream: Any | None) -> Iterator[None]:
    """That stream is the current one, for the launch and for whoever is asked for an array."""
    if stream is None:
        yield
    else:
        with stream:
            yield


def _range_flag(cupy: Any, given: Any | None) -> Any:
    """The buffer for a value over white, cleared on the current stream."""
    flag = cupy.empty((1,), np.int32) if given is None else given
    check_buffer(cupy, "over_range", flag, (1,), ("int32",))
    flag.data.memset_async(0, 4)
    return flag


def _bank_on_device(cupy: Any, parameters: GaborParameters) -> Any:
    """The folded bank; uploaded once to each device, and there before any stream looks."""
    key = (int(cupy.cuda.runtime.getDevice()), parameters)
    with _caches:
        if key not in _banks:
            folded = cupy.asarray(folded_bank(parameters))
            cupy.cuda.get_current_stream().synchronize()
            _banks[key] = folded
        return _banks[key]


def _kernel(cupy: Any, file: str, name: str, options: tuple[str, ...]) -> Any:
    """The kernel of that name in that file, compiled once for each device and set of options."""
    key = (int(cupy.cuda.runtime.getDevice()), name, options)
    with _caches:
        if key not in _kernels:
            _kernels[key] = cupy.RawModule(code=source(file), options=options).get_function(name)
        return _kernels[key]
