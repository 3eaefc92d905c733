"""Whether memory grows while frames come in: told from the noise of allocators by medians of quarters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from breastseg_deploy.errors import ArgumentError

LEAST_SAMPLES = 8
"""Two in each quarter."""


def growth_bytes(resident_bytes: Sequence[int]) -> int:
    """How much resident memory grew from the second quarter of a run to its last.

    The first quarter is left out: arenas and caches fill up once. Medians are taken because a page that comes and goes
    is no growth. Half a run lies between the middles of the two quarters, so a steady leak of b bytes per sample shows
    as b * samples / 2.

    Args:
        resident_bytes: at equal distances.

    Returns:
        The difference of the two medians; negative where memory was given back.

    Raises:
        ArgumentError: fewer than 8 samples.
    """
    if len(resident_bytes) < LEAST_SAMPLES:
        raise ArgumentError(
            f"growth of memory needs at least {LEAST_SAMPLES} samples, got {len(resident_bytes)}; measure more frames"
        )
    quarter = len(resident_bytes) // 4
    early = np.median(resident_bytes[quarter : 2 * quarter])
    late = np.median(resident_bytes[-quarter:])
    return round(float(late - early))
