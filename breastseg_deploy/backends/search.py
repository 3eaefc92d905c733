"""A search for a backend: which can serve here, and the reasons, in words, why others cannot."""

from __future__ import annotations

from collections.abc import Mapping

from breastseg_deploy.artefacts import details_of
from breastseg_deploy.backends.dice_loss import DiceLoss
from breastseg_deploy.backends.registry import BackendRecord
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError, BreastsegError, BundleError, MachineError, ParityError
from breastseg_deploy.gate import Gate
from breastseg_deploy.inference import Backend
from breastseg_deploy.machine import Machine

Backends = Mapping[str, BackendRecord]

NO_GATE = "serves no empty-frame gate, which runs on the CPU alone"
"""Why a backend is no choice where the gate is asked for."""


class Search:
    """A search for a backend, and what came of those that were tried.

    Attributes:
        passed_over: backends that cannot serve, with the reason in words.
        failed: whether one of them is there and ought to have worked.
    """

    def __init__(
        self, bundle: Bundle, machine: Machine, backends: Backends, loss: DiceLoss | None, *, strict: bool, gate: bool
    ) -> None:
        self.bundle, self.machine, self.backends = bundle, machine, backends
        self.loss, self.strict, self.gate = loss, strict, gate
        self._loss_words: dict[str, str] = {}
        self.passed_over: dict[str, str] = {}
        self.failed = False

    def artefact(self, name: str) -> str:
        """The role that a backend serves."""
        record = self.backends[name]
        return record.gate if self.gate else record.artefact

    @property
    def on_cpu(self) -> list[str]:
        """Names of the backends on the CPU that may be chosen."""
        allowed = self.loss is not None
        return [name for name, one in self.backends.items() if not one.on_gpu and (allowed or not one.by_name_only)]

    def opened(self, name: str) -> Backend | None:
        """The backend, loaded; None where it cannot serve, or loses more of the Dice here than is allowed."""
        if self.ready(name) is None:
            return None
        try:
            backend = opened(self.backends[name], self.bundle, self.machine, self.gate)
        except BreastsegError as err:
            self.pass_over(name, err)
            return None
        return backend if self._keeps_to_loss(name, backend) else None

    def _keeps_to_loss(self, name: str, backend: Backend) -> bool:
        """Whether the goldens lose no more than is allowed; one that does is closed and passed over."""
        if self.loss is None:
            return True
        try:
            self._loss_words[name], allowed = self.loss.held(self.bundle, self.artefact(name), backend, name)
        except BreastsegError as err:
            backend.close()
            self.pass_over(name, err)
            return False
        if not allowed:
            backend.close()
            self.passed_over[name] = self._loss_words[name]
        return allowed

    def ready(self, name: str) -> str | None:
        """What would serve, in words; None where this machine or the bundle lacks something for it."""
        record = self.backends[name]
        if self.gate and record.open_gated is None:
            self.passed_over[name] = NO_GATE
            return None
        if self.bundle.manifest.artefact(record.artefact) is None:
            self.passed_over[name] = f"the bundle {self.bundle.holds_no(record.artefact)}"
            return None
        refusal = self._gate_refusal(record.gate) if self.gate else ""
        if not refusal and self.loss is not None:
            refusal = self.loss.refusal(self.bundle, self.artefact(name))
        if refusal:
            self.passed_over[name] = refusal
            return None
        try:
            return record.check(self.machine)
        except MachineError as err:
            self.passed_over[name] = str(err)
        except BreastsegError as err:
            self.pass_over(name, err)
        return None

    def _gate_refusal(self, role: str) -> str:
        """Why the bundle's gate of a role is none to serve, in words; empty where it may be served."""
        found = details_of(self.bundle.manifest, role, Gate)
        return found[0].refusal if found else f"the bundle {self.bundle.holds_no(role)}"

    def pass_over(self, name: str, err: BreastsegError) -> None:
        """Pass over a backend that is there and fails.

        Raises:
            BundleError: the bundle is damaged, which no other backend would mend.
            ParityError, BackendError: with `strict`.
        """
        if isinstance(err, BundleError):
            raise err
        if self.strict:
            kind = ParityError if isinstance(err, ParityError) else BackendError
            raise kind(f"{name} failed, and with strict=True no other backend may serve in its place: {err}") from err
        self.failed = True
        self.passed_over[name] = f"failed: {err}"

    def reason(self, name: str, why: str = "") -> str:
        """Why a backend serves, what it loses, and why others do not."""
        why = why or ("the first that works here" if self.passed_over else "preferred, and works here")
        parts = [f"{name}: {why}"] + ([self._loss_words[name]] if name in self._loss_words else [])
        if self.passed_over:
            parts.append(f"passed over: {in_words(self.passed_over)}")
        return "; ".join(parts)


def opened(record: BackendRecord, bundle: Bundle, machine: Machine, gate: bool) -> Backend:
    """A backend, loaded, with the gate where it is asked for."""
    open_backend = record.open_gated if gate and record.open_gated is not None else record.open
    return open_backend(bundle, machine)


def in_words(passed_over: Mapping[str, str]) -> str:
    """Backends with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, why in passed_over.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
