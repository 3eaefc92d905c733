"""What a backend costs in Dice: what its export measured, and what the goldens on this machine add to that."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.inference import Backend
from breastseg_deploy.manifest import Parity
from breastseg_deploy.selftest import run_goldens


class DiceLoss:
    """The loss of mean Dice that whoever opens a bundle allows.

    It is what the export lost on frames with cells, against the truth where masks were given, else against float32; and
    on top of it what the goldens with cells lose here: under their Dice at the export where the manifest holds that,
    else under 1. A gain offsets nothing.

    Args:
        allowed: at most this, 0 to 1.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._exported: dict[str, tuple[float, str]] = {}

    def refusal(self, bundle: Bundle, role: str) -> str:
        """Why the artefact of a role loses too much by the manifest; empty where it does not."""
        artefact = bundle.manifest.artefact(role)
        found = [] if artefact is None else [_exported(parity) for parity in artefact.parity]
        losses = [one for one in found if one is not None]
        if not losses or len(losses) < len(found):
            return "its export measured no loss of Dice on frames with cells"
        self._exported[role] = worst = max(losses)
        if worst[0] > self.allowed:
            return f"lost {worst[0]:.4f} of Dice {worst[1]} at the export, over the {self.allowed:g} allowed"
        return ""

    def held(self, bundle: Bundle, role: str, backend: Backend, name: str) -> tuple[str, bool]:
        """Run the goldens.

        Args:
            bundle: opened.
            role: of the artefact that serves; `refusal` has let it pass.
            backend: loaded.
            name: of the backend.

        Returns:
            The loss in words, and whether it is allowed.

        Raises:
            ParityError, BundleError: see `run_goldens`.
        """
        exported, against = self._exported[role]
        here = _lost_here(bundle, role, backend, name)
        words = f"loses {exported:.4f} of Dice {against} at the export and {here:.4f} more on the goldens here"
        return f"{words}, {self.allowed:g} allowed", exported + here <= self.allowed


def _exported(parity: Parity) -> tuple[float, str] | None:
    """What one measurement lost, and against what; None where no frame held cells."""
    if parity.dice_change_with_cells is not None:
        return max(0.0, -parity.dice_change_with_cells), "against the truth"
    if parity.mean_dice_with_cells is not None:
        return 1 - parity.mean_dice_with_cells, "against float32"
    return None


def _lost_here(bundle: Bundle, role: str, backend: Backend, name: str) -> float:
    def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        probability = backend.infer(rgb).checked(rgb.shape[:3], name)
        return (probability >= bundle.manifest.threshold).astype(np.uint8), probability

    results = run_goldens(bundle, role, run, 1, name)
    artefact = bundle.manifest.artefact(role)
    at_export = artefact.golden_dice if artefact is not None and artefact.golden_dice else (1.0,) * len(results)
    with_cells = [golden.mask.any() for golden in bundle.goldens()]
    lost = [
        max(0.0, before - result.dice)
        for before, result, cells in zip(at_export, results, with_cells, strict=True)
        if cells
    ]
    return fmean(lost) if lost else 0.0
