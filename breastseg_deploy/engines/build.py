"""Building an engine: the same steps for every flavour, and nothing kept that is not of the types asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import (
    Builder,
    Enumerator,
    IBuilderConfig,
    IBuilderConfigRtx,
    INetworkDefinition,
    TensorRT,
    TensorRTRtx,
)
from breastseg_deploy.engines.flavour import Flavour, load, version
from breastseg_deploy.engines.inspection import Convolutions, inspect_engine
from breastseg_deploy.engines.network import TypeHistogram, checked_types, parse_network
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.errors import ArgumentError, BackendError

Say = Callable[[str], None]

_THOROUGH = 5
"""TensorRT's highest optimisation level: it compares the most kernels. An engine is built once and runs for months."""


@dataclass(frozen=True)
class BuiltEngine:
    """What a build gives.

    Attributes:
        plan: the serialised engine: native code.
        type_histogram: number of layers by kind and type, e.g. {"CONVOLUTION": {"FLOAT": 3, "HALF": 357}}.
        seconds: wall time of the build.
        timing_cache: for the next build with the same flavour, version and GPU; None where the flavour keeps none.
        convolutions: read back from the engine; None for TensorRT-RTX, which fuses all into one layer and tells nothing
            of it.
    """

    plan: bytes
    type_histogram: TypeHistogram
    seconds: float
    timing_cache: bytes | None
    convolutions: Convolutions | None = None


def build_engine(
    network_onnx: bytes,
    request: EngineRequest,
    islands: Sequence[str],
    say: Say = lambda _: None,
    timing_cache: bytes | None = None,
    say_every_s: float = log.SAY_EVERY_S,
) -> BuiltEngine:
    """Build an engine from a strongly typed network.

    Args:
        network_onnx: content of `network.fp16.onnx`.
        request: what to build.
        islands: names of the nodes that may compute in float32 (the manifest's `half.fp32_islands`).
        say: told about the steps and the builder's progress, in sentences.
        timing_cache: of an earlier build; ignored where the flavour keeps none or it does not fit.
        say_every_s: seconds between two sentences about the builder's progress.

    Raises:
        MachineError: the flavour is not installed.
        BackendError: the parser cannot take the network, a convolution outside the islands is not HALF, the builder
            failed, or the engine's convolutions are not, or not told to be, of the network's types.
        ArgumentError: a compute capability that the flavour cannot build for.
    """
    trt = load(request.flavour)
    title = f"{request.flavour.title} {version(trt)}"
    target = target_capability(trt, request)
    builder = _builder(trt, request.flavour)
    network, parser = parse_network(trt, builder, network_onnx)
    # Before the build, which takes minutes: a convolution that lost its type here will not get it back.
    histogram = checked_types(trt, network, frozenset(islands))
    say(
        f"building an engine with {title} for compute capability {request.compute_capability}, {request.precision}, "
        f"batches of {request.min_batch} to {request.max_batch}"
    )
    progress = log.Progress(say, say_every_s)
    config = configuration(trt, builder, network, request, target, progress)
    keeps_timings = not request.flavour.builds_for_other_gpus  # in TensorRT-RTX they are no-ops that warn
    if keeps_timings:
        put_timings(config, timing_cache, say)
    started = time.perf_counter()
    with log.heard():
        memory = builder.build_serialized_network(network, config)
        reason = log.first_error()
    seconds = time.perf_counter() - started
    del parser  # it owned the network's weights until here
    # An exception that crosses the builder's own code ends the process; it was kept and is raised here.
    if progress.failure is not None:
        raise progress.failure
    if memory is None:
        raise BackendError(
            f"{title} could not build an engine for compute capability {request.compute_capability}: "
            f"{reason}; see its log under Python's logger {log.LOG.name!r}"
        )
    plan = bytes(memory)
    say(f"built {len(plan):,} bytes in {seconds:.1f} s: {_words(histogram)}")
    # Types asked for are not types taken: what the builder chose is read back from the engine itself.
    found = None if request.flavour.builds_for_other_gpus else inspect_engine(trt, plan, histogram)
    if found is not None:
        say(f"convolutions of the engine: {found}")
        for tactic, number in sorted(found.tactics.items()):
            log.LOG.info("%d convolutions by %s", number, tactic)
    return BuiltEngine(plan, histogram, seconds, _timings(config) if keeps_timings else None, found)


