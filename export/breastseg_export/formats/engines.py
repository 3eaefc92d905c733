"""TensorRT engines of a bundle: what can be built is known before the long work, and what was built is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from breastseg_deploy.bundle import ENGINES, NETWORK_FP16
from breastseg_deploy.engines.build import build_engine, target_capability
from breastseg_deploy.engines.flavour import Flavour, flavour_named, load
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import EngineKey
from breastseg_deploy.errors import ArgumentError, MachineError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import EngineEntry, Precision
from breastseg_deploy.nvidia import NoGpu
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import make_folder, write_whole

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
            flavour cannot build
            for here.
        MachineError: a flavour is not installed, or there is no GPU where one is needed.
    """
    if not targets:
        if capabilities:
            raise ArgumentError("--compute-capability is for engines; name which with --target tensorrt-rtx")
        return ()
    if precision != "fp16":
        raise ArgumentError(
            f"engines are built from the float16 network, got --precision {precision}; leave one of --target and "
            "--precision out"
        )
    return tuple(
        request
        for name in dict.fromkeys(targets)
        for request in _requests_of(flavour_named(name), list(dict.fromkeys(capabilities)), machine)
    )


def write_engines(
    folder: Path, islands: Sequence[str], requests: Sequence[EngineRequest], say: Callable[[str], None]
) -> tuple[EngineEntry, ...]:
    """Build the engines of a bundle that is being written, put them into it, and describe them for its manifest.

    Args:
        folder: the bundle; its float16 network stands in it already.
        islands: nodes of that network that compute in float32.
        requests: what to build.
        say: told about the steps.

    Raises:
        BackendError: a flavour refuses the network, or its build failed.
        OutputError: an engine cannot be written.
    """
    if not requests:
        return ()
    make_folder(folder / ENGINES)
    network = (folder / NETWORK_FP16).read_bytes()
    return tuple(_write_engine(folder, network, islands, request, say) for request in requests)


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


def _write_engine(
    folder: Path, network: bytes, islands: Sequence[str], request: EngineRequest, say: Callable[[str], None]
) -> EngineEntry:
    with Progress(f"building an engine for compute capability {request.compute_capability}"):
        built = build_engine(network, request, islands, say)
    key = EngineKey.of_request(hashlib.sha256(network).hexdigest(), request)
    write_whole(folder / key.bundle_file, built.plan)
    return EngineEntry(
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
