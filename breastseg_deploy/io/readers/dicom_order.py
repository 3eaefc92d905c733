"""The order of a DICOM slide's tiles where the file leaves it open: told by how well neighbours fit together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.readers.dicom_frames import Frame

CLEARLY = 2.0
"""How much further neighbours must differ in one order of tiles for the other to be taken from the pixels."""

_COMPARED = 48

Frames = dict[tuple[int, int, int], Frame]
Decoded = Callable[[Frame], NDArray[np.uint8] | NDArray[np.uint16]]


def ordered_by_borders(frames: Frames, grid: tuple[int, int], decoded: Decoded) -> tuple[Frames, str]:
    """Compare how far neighbours differ where they touch, with tiles in order of rows and of columns.

    Args:
        frames: of one channel, a whole grid, in order of rows.
        grid: rows and columns of tiles, at least two of each.
        decoded: the pixels of a frame, (rows, columns, channels).

    Returns:
        The frames in the order that fits, and a sentence that says so.

    Raises:
        SlideError: neither order fits clearly better.
    """
    down, across = grid
    in_order = [frames[0, n // across, n % across] for n in range(down * across)]
    orders = {"rows": frames, "columns": {(0, n % down, n // down): frame for n, frame in enumerate(in_order)}}
    jumps = {name: _border_jump(order, grid, decoded) for name, order in orders.items()}
    best, other = sorted(jumps, key=lambda name: jumps[name])
    if jumps[other] < CLEARLY * jumps[best]:
        raise SlideError(
            "states no order of its tiles (DimensionOrganizationType is missing), and their borders do not tell it "
            f"(jumps of {jumps['rows']:.1f} by rows, {jumps['columns']:.1f} by columns); export the slide again"
        )
    return orders[best], (
        f"states no order of its tiles; they are in order of {best}: neighbours differ by {jumps[best]:.1f} where they "
        f"touch, and by {jumps[other]:.1f} in the other order"
    )


def _border_jump(frames: Frames, grid: tuple[int, int], decoded: Decoded) -> float:
    """Mean difference between the pixels of neighbouring tiles where they touch, of up to 48 tiles spread evenly."""
    inner = [(y, x) for y in range(grid[0] - 1) for x in range(grid[1] - 1)]
    jumps = []
    for y, x in inner[:: -(-len(inner) // _COMPARED)]:
        here, right, below = (
            decoded(frames[0, y + dy, x + dx]).astype(np.float64) for dy, dx in ((0, 0), (0, 1), (1, 0))
        )
        jumps += [np.abs(here[:, -1] - right[:, 0]).mean(), np.abs(here[-1] - below[0]).mean()]
    return float(np.mean(jumps))
