"""What is told of each cell, by the same names in every file; in micrometres too where the pixel size is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACES = ("centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um")
"""The measurements that a file with outlines does without."""


def measurements(
    cells: NDArray[np.void], pixel_size_um: float | None, pixel_scale: float = 1.0
) -> dict[str, NDArray[Any]]:
    """Columns by their names.

    Args:
        cells: of CELL_DTYPE. Places count from the centre of the top left pixel.
        pixel_size_um: of the pixels that were analysed; None where it is not known, and nothing is told in micrometres.
        pixel_scale: of the slide's own pixels that one of the analysed ones is wide. Places are in the slide's own.
    """
    columns = {name: (cells[name] + 0.5) * pixel_scale - 0.5 for name in ("centroid_x_px", "centroid_y_px")}
    columns |= {name: cells[name] for name in ("area_px", "perimeter_px")}
    if pixel_size_um is not None:
        columns |= {
            "centroid_x_um": columns["centroid_x_px"] * (pixel_size_um / pixel_scale),
            "centroid_y_um": columns["centroid_y_px"] * (pixel_size_um / pixel_scale),
            "area_um2": cells["area_px"] * pixel_size_um**2,
            "perimeter_um": cells["perimeter_px"] * pixel_size_um,
        }
    columns |= {name: cells[name] for name in ("eccentricity", "mean_probability", "mean_intensity")}
    return columns | {"touches_border": cells["touches_border"].astype(np.uint8)}
