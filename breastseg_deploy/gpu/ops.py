"""The two kernels of the GPU path behind the CPU reference's contract: frames to tensor, logits to mask.

Both work on the current device and stream and write into the buffers that they are given. They wait for nothing and
allocate nothing: after one call that compiles the kernel and uploads the bank, they can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from breastseg_deploy.errors import ArgumentError, FrameError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu.arrays import check_buffer, check_frames, frame_count
from breastseg_deploy.gpu.bank import folded_bank
from breastseg_deploy.gpu.sources import MASK_OPTIONS, edge_options, edge_shape, source
from breastseg_deploy.preprocess.gabor import GaborParameters, check_side

_MASK_THREADS = 256
_NO_POINTER = np.uint64(0)

_caches = threading.Lock()
_kernels: dict[tuple[int, str, tuple[str, ...]], Any] = {}
_banks: dict[tuple[int, GaborParameters], Any] = {}


def network_input(
    frames: Any,
    size_px: tuple[int, int],
    parameters: GaborParameters,
    *,
    bit_depth: int | None = None,
    out: Any,
    over_range: Any,
) -> None:
    """Frames to the network's tensor on the device, in one launch; the twin of `preprocess.network_input`.

    Args:
        frames: CuPy array (N, H, W[, 1 or 3]) uint8 or uint16, C-contiguous, as `contract.rgb_batch` takes it. Floating
            point is refused: whoever has floats on a GPU can round them there.
        size_px: (H, W) that every frame must have, each >= 32.
        parameters: of the Gabor bank; psi_rad must be a multiple of pi.
        bit_depth: for uint16, 9 to 16.
        out: device buffer (N, 4, H, W) float32 to write, such as an engine's input. Within 1e-5 of the reference.
        over_range: device buffer (1,) int32 that takes, of uint16 frames, the largest value over white, 0 where there
            is none; whoever reads it passes it to `check_range`. uint8 frames leave it as it is.

    Raises:
        FrameError: frames that break the contract, or lie scattered in device memory.
        ArgumentError: a side below 32 px, a bank that is not even, a buffer of another shape, dtype or device.
        MachineError: CuPy is not installed.
    """
    cupy = require("cupy", "gpu")
    check_side(*size_px)
    count = frame_count(frames.shape, frames.dtype, size_px, bit_depth)
    channels = math.prod(frames.shape) // (count * math.prod(size_px))
    check_frames(frames)
    check_buffer(cupy, "out", out, (count, 4, *size_px), "float32")
    check_buffer(cupy, "over_range", over_range, (1,), "int32")
    if frames.dtype == np.uint16:
        over_range.data.memset_async(0, 4)
    folded = _bank_on_device(cupy, parameters)
    white = np.uint32(2**bit_depth - 1 if bit_depth else 255)
    sides = (np.int32(size_px[0]), np.int32(size_px[1]))
    kernel = _kernel(cupy, "edge", "edge_tensor", edge_options(frames.dtype, channels))
    kernel(*edge_shape(count, size_px), (frames, folded, out, *sides, np.int32(len(folded)), white, over_range))


def check_range(brightest: int, bit_depth: int | None) -> None:
    """Refuse frames whose `over_range` flag holds a value.

    Raises:
        FrameError: the flag is not 0.
    """
    if brightest:
        white = 2 ** int(bit_depth or 16) - 1
        raise FrameError(f"frames declared {bit_depth}-bit hold the value {brightest}, over {white}; check bit_depth")


def mask_of_logits(logits: Any, threshold: float, *, mask: Any, probability: Any | None, not_finite: Any) -> None:
    """Logits to a mask on the device: 1 where sigmoid(logit) >= threshold in float32, as on the CPU.

    Args:
        logits: device buffer (N, 1, H, W) float32.
        threshold: of the probability, 0 to 1.
        mask: device buffer (N, H, W) uint8 to write.
        probability: device buffer (N, H, W) float32 to write, or None where nobody asks for it.
        not_finite: device buffer (1,) int32 to write: not 0 where a logit is NaN or infinite. Such a pixel looks like
            any other in the mask.

    Raises:
        ArgumentError: a threshold outside [0, 1], logits or buffers of another shape, dtype or device, or scattered.
        MachineError: CuPy is not installed.
    """
    cupy = require("cupy", "gpu")
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"threshold must be a probability in [0, 1], got {threshold}; it is not a logit")
    shape = (logits.shape[0], *logits.shape[2:])
    check_buffer(cupy, "logits", logits, (shape[0], 1, *shape[1:]), "float32")
    check_buffer(cupy, "mask", mask, shape, "uint8")
    if probability is not None:
        check_buffer(cupy, "probability", probability, shape, "float32")
    check_buffer(cupy, "not_finite", not_finite, (1,), "int32")
    not_finite.data.memset_async(0, 4)
    count = math.prod(shape)
    written = _NO_POINTER if probability is None else probability
    kernel = _kernel(cupy, "mask", "logits_to_mask", MASK_OPTIONS)
    numbers = (np.int64(count), np.float32(threshold))
    kernel((-(-count // _MASK_THREADS), 1, 1), (_MASK_THREADS, 1, 1), (logits, mask, written, not_finite, *numbers))


def forget() -> None:
    """Drop the compiled kernels and uploaded banks, as after a device was reset."""
    with _caches:
        _kernels.clear()
        _banks.clear()


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
