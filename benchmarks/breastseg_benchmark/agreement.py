"""Masks against reference masks: Dice over all frames, and apart over those with cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.results import Agreement
from breastseg_deploy.metrics import dice

Mask = NDArray[np.uint8]


def agreement(masks: Sequence[Mask], references: Sequence[Mask | None]) -> Agreement | None:
    """Dice of each mask that has a reference.

    Args:
        masks: (H, W) each, any non-zero value foreground.
        references: as many; None where there is nothing to compare with.

    Returns:
        None where no frame has a reference.
    """
    pairs = [(mask, known) for mask, known in zip(masks, references, strict=True) if known is not None]
    if not pairs:
        return None
    figures = [dice(mask, known) for mask, known in pairs]
    cells = [bool(known.any()) for _, known in pairs]
    with_cells = [figure for figure, has in zip(figures, cells, strict=True) if has]
    without = [figure for figure, has in zip(figures, cells, strict=True) if not has]
    return Agreement(
        frames=len(pairs),
        frames_with_cells=len(with_cells),
        mean_dice=float(np.mean(figures)),
        worst_dice=min(figures),
        mean_dice_with_cells=float(np.mean(with_cells)) if with_cells else None,
        worst_dice_with_cells=min(with_cells, default=None),
        mean_dice_without_cells=float(np.mean(without)) if without else None,
    )
