"""A bundle's goldens, frames with a stored reference answer: run here, held to limits before a backend serves."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import Bundle, Golden
from breastseg_deploy.errors import MachineError, OutputError, ParityError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.metrics import dice, flipped_ppm
from breastseg_deploy.verdicts import VerdictKey, Verdicts
from breastseg_deploy.version import __version__

_LOG = logging.getLogger("breastseg_deploy")

Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.float32]]]
"""(N, H, W, 3) uint8 frames to masks (N, H, W) uint8 and probabilities (N, H, W) float32."""


@dataclass(frozen=True)
class GoldenResult:
    """One golden on this machine, against the float32 reference stored in the bundle."""

    name: str
    dice: float
    flipped_ppm: float
    largest_probability_error: float


Goldens = Callable[[], Sequence[GoldenResult]]
"""Runs a bundle's goldens; raises a ParityError where one misses its limit."""

GOLDEN_SLACK = 0.005
"""How far a golden's Dice may lie under what it was at the export, where the manifest holds that (INT8): float32 rounds
otherwise on another processor, and 8 bits make steps of that. Sums that overflow would cost far more."""


def run_goldens(bundle: Bundle, artefact: str, run: Run, batch: int, engine: str) -> tuple[GoldenResult, ...]:
    """Run every golden in batches of one size; a short rest is filled up with the first ones again.

    Each is held to the least mask Dice that the export allowed any frame. A mean over so few would say nothing more;
    `verify.check_frames` holds both over a user's frames. Where the manifest holds their Dice at the export, they are
    held to it as well.

    Args:
        bundle: opened.
        artefact: the role that serves.
        run: the way from the frame to the mask.
        batch: frames per call.
        engine: what computes it, for the message.

    Returns:
        One result per golden, the worst of its runs.

    Raises:
        ParityError: a golden's mask Dice is under the limit.
        BundleError: a golden is damaged, or the manifest holds no limit.
    """
    goldens, least_dice = bundle.goldens(), _least_dice(bundle.manifest, artefact)
    results: dict[str, GoldenResult] = {}
    # The batch size is what is being proved: the last run is filled up with the first goldens, never made smaller.
    count = -(-len(goldens) // batch) * batch
    for start in range(0, count, batch):
        chosen = [goldens[number % len(goldens)] for number in range(start, start + batch)]
        masks, probabilities = run(np.stack([golden.frame for golden in chosen]))
        for golden, mask, probability in zip(chosen, masks, probabilities, strict=True):
            result = _compare(golden, mask, probability)
            limit = least_dice[golden.name]
            if not result.dice >= limit:
                raise ParityError(
                    f"golden {golden.name} has Dice {result.dice:.6f} by {engine}, the limit is {limit:.6g}; "
                    f"do not use its {artefact} artefact on this machine: take another backend, or run `breastseg "
                    "doctor` and export again"
                )
            results[golden.name] = min(result, results.get(golden.name, result), key=lambda one: one.dice)
    return tuple(results.values())


def self_test_once(key: VerdictKey, verdicts: Verdicts, goldens: Goldens) -> bool:
    """Run the goldens unless exactly this combination has passed on this machine.

    A verdict that cannot be read, or that others could have written, is none: the goldens run again, with a warning.

    Args:
        key: all that the verdict depends on.
        verdicts: of this machine.
        goldens: runs them, and raises a ParityError where one misses its limit.

    Returns:
        Whether they ran now.

    Raises:
        ParityError, BackendError, BundleError: by `goldens`.
    """
    try:
        if verdicts.recall(key) is not None:
            return False
    except (MachineError, OutputError) as err:
        _LOG.warning("%s: its verdicts cannot be read, so the goldens run again: %s", key.kind, err)
    results = goldens()
    figures = {
        "worst_dice": min(result.dice for result in results),
        "largest_probability_error": max(result.largest_probability_error for result in results),
    }
    _LOG.info("%s: %d goldens passed on this machine, worst Dice %.6f", key.kind, len(results), figures["worst_dice"])
    # Recorded only after every golden has passed: an interrupted run must prove nothing.
    try:
        verdicts.record(key, figures)
    except (MachineError, OutputError) as err:
        _LOG.warning("%s: the goldens passed, and that cannot be kept: %s", key.kind, err)
    return True


def cpu_verdict_key(
    backend: str, bundle: Bundle, artefact: str, engine: Mapping[str, str], machine: Machine
) -> VerdictKey:
    """What a verdict on a CPU backend depends on.

    Args:
        backend: its name.
        bundle: opened.
        artefact: the role that serves.
        engine: what else the verdict depends on, e.g. the engine's version and settings.
        machine: its processor counts, since another one rounds otherwise.

    Raises:
        BundleError: the manifest holds no limits for that file.
    """
    depends_on = {
        **engine,
        "numpy": np.__version__,
        "toolkit": __version__,
        "processor": str(machine.processor),
        "artefact": bundle.sha256_of(artefact),
        "goldens": golden_demands(bundle, artefact),
    }
    return VerdictKey(f"self-test-{backend}", depends_on)


def golden_demands(bundle: Bundle, artefact: str) -> str:
    """What a bundle's goldens demand of one of its files, as a short hash; with others, a verdict is none.

    Raises:
        BundleError: the manifest holds no limits for that file.
    """
    manifest = bundle.manifest
    parts = [manifest.files[name].sha256 for name in manifest.goldens]
    parts += [str(_least_dice(manifest, artefact)), str(manifest.threshold), manifest.gabor.sha256]
    return f"goldens {hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _least_dice(manifest: Manifest, artefact: str) -> dict[str, float]:
    """What a mask of each golden must have at least, by its name."""
    limit, found = manifest.limits_of(artefact).worst_dice, manifest.artefact(artefact)
    if found is None or not found.golden_dice:
        return dict.fromkeys(manifest.goldens, limit)
    at_export = zip(manifest.goldens, found.golden_dice, strict=True)
    return {name: max(limit, figure - GOLDEN_SLACK) for name, figure in at_export}


def _compare(golden: Golden, mask: NDArray[np.uint8], probability: NDArray[np.float32]) -> GoldenResult:
    error = float(np.abs(probability - golden.probability).max())
    return GoldenResult(golden.name, dice(mask, golden.mask), flipped_ppm(mask, golden.mask), error)
