"""TensorRT engines of a bundle: what can be built is known before the long work, and what was built is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from breastseg_deploy.artefacts import EngineEntry, HalfPrecision
from breastseg_deploy.bundle import ENGINE, FP16, NETWORK_FP16
from breastseg_deploy.engines.build import build_engine, target_capability
from breastseg_deploy.engines.flavour import Flavour, flavour_named, load
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import EngineKey
from breastseg_deploy.errors import ArgumentError, MachineError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Precision
from breastseg_deploy.nvidia import NoGpu
from breastseg_deploy.progress import Progress
from breastseg_export.formats.format import LOGITS_SPEC, TENSOR_SPEC, ArtefactNotes, Candidate, Work
from breastseg_export.named_frames import NamedFrames

_NOT_RUN = "not run on a GPU by the export; the runtime tests it on the machine before it serves"


def engine_requests(
    targets: Sequence[str], capabilities: Sequence[str], precision: Precision, machine: Machine
) -> tuple[EngineRequest, ...]:
    """The engines that an export is asked for, each once.

    Args:
        targets: names of flavours.
        capabilities: compute capabilities to build for; without any, that of this machine's own GPU.
        precision: of the export.
        machine: on which it runs.

    Raises:
        ArgumentError: engines of an export without a float16 network, capabilities without a target, or one that a
            flavour cannot build for here.
        MachineError: a flavour is not installed, or there is no GPU where one is needed.
    """
    if not targets:
        if capabilities:
            raise ArgumentError("--compute-capability is for engines; name which with --target tensorrt-rtx")
        return ()
    if precision != "fp16":
        raise ArgumentError(
            f"engines are built from the float16 network, got --precision {precision}; omit one of --target "
            "and --precision"
        )
    return tuple(
        request
        for name in dict.fromkeys(targets)
        for request in _requests_of(flavour_named(name), list(dict.fromkeys(capabilities)), machine)
    )


class Engine:
    """The format, once for each engine; see the module.

    Args:
        request: what to build.
    """

    after_parity = True

    def __init__(self, request: EngineRequest) -> None:
        self._request = request

    def check(self, frames: NamedFrames) -> None:
        """Nothing that `engine_requests` has not looked at."""

    def make(self, work: Work) -> Candidate:
        """Build the engine of the float16 network that has passed.

        Raises:
            BackendError: the flavour refuses the network, or its build failed.
        """
        request, half = self._request, work.passed[FP16]
        network = half.candidate.files[NETWORK_FP16]()
        assert isinstance(half.notes.details, HalfPrecision)
        with Progress(f"building the engine for {request.compute_capability}"):
            built = build_engine(network, request, half.notes.details.fp32_islands, work.say)
        # The engine is tied to the network's bytes: no other network may take it.
        key = EngineKey.of_request(hashlib.sha256(network).hexdigest(), request)
        entry = EngineEntry(
            file=key.bundle_file,
            flavour=request.flavour.name,
            version=key.version,
            compute_capability=request.compute_capability,
            precision=request.precision,
            min_batch=request.min_batch,
            max_batch=request.max_batch,
            workspace_bytes=request.workspace_bytes,
            gpu=key.gpu,
            network_sha256=key.network_sha256,
            layer_types=built.type_histogram,
            build_seconds=built.seconds,
            verified=False,
            verification=_NOT_RUN,
        )
        notes = ArtefactNotes(entry, engine_facts(entry))
        return Candidate(
            ENGINE, {key.bundle_file: lambda: built.plan}, (TENSOR_SPEC,), (LOGITS_SPEC,), notes=lambda _: notes
        )


def engine_facts(entry: EngineEntry) -> Sequence[tuple[str, str]]:
    """What report and `breastseg inspect` say of an engine."""
    convolutions = ", ".join(f"{n} {kind}" for kind, n in entry.layer_types.get("CONVOLUTION", {}).items())
    on = f", on {entry.gpu}" if entry.gpu else ""
    return (
        (
            "engine",
            f"{entry.flavour} {entry.version}, compute capability {entry.compute_capability}, {entry.precision}{on}",
        ),
        ("batches", f"{entry.min_batch} to {entry.max_batch}"),
        ("convolutions", convolutions),
        ("parity", f"{'measured' if entry.verified else 'not verified'}: {entry.verification}"),
    )


def _requests_of(flavour: Flavour, capabilities: list[str], machine: Machine) -> list[EngineRequest]:
    trt = load(flavour)
    found = machine.gpu
    gpu = "" if isinstance(found, NoGpu) else found.name
    asked_for = capabilities or [_own_gpu(flavour, machine)]
    requests = [EngineRequest(flavour, capability, gpu=gpu) for capability in asked_for]
    for request in requests:
        target_capability(trt, request)
        if not flavour.builds_for_other_gpus and request.compute_capability != (own := _own_gpu(flavour, machine)):
            raise ArgumentError(
                f"{flavour.title} builds for the GPU of its own machine only ({own}), got --compute-capability "
                f"{request.compute_capability}; use --target tensorrt-rtx, or export on that machine"
            )
    return requests


def _own_gpu(flavour: Flavour, machine: Machine) -> str:
    """The compute capability of the machine's GPU."""
    found = machine.gpu
    if not isinstance(found, NoGpu):
        return found.compute_capability
    if flavour.builds_for_other_gpus:
        raise MachineError(f"{found.reason}; name the GPU to build for, e.g. --compute-capability 8.6")
    raise MachineError(
        f"{flavour.title} builds on the GPU that will run the engine: {found.reason}; export on the scanner's machine, "
        "or take --target tensorrt-rtx --compute-capability 8.6, which needs no GPU"
    )
