"""Opening the GPU backends: what each needs of this machine, its engine, and the proof that it may serve."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.engines.build import buildable_capabilities
from breastseg_deploy.engines.flavour import Flavour, FlavourName, flavour_named, load, version
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import Engine, obtain_engine
from breastseg_deploy.errors import BackendError, BreastsegError, MachineError, OutputError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu.failure import one_line
from breastseg_deploy.gpu.graph import GpuNetwork
from breastseg_deploy.gpu.onnxruntime_cuda import load_onnxruntime_gpu, open_network
from breastseg_deploy.gpu.pipeline import MAX_BATCH, GpuPipeline
from breastseg_deploy.gpu.tensorrt import PlanError, TensorRtNetwork
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import DEVICE, Gpu, NoGpu
from breastseg_deploy.selftest import Goldens, golden_demands, self_test_once
from breastseg_deploy.verdicts import PrivateFolder, VerdictKey, Verdicts
from breastseg_deploy.version import __version__

_LOG = logging.getLogger("breastseg_deploy")


def needed_gpu(machine: Machine) -> Gpu:
    """The machine's GPU, with CuPy to use it by.

    Raises:
        MachineError: no GPU, or CuPy is not installed.
        BackendError: CuPy is installed and cannot be loaded.
    """
    found = machine.gpu
    if isinstance(found, NoGpu):
        raise MachineError(found.reason)
    with _vendor("CuPy"):
        require("cupy", "gpu")
    return found


def check_tensorrt(name: FlavourName, machine: Machine) -> str:
    """What would serve, in words.

    Raises:
        MachineError: no GPU, or one that this TensorRT builds no engines for; CuPy or this TensorRT is not installed.
        BackendError: one of them is installed and cannot be loaded.
    """
    flavour, gpu = _flavour_and_gpu(name, machine)
    with _vendor(flavour.title):
        return f"{flavour.title} {version(load(flavour))} on {gpu}"


def _flavour_and_gpu(name: FlavourName, machine: Machine) -> tuple[Flavour, Gpu]:
    flavour, gpu = flavour_named(name), needed_gpu(machine)
    with _vendor(flavour.title):
        able = buildable_capabilities(flavour)
        if able and gpu.compute_capability not in able:
            raise MachineError(
                f"{flavour.title} {version(load(flavour))} builds engines for the compute capabilities "
                f"{', '.join(able)}, this machine has {gpu}; use TensorRT or ONNX Runtime on it"
            )
    return flavour, gpu


def open_tensorrt(
    name: FlavourName,
    bundle: Bundle,
    machine: Machine,
    obtain: Callable[..., Engine] = obtain_engine,
    load_engine: Callable[..., GpuNetwork] = TensorRtNetwork,
) -> GpuPipeline:
    """A pipeline around the engine that fits this machine: of the bundle, of the cache, or built now.

    One that fits by all that engines are tied to and will not load all the same is passed over in words.

    Args:
        name: of the flavour.
        bundle: opened.
        machine: its GPU decides which engine fits.
        obtain: finds or builds the engine; see `engines.store.obtain_engine`.
        load_engine: deserialises its plan; see `TensorRtNetwork`.

    Raises:
        MachineError: as `check_tensorrt`; the cache folder is not this user's alone.
        BackendError: the engine cannot be built, loaded or run.
        ParityError: a golden misses the limit of the float16 network.
        BundleError: the bundle holds no float16 network, or a file of it was altered.
        OutputError: the cache folder cannot be written.
    """
    flavour, gpu = _flavour_and_gpu(name, machine)
    verdicts, refused = Verdicts(machine), list[str]()

    def pipeline(engine: Engine) -> GpuPipeline:
        sha256 = engine.sha256  # all that the self-test keeps of it: the plan is as large as the network

        def network(stream: Any) -> GpuNetwork:
            kernels = _Kernels(machine, f"{sha256}.kernels")
            return load_engine(flavour, engine.plan, bundle.manifest.frame.size_px, stream, kernels)

        def self_test(batch: int, goldens: Goldens) -> bool:
            return self_test_once(_self_test_key(name, bundle, sha256, gpu, batch), verdicts, goldens)

        return GpuPipeline(bundle, network, self_test)

    with _vendor(flavour.title):
        request = EngineRequest(flavour, gpu.compute_capability, max_batch=MAX_BATCH, gpu=gpu.name)
        while True:
            engine = obtain(bundle, request, machine, lambda words: _LOG.info("%s: %s", name, words), refused=refused)
            if engine.origin == "built":
                _LOG.warning("%s: built an engine for this machine (%s); its goldens are run now", name, engine.key)
            else:
                _LOG.info("%s: engine of the %s (%s)", name, engine.origin, engine.key)
            try:
                return pipeline(engine)
            except PlanError as err:
                if not _worth_another(engine, gpu, verdicts):
                    raise
                _LOG.warning("%s: the engine of the %s is passed over: %s", name, engine.origin, err)
                refused.append(engine.sha256)


class _Kernels:
    """A `KernelStore` in the machine's private folder; what cannot be kept or read is compiled again."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name

    def read(self) -> bytes | None:
        """See `KernelStore.read`."""
        try:
            return PrivateFolder.open(self._machine.cache).read(self._name)
        except (MachineError, OutputError) as err:
            _LOG.warning("kept kernels cannot be read: %s", err)
            return None

    def write(self, content: bytes) -> None:
        """See `KernelStore.write`."""
        try:
            PrivateFolder.open(self._machine.cache).write(self._name, content)
        except (MachineError, OutputError) as err:
            _LOG.warning("compiled kernels cannot be kept: %s", err)


