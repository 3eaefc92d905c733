"""The Gabor bank as `edge.cu` wants it: folded to one quadrant, in groups of kernels that one pass computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.gabor import RADIUS_PX, GaborParameters, gabor_bank

PAIRED, ALONE = 9, 6
"""Pairs of kernels in a group, and kernels without a partner; the paper's bank of 24 is one group."""

_NOT_EVEN = 1e-12
"""cos and exp of mirrored arguments differ by less; the odd part of a kernel with another phase is over 1e-6."""

_WHOLE_LUMA = 255_000
"""What the kernel counts for a luma of 1."""


def folded_bank(parameters: GaborParameters | None = None) -> NDArray[np.float32]:
    """Coefficients of the bank over one quadrant; `edge.cu` states the formula.

    A pair is a kernel and its mirror image, the one turned to 180 degrees minus its angle. Kernels at 0 and 90 degrees
    are their own. Groups are filled up with the first of these.

    Returns:
        (groups, 16, 16, 24) float32 by group, x and y: the even parts of 9 pairs and of 6 kernels that stand alone,
        then the odd parts of the pairs.

    Raises:
        ArgumentError: a bank that is not even (psi_rad no multiple of pi), which the kernel cannot fold.
    """
    p = parameters or GaborParameters()
    bank = gabor_bank(p)
    if np.abs(bank - bank[:, ::-1, ::-1]).max() > _NOT_EVEN:
        raise ArgumentError(
            f"the GPU kernel folds even filters, so psi_rad must be a multiple of pi, got {p.psi_rad}; "
            "run this model on the CPU (backend onnxruntime)"
        )
    even, odd = _folded(bank)
    turn = np.arange(len(bank)) % p.orientations * 2  # p.orientations is a right angle; beyond it, mirror images
    alone = np.flatnonzero((turn == 0) | (turn == p.orientations))
    paired = np.flatnonzero((turn > 0) & (turn < p.orientations))
    groups = max(-(-len(paired) // PAIRED), -(-len(alone) // ALONE))
    # Filled up with kernel 0, which has no odd part: zeros could be the largest.
    paired = np.pad(paired, (0, groups * PAIRED - len(paired)))
    alone = np.pad(alone, (0, groups * ALONE - len(alone)))
    parts = [(even, paired), (even, alone), (odd, paired)]
    kernels = np.concatenate([part[chosen].reshape(groups, -1, *part.shape[1:]) for part, chosen in parts], axis=1)
    return np.ascontiguousarray(kernels.transpose(0, 3, 2, 1) / _WHOLE_LUMA, np.float32)


def _folded(bank: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Even and odd parts (K, 16, 16) of every kernel over the quadrant, by y and x."""
    quadrant = bank[:, RADIUS_PX:, RADIUS_PX:]
    mirrored = bank[:, RADIUS_PX:, RADIUS_PX::-1]
    even, odd = (quadrant + mirrored) / 2, (quadrant - mirrored) / 2
    even[:, 0, :] /= 2  # the sum over four reflections counts the axes twice, and the middle four times
    even[:, :, 0] /= 2
    return even, odd
