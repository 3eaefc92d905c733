"""A bundle's goldens as the condition for an engine to serve on this machine, found out once and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from breastseg_deploy.backends.findings import Findings
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import MachineError, OutputError
from breastseg_deploy.processor import this_processor
from breastseg_deploy.selftest import GoldenResult, yardstick
from breastseg_deploy.version import __version__

_LOG = logging.getLogger("breastseg_deploy")


def prove_on_cpu(
    name: str, bundle: Bundle, artefact: str, engine: Mapping[str, str], hold: Callable[[], Sequence[GoldenResult]]
) -> None:
    """Hold a CPU backend to the goldens, unless it has passed them here before.

    A verdict is kept for each version of NumPy and this toolkit, processor, file that serves, set of goldens and all
    that `engine` names; where it cannot be kept, the goldens run at every opening.

    Args:
        name: of the backend, for messages and for what is kept.
        bundle: opened.
        artefact: the bundle's file that serves.
        engine: what else the verdict hangs on, e.g. the engine's version and settings.
        hold: runs the goldens and raises a ParityError where one misses its limit.

    Raises:
        ParityError: by `hold`.
        BundleError: a golden is damaged, or the manifest holds no limit.
    """
    hangs_on = {
        **engine,
        "numpy": np.__version__,
        "toolkit": __version__,
        "processor": str(this_processor()),
        "model": bundle.manifest.files[artefact].sha256,
        "yardstick": yardstick(bundle, artefact),
    }
    findings = Findings(f"self-test-{name}", hangs_on)
    try:
        if findings.recall() is not None:
            return
    except (MachineError, OutputError) as err:
        _LOG.warning("%s: what is known of it here cannot be read, so the goldens run again: %s", name, err)
    results = hold()
    figures = {
        "worst_dice": min(result.dice for result in results),
        "largest_probability_error": max(result.largest_probability_error for result in results),
    }
    _LOG.info("%s: %d goldens passed on this machine, worst Dice %.6f", name, len(results), figures["worst_dice"])
    try:
        findings.keep(figures)
    except (MachineError, OutputError) as err:
        _LOG.warning("%s: it passed the goldens, and that cannot be kept: %s", name, err)
