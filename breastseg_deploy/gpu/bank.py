"""The Gabor bank as `edge.cu` wants it: folded to one quadrant, split into halves, laid out for the matrix unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.gabor import RADIUS_PX, GaborParameters, gabor_bank

SLOTS = 16
"""Slots of a group: two tiles of eight matrix columns."""

_NOT_EVEN = 1e-12
"""cos and exp of mirrored arguments differ by less; the odd part of a kernel with another phase is over 1e-6."""

_LUMA_STEP = 512 / 255_000
"""Luma of one unit of the kernel's high part: the kernel counts 1000 x 255 x luma in steps of 512."""


@dataclass(frozen=True)
class PackedBank:
    """What `edge_tensor` takes of a bank.

    Attributes:
        operands: (groups, 2, 8, 4, 32, 4) uint32, C-contiguous. By group of 16 slots; y below 8 or from 8 on; pair of
            x; even part, its remainder, odd part, its remainder; lane; two registers of the first 8 slots and two of
            the others.
        edge_scale: factor from the kernel's sums to responses.
    """

    operands: NDArray[np.uint32]
    edge_scale: float

    @property
    def groups(self) -> int:
        """Groups of 16 slots; the paper's bank has one."""
        return len(self.operands)


def packed_bank(parameters: GaborParameters | None = None) -> PackedBank:
    """Fold and pack a bank.

    Raises:
        ArgumentError: a bank that is not even (psi_rad no multiple of pi), which the kernel cannot fold.
    """
    even, odd = _folded(parameters or GaborParameters())
    power = 2.0 ** math.floor(math.log2(1024 / max(np.abs(even).max(), np.abs(odd).max())))
    parts = []
    for part in (even, odd):
        halves = (part * power).astype(np.float16)
        parts += [halves, (part * power - halves).astype(np.float16)]
    # part, group, tile, slot, y far, y pair, y of the pair, x pair, x of the pair
    split = np.stack(parts).reshape(4, -1, 2, 8, 2, 4, 2, 8, 2)
    laid_out = np.ascontiguousarray(split.transpose(1, 4, 7, 0, 3, 5, 2, 8, 6))
    operands = laid_out.view(np.uint32).reshape(-1, 2, 8, 4, 32, 4)
    return PackedBank(operands, _LUMA_STEP / power)


def _folded(parameters: GaborParameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Even and odd parts of all slots over one quadrant, (slots, 16, 16) each; slots are filled up to whole groups.

    A slot is a filter and its mirror image, the one turned to 180 degrees minus its angle; filters at 0 and 90 degrees
    are their own. Slots with an odd part come first.
    """
    bank = gabor_bank(parameters)
    if np.abs(bank - bank[:, ::-1, ::-1]).max() > _NOT_EVEN:
        raise ArgumentError(
            f"the GPU kernel folds even filters, so psi_rad must be a multiple of pi, got {parameters.psi_rad}; "
            "run this model on the CPU (backend onnxruntime)"
        )
    turns = parameters.orientations
    angles = sorted(range(turns // 2 + 1), key=lambda k: 2 * k in (0, turns))
    kernels = bank.reshape(-1, turns, *bank.shape[1:])[:, angles].swapaxes(0, 1).reshape(-1, *bank.shape[1:])
    quadrant = kernels[:, RADIUS_PX:, RADIUS_PX:]
    mirrored = kernels[:, RADIUS_PX:, RADIUS_PX::-1]
    even, odd = (quadrant + mirrored) / 2, (quadrant - mirrored) / 2
    even[:, 0, :] /= 2  # the sum over four reflections counts the axes twice, and the middle four times
    even[:, :, 0] /= 2
    missing = np.zeros(-len(even) % SLOTS, np.intp)  # filled up with the first slot: zeros could be the largest
    filled = np.concatenate([np.arange(len(even)), missing])
    return even[filled], odd[filled]
