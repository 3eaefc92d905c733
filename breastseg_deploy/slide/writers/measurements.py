"""What is told of each cell, by the same names in every file; in micrometres too where the pixel size is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACES = ("centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um")
"""The measurements that a file with outlines does without."""


def measurements(cells: NDArray[np.void], pixel_size_um: float | None) -> dict[str, NDArray[Any]]:
    """Columns by their names.

    Args:
        cells: of CELL_DTYPE. Places count from the centre of the top left pixel.
        pixel_size_um: None where it is not known; then nothing is told in micrometres.
    """
    columns = {name: cells[name] for name in ("centroid_x_px", "centroid_y_px", "area_px", "perimeter_px")}
    if pixel_size_um is not None:
        columns |= {
            "centroid_x_um": cells["centroid_x_px"] * pixel_size_um,
            "centroid_y_um": cells["centroid_y_px"] * pixel_size_um,
            "area_um2": cells["area_px"] * pixel_size_um**2,
            "perimeter_um": cells["perimeter_px"] * pixel_size_um,
        }
    columns |= {name: cells[name] for name in ("eccentricity", "mean_probability", "mean_intensity")}
    return columns | {"touches_border": cells["touches_border"].astype(np.uint8)}