def _self_test_key(name: FlavourName, bundle: Bundle, engine_sha256: str, gpu: Gpu, batch: int) -> VerdictKey:
    depends_on = {
        "engine": engine_sha256,
        "gpu": str(gpu),
        "batch": str(batch),
        "toolkit": __version__,
        "goldens": golden_demands(bundle, FP16),
    }
    return VerdictKey(f"self-test-{name}", depends_on)


def check_onnxruntime_cuda(machine: Machine) -> str:
    """What would serve, in words.

    Raises:
        MachineError: no GPU, or CuPy or onnxruntime-gpu is not installed.
        BackendError: one of them is installed and cannot be loaded.
    """
    gpu = needed_gpu(machine)
    with _vendor("ONNX Runtime"):
        return f"ONNX Runtime {load_onnxruntime_gpu().__version__} on {gpu}"


def open_onnxruntime_cuda(
    bundle: Bundle, machine: Machine, load_network: Callable[..., GpuNetwork] = open_network
) -> GpuPipeline:
    """A pipeline around `network.fp16.onnx` in ONNX Runtime.

    There is no engine whose hash a verdict could name, so the goldens run at every opening.

    Args:
        bundle: opened.
        machine: must have a GPU.
        load_network: opens the session; see `onnxruntime_cuda.open_network`.

    Raises:
        MachineError: as `check_onnxruntime_cuda`.
        BackendError: the network cannot be loaded or run.
        ParityError: a golden misses the limit of the float16 network.
        BundleError: the bundle holds no float16 network, or a file of it was altered.
    """
    needed_gpu(machine)
    with _vendor("ONNX Runtime on CUDA"):
        return GpuPipeline(bundle, lambda stream: load_network(bundle, stream, DEVICE))


def _worth_another(engine: Engine, gpu: Gpu, verdicts: Verdicts) -> bool:
    """Whether another engine is to be tried where one will not load: not where one that was built here did not either.

    That a build was in vain is recorded, so that no later process spends minutes on finding it out again.
    """
    key = VerdictKey("vain-build", {"engine": engine.key.digest, "gpu": str(gpu), "toolkit": __version__})
    try:
        if engine.origin == "built":
            verdicts.record(key, {})
            return False
        return verdicts.recall(key) is None
    except (MachineError, OutputError) as err:
        _LOG.warning("the engine will not load, and what is known of such engines cannot be kept or read: %s", err)
        return engine.origin != "built"


@contextmanager
def _vendor(title: str) -> Iterator[None]:
    """The border to a GPU library: its errors of a hundred kinds leave as BackendErrors."""
    try:
        yield
    except BreastsegError:
        raise
    except Exception as err:  # libraries that do not load, CUDA errors, engines' own: no common base class
        raise BackendError(
            f"{title} is installed and does not work here: {one_line(err)}; run `breastseg doctor`"
        ) from err
