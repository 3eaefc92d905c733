"""The two kernels of the GPU path behind the CPU reference's contract: frames to tensor, logits to mask.

Both work on the current device and stream and write into the buffers that they are given. They wait for nothing and
allocate nothing: after one call that compiles the kernel and uploads the bank, they can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
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


class Kernels:
    """The two kernels, each compiled when it is first used, and the bank that they read. One object serves one device.

    Args:
        size_px: (H, W) that every frame must have, each >= 32.
        parameters: of the Gabor bank; psi_rad must be a multiple of pi.

    Raises:
        ArgumentError: a side below 32 px, a bank that is not even.
        MachineError: CuPy is not installed.
    """

    def __init__(self, size_px: tuple[int, int], parameters: GaborParameters) -> None:
        self._cupy: Any = require("cupy", "gpu")
        check_side(*size_px)
        self._size_px = size_px
        self._folded = folded_bank(parameters)
        self._bank: Any | None = None
        self._compiled: dict[tuple[str, tuple[str, ...]], Any] = {}

    def network_input(self, frames: Any, *, bit_depth: int | None = None, out: Any, over_range: Any) -> None:
        """Frames to the network's tensor on the device, in one launch; the twin of `preprocess.network_input`.

        Args:
            frames: CuPy array (N, H, W[, 1 or 3]) uint8 or uint16, C-contiguous, as `contract.rgb_batch` takes it.
                Floating point is refused: whoever has floats on a GPU can round them there.
            bit_depth: for uint16, 9 to 16.
            out: device buffer (N, 4, H, W) float32 to write, such as an engine's input. Within 1e-5 of the reference.
            over_range: device buffer (1,) int32 that takes, of uint16 frames, the largest value over white, 0 where
                there is none; whoever reads it passes it to `check_range`. uint8 frames leave it as it is.

        Raises:
            FrameError: frames that break the contract, or lie scattered in device memory.
            ArgumentError: a buffer of another shape, dtype or device.
        """
        cupy, size_px = self._cupy, self._size_px
        count = frame_count(frames.shape, frames.dtype, size_px, bit_depth)
        channels = math.prod(frames.shape) // (count * math.prod(size_px))
        check_frames(frames)
        check_buffer(cupy, "out", out, (count, 4, *size_px), "float32")
        check_buffer(cupy, "over_range", over_range, (1,), "int32")
        if frames.dtype == np.uint16:
            over_range.data.memset_async(0, 4)
        folded = self._bank_on_device()
        white = np.uint32(2 ** int(bit_depth) - 1 if bit_depth else 255)
        sides = (np.int32(size_px[0]), np.int32(size_px[1]))
        kernel = self._kernel("edge", "edge_tensor", edge_options(frames.dtype, channels))
        kernel(*edge_shape(count, size_px), (frames, folded, out, *sides, np.int32(len(folded)), white, over_range))

    def mask_of_logits(
        self, logits: Any, threshold: float, *, mask: Any, probability: Any | None, not_finite: Any
    ) -> None:
        """Logits to a mask on the device: 1 where sigmoid(logit) >= threshold in float32, as on the CPU.

        Args:
            logits: device buffer (N, 1, H, W) float32.
            threshold: of the probability, 0 to 1.
            mask: device buffer (N, H, W) uint8 to write.
            probability: device buffer (N, H, W) float32 to write, or None where nobody asks for it.
            not_finite: device buffer (1,) int32 to write: not 0 where a logit is NaN or infinite. Such a pixel looks
                like any other in the mask.

        Raises:
            ArgumentError: a threshold outside [0, 1]; logits or buffers of another shape, dtype or device, or
                scattered.
        """
        cupy = self._cupy
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
        kernel = self._kernel("mask", "logits_to_mask", MASK_OPTIONS)
        numbers = (np.int64(count), np.float32(threshold))
        kernel((-(-count // _MASK_THREADS), 1, 1), (_MASK_THREADS, 1, 1), (logits, mask, written, not_finite, *numbers))

    def _bank_on_device(self) -> Any:
        """The folded bank; uploaded once, and there before any stream looks."""
        if self._bank is None:
            self._bank = self._cupy.asarray(self._folded)
            self._cupy.cuda.get_current_stream().synchronize()
        return self._bank

    def _kernel(self, file: str, name: str, options: tuple[str, ...]) -> Any:
        """The kernel of that name in that file, compiled once for each set of options."""
        key = (name, options)
        if key not in self._compiled:
            self._compiled[key] = self._cupy.RawModule(code=source(file), options=options).get_function(name)
        return self._compiled[key]


def check_range(brightest: int, bit_depth: int | None) -> None:
    """Refuse frames whose `over_range` flag holds a value.

    Raises:
        FrameError: the flag is not 0.
    """
    if brightest:
        white = 2 ** int(bit_depth or 16) - 1
        raise FrameError(f"frames declared {bit_depth}-bit hold the value {brightest}, over {white}; check bit_depth")
