"""A bundle's golden frames, run through a way from the frame to the mask and held to a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import INT8_NETWORK, Bundle, Golden
from breastseg_deploy.errors import BundleError, ParityError
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.metrics import dice, flipped_ppm

Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.float32]]]
"""(N, H, W, 3) uint8 frames to masks (N, H, W) uint8 and probabilities (N, H, W) float32."""


@dataclass(frozen=True)
class GoldenResult:
    """How one golden frame came out on this machine, against the float32 reference stored in the bundle."""

    name: str
    dice: float
    flipped_ppm: float
    largest_probability_error: float


INT8_SLACK = 0.005
"""How far a golden's Dice in INT8 may lie under what it was at the export: float32 rounds otherwise on another
processor, and 8 bits make steps of that. Sums that overflow would cost far more."""


def hold_goldens(bundle: Bundle, artefact: str, run: Run, batch: int, way: str) -> tuple[GoldenResult, ...]:
    """Run every golden in batches of one size; a short rest is filled up with the first ones again.

    Each is held to the least mask Dice that the export allowed any frame. A mean over so few would say nothing more;
    `verification.check_frames` holds both over a user's frames. INT8 is held to how it came out at the export as well.

    Args:
        bundle: opened.
        artefact: the bundle's file that serves.
        run: the way under test.
        batch: frames per call.
        way: what computed it, for the message.

    Returns:
        One result per golden, the worst of its runs.

    Raises:
        ParityError: a golden's mask Dice is under the limit.
        BundleError: a golden is damaged, or the manifest holds no limit.
    """
    goldens, least_dice = bundle.goldens(), _least_dice(bundle.manifest, artefact)
    results: dict[str, GoldenResult] = {}
    count = -(-len(goldens) // batch) * batch
    for start in range(0, count, batch):
        chosen = [goldens[number % len(goldens)] for number in range(start, start + batch)]
        masks, probabilities = run(np.stack([golden.frame for golden in chosen]))
        for golden, mask, probability in zip(chosen, masks, probabilities, strict=True):
            result = _compare(golden, mask, probability)
            limit = least_dice[golden.name]
            if not result.dice >= limit:
                raise ParityError(
                    f"golden {golden.name} came out with Dice {result.dice:.6f} by {way}, the limit is {limit:.6g}; "
                    f"do not use its {artefact} on this machine: take another backend, or run `breastseg doctor` and "
                    "export again"
                )
            results[golden.name] = min(result, results.get(golden.name, result), key=lambda one: one.dice)
    return tuple(results.values())


def yardstick(bundle: Bundle, artefact: str) -> str:
    """What a bundle's goldens demand of a file of it, as a short hash: a verdict by other goldens or limits is none.

    Raises:
        BundleError: the manifest holds no limits for that file.
    """
    manifest = bundle.manifest
    parts = [manifest.files[name].sha256 for name in manifest.goldens]
    parts += [str(_least_dice(manifest, artefact)), str(manifest.threshold), manifest.gabor.sha256]
    return f"goldens {hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _least_dice(manifest: Manifest, artefact: str) -> dict[str, float]:
    """What a mask of each golden must have at least, by its name."""
    limit = manifest.limits_of(artefact).worst_dice
    if artefact != INT8_NETWORK:
        return dict.fromkeys(manifest.goldens, limit)
    if manifest.int8 is None:
        raise BundleError(f"the manifest holds parity of {artefact} and says nothing else of it; export it again")
    came_out = zip(manifest.goldens, manifest.int8.golden_dice, strict=True)
    return {name: max(limit, figure - INT8_SLACK) for name, figure in came_out}


def _compare(golden: Golden, mask: NDArray[np.uint8], probability: NDArray[np.float32]) -> GoldenResult:
    error = float(np.abs(probability - golden.probability).max())
    return GoldenResult(golden.name, dice(mask, golden.mask), flipped_ppm(mask, golden.mask), error)