def buildable_capabilities(flavour: Flavour) -> list[str]:
    """The compute capabilities that a flavour builds for on any machine, e.g. ["7.5", "8.0"]; none for TensorRT.

    Raises:
        MachineError: the flavour is not installed.
    """
    if not flavour.builds_for_other_gpus:
        return []
    members = cast(TensorRTRtx, load(flavour)).ComputeCapability.__members__
    numbers = sorted(int(name.removeprefix("SM")) for name in members if name.startswith("SM"))
    return [f"{number // 10}.{number % 10}" for number in numbers]


def target_capability(trt: TensorRT, request: EngineRequest) -> Enumerator | None:
    """The flavour's own value for the request's compute capability; None where it knows its own GPU alone.

    Raises:
        ArgumentError: the flavour does not build for it.
    """
    if not request.flavour.builds_for_other_gpus:
        return None
    members = cast(TensorRTRtx, trt).ComputeCapability.__members__
    found = members.get(f"SM{request.compute_capability.replace('.', '')}")
    if found is None:
        raise ArgumentError(
            f"{request.flavour.title} {version(trt)} builds for the compute capabilities "
            f"{', '.join(buildable_capabilities(request.flavour))}, got {request.compute_capability}; "
            "use TensorRT on that GPU"
        )
    return found


@log.heard()
def _builder(trt: TensorRT, flavour: Flavour) -> Builder:
    try:
        return trt.Builder(log.logger(trt))
    except (RuntimeError, TypeError) as err:  # the bindings' way to say that the library gave no builder
        raise BackendError(
            f"{flavour.title} {version(trt)} gave no builder ({err}; {log.first_error()}); "
            "see that `nvidia-smi` lists a GPU and that its driver is new enough"
        ) from err


@log.heard()
def configuration(
    trt: TensorRT,
    builder: Builder,
    network: INetworkDefinition,
    request: EngineRequest,
    target: Enumerator | None,
    progress: log.Progress,
) -> IBuilderConfig:
    """How the builder is to build what a request asks for.

    Args:
        trt: the flavour.
        builder: of that flavour.
        network: parsed.
        request: what to build.
        target: see `target_capability`.
        progress: is told about the build.

    Raises:
        BackendError: the flavour refuses the target.
    """
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    # TF32 rounds the inputs of float32 convolutions to ten bits, as many as float16 has: the islands would be none.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # types can be read back from the engine
    config.progress_monitor = log.progress_monitor(trt, progress)
    if not request.flavour.builds_for_other_gpus:  # TensorRT-RTX times no kernels: there it is a no-op that warns
        config.builder_optimization_level = _THOROUGH
    if target is not None:
        rtx_config = cast(IBuilderConfigRtx, config)
        rtx_config.num_compute_capabilities = 1
        if not rtx_config.set_compute_capability(target, 0):
            raise BackendError(
                f"{request.flavour.title} {version(trt)} refuses the compute capability {request.compute_capability}: "
                f"{log.first_error()}"
            )
    tensor = network.get_input(0)
    frame = tuple(tensor.shape)[1:]
    for batches in request.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *((batch, *frame) for batch in batches))
        config.add_optimization_profile(profile)
    return config


@log.heard()
def put_timings(config: IBuilderConfig, timing_cache: bytes | None, say: Say) -> None:
    """Timings of an earlier build into the configuration, else an empty cache; what is refused is told."""
    if timing_cache is not None:
        kept = config.create_timing_cache(timing_cache)
        if kept is not None and config.set_timing_cache(kept, False):
            return
        say(f"the timings of an earlier build do not fit ({log.first_error()}); all are taken anew")
    fresh = config.create_timing_cache(b"")
    if fresh is None or not config.set_timing_cache(fresh, False):
        say(f"no timings can be kept for the next build ({log.first_error()})")


def _timings(config: IBuilderConfig) -> bytes | None:
    cache = config.get_timing_cache()
    return None if cache is None else bytes(cache.serialize())


def _words(histogram: TypeHistogram) -> str:
    """The heavy layers of a histogram in words."""
    convolutions = histogram.get("CONVOLUTION", {})
    return f"{sum(convolutions.values())} convolutions, " + ", ".join(f"{n} {kind}" for kind, n in convolutions.items())
