"""Which of several CPU backends serves: the fastest on this machine, measured once and remembered.

No order of preference holds for CPUs: which engine is faster depends on the processor, its cores, the network and the
engines' versions. So they run a golden frame in turn (A B A B: what else the machine does slows both), and the choice
is kept until one of these changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BreastsegError, MachineError, OutputError
from breastseg_deploy.inference import Backend
from breastseg_deploy.machine import Machine
from breastseg_deploy.verdicts import VerdictKey, Verdicts
from breastseg_deploy.version import __version__

ROUNDS = 5
"""Timed calls of each, after one that warms up."""
BUDGET_S = 8.0
"""No round but the first begins later than this after the start."""

OnFailure = Callable[[str, BreastsegError], object]


@dataclass(frozen=True)
class Measured:
    """How fast the backends were.

    Attributes:
        seconds: the fastest call of each on one frame, by name.
        date: of the measurement, e.g. "2026-11-23".
        trouble: why this is not kept for the next opening; empty where it is.
    """

    seconds: Mapping[str, float]
    date: str
    trouble: str = ""

    def ranking(self) -> list[str]:
        """Names, the fastest first."""
        return sorted(self.seconds, key=lambda name: self.seconds[name])

    def words(self, name: str) -> str:
        """The figures, from one backend's point of view."""
        others = ", ".join(f"{_seconds(self.seconds[other])} by {other}" for other in self.ranking() if other != name)
        kept = f" (not kept for the next opening: {self.trouble})" if self.trouble else ""
        when = f"measured on this machine on {self.date}"
        return f"{_seconds(self.seconds[name])} a frame against {others}, {when}{kept}"


@dataclass(frozen=True)
class Clock:
    """Where the time comes from.

    Attributes:
        seconds: that have passed since some moment.
        today: the date, e.g. "2026-11-23".
    """

    seconds: Callable[[], float] = perf_counter
    today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat()


WALL_CLOCK = Clock()


class SpeedTest:
    """How fast some backends are with one bundle on one machine.

    Args:
        bundle: opened; its first golden is the frame.
        engines: what would serve, with its version, by the backend's name.
        roles: of the artefacts that they serve.
        machine: its processor counts, and it keeps the figures.
        clock: that they are timed by.
    """

    def __init__(
        self, bundle: Bundle, engines: Mapping[str, str], roles: Sequence[str], machine: Machine, clock: Clock
    ) -> None:
        self._bundle, self._clock = bundle, clock
        self._names = set(engines)
        self._trouble = ""
        self._verdicts = Verdicts(machine)
        depends_on = {
            "artefact": " ".join(bundle.sha256_of(role) for role in roles),
            "processor": str(machine.processor),
            "numpy": np.__version__,
            "toolkit": __version__,
        }
        self._key = VerdictKey("cpu-speed", {**depends_on, **engines})

    def known(self) -> Measured | None:
        """What an earlier opening measured; None where nothing is known."""
        try:
            return _measured(self._verdicts.recall(self._key), self._names)
        except (MachineError, OutputError) as err:
            self._trouble = str(err)
            return None

    def measure(self, backends: Mapping[str, Backend], failed: OnFailure) -> Measured:
        """Time the backends in turn and remember the figures.

        Args:
            backends: loaded, by name.
            failed: told of one that fails; it has no figure then.

        Raises:
            BundleError: a golden is damaged.
        """
        rgb = self._bundle.goldens()[0].frame[np.newaxis]
        measured = Measured(self._in_turn(backends, rgb, failed), self._clock.today(), self._trouble)
        if self._trouble or measured.seconds.keys() != self._names:  # who failed may serve tomorrow
            return measured
        try:
            self._verdicts.record(self._key, {"seconds": measured.seconds, "date": measured.date})
        except (MachineError, OutputError) as err:
            return Measured(measured.seconds, measured.date, str(err))
        return measured

    def _in_turn(self, backends: Mapping[str, Backend], rgb: NDArray[np.uint8], failed: OnFailure) -> dict[str, float]:
        """The fastest of a few calls of each, in seconds: what disturbs a call only ever makes it slower."""
        seconds = self._clock.seconds
        left, best = dict(backends), dict.fromkeys(backends, math.inf)
        started = seconds()
        for number in range(1 + ROUNDS):
            # At least one timed call of each, however slow; after that the opening may not take longer than this.
            if number > 1 and seconds() - started > BUDGET_S:
                break
            # In turn, one call each: a disturbance of seconds meets all of them.
            for name in list(left):
                before = seconds()
                try:
                    left[name].infer(rgb).checked(rgb.shape[:3], name)
                except BreastsegError as err:
                    del left[name], best[name]
                    failed(name, err)
                    continue
                if number > 0:  # the first call allocates and compiles
                    best[name] = min(best[name], seconds() - before)
        return best


def _measured(found: Mapping[str, Any] | None, names: set[str]) -> Measured | None:
    """What was kept, if it is a measurement of exactly these backends."""
    if found is None:
        return None
    seconds, date = found.get("seconds"), found.get("date")
    if not isinstance(seconds, dict) or not isinstance(date, str) or seconds.keys() != names:
        return None
    if not all(isinstance(figure, float) and 0 < figure < math.inf for figure in seconds.values()):
        return None
    return Measured(seconds, date)


def _seconds(figure: float) -> str:
    return f"{figure:.2f} s" if figure >= 0.1 else f"{figure:.2g} s"
