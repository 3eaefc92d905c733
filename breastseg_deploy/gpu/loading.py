"""Opening the GPU backends: what each needs of this machine, its engine, and the proof that it may serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.engines.flavour import Flavour, FlavourName, flavour_named, load, version
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import Engine, obtain_engine
from breastseg_deploy.engines.verdicts import rebuilding_is_vain, record_self_test, record_vain_build, self_test_passed
from breastseg_deploy.errors import BackendError, BreastsegError, MachineError, OutputError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu.failure import one_line
from breastseg_deploy.gpu.graph import GpuNetwork
from breastseg_deploy.gpu.onnxruntime_cuda import load_onnxruntime_gpu, open_network
from breastseg_deploy.gpu.pipeline import MAX_BATCH, GpuPipeline
from breastseg_deploy.gpu.tensorrt import PlanError, TensorRtNetwork
from breastseg_deploy.nvidia import DEVICE, Gpu, NoGpu, look_for_gpu
from breastseg_deploy.selftest import yardstick

_LOG = logging.getLogger("breastseg_deploy")


def needed_gpu() -> Gpu:
    """This machine's GPU, with CuPy to use it by.

    Raises:
        MachineError: no GPU, or CuPy is not installed.
        BackendError: CuPy is installed and cannot be loaded.
    """
    found = look_for_gpu()
    if isinstance(found, NoGpu):
        raise MachineError(found.reason)
    with _vendor("CuPy"):
        require("cupy", "gpu")
    return found


def check_tensorrt(name: FlavourName) -> str:
    """What would serve, in words.

    Raises:
        MachineError: no GPU, or CuPy or this TensorRT is not installed.
        BackendError: one of them is installed and cannot be loaded.
    """
    flavour, gpu = flavour_named(name), needed_gpu()
    with _vendor(flavour.title):
        return f"{flavour.title} {version(load(flavour))} on {gpu}"


def open_tensorrt(bundle: Bundle, name: FlavourName) -> GpuPipeline:
    """A pipeline around the engine that fits this machine: of the bundle, of the cache, or built now.

    One that fits by all that engines are tied to and will not load all the same is passed over in words.

    Raises:
        MachineError: as `check_tensorrt`; the engine cache is not this user's alone.
        BackendError: the engine cannot be built, loaded or run.
        ParityError: a golden misses the limit of the float16 network.
        BundleError: the bundle holds no float16 network, or a file of it was altered.
        OutputError: the engine cache cannot be written.
    """
    flavour, gpu = flavour_named(name), needed_gpu()
    refused: list[str] = []
    with _vendor(flavour.title):
        request = EngineRequest(flavour, gpu.compute_capability, max_batch=MAX_BATCH)
        while True:
            engine = obtain_engine(bundle, request, lambda words: _LOG.info("%s: %s", name, words), refused=refused)
            try:
                return _pipeline(bundle, flavour, engine, gpu)
            except PlanError as err:
                if not _worth_another(engine, str(gpu)):
                    raise
                _LOG.warning("%s: the engine of the %s is passed over: %s", name, engine.origin, err)
                refused.append(engine.sha256)


def check_onnxruntime_cuda() -> str:
    """What would serve, in words.

    Raises:
        MachineError: no GPU, or CuPy or onnxruntime-gpu is not installed.
        BackendError: one of them is installed and cannot be loaded.
    """
    gpu = needed_gpu()
    with _vendor("ONNX Runtime"):
        return f"ONNX Runtime {load_onnxruntime_gpu().__version__} on {gpu}"


def open_onnxruntime_cuda(bundle: Bundle) -> GpuPipeline:
    """A pipeline around `network.fp16.onnx` in ONNX Runtime.

    There is no engine whose hash a verdict could hang on, so the goldens run every time.

    Raises:
        MachineError: as `check_onnxruntime_cuda`.
        BackendError: the network cannot be loaded or run.
        ParityError: a golden misses the limit of the float16 network.
        BundleError: the bundle holds no float16 network, or a file of it was altered.
    """
    needed_gpu()
    with _vendor("ONNX Runtime on CUDA"):
        return GpuPipeline(bundle, lambda stream: open_network(bundle, stream, DEVICE))


class EngineVerdicts:
    """Verdicts on one engine, kept in the engine cache: by its hash, GPU, driver, goldens and batch size.

    Args:
        engine: the engine.
        circumstances: all that a verdict hangs on besides engine and batch size, in words.
    """

    def __init__(self, engine: Engine, circumstances: str) -> None:
        self._engine = engine
        self._circumstances = circumstances

    def passed(self, batch: int) -> bool:
        """See `Verdicts.passed`; where no verdict can be read, there is none."""
        try:
            return self_test_passed(self._engine, self._words(batch))
        except OutputError as err:
            _LOG.warning("what is known of the engine cannot be read: %s", err)
            return False

    def record(self, batch: int, figures: Mapping[str, float]) -> None:
        """See `Verdicts.record`; a verdict that cannot be kept is only found again by the next process."""
        try:
            record_self_test(self._engine, figures, self._words(batch))
        except OutputError as err:
            _LOG.warning("the engine passed its goldens, and that cannot be kept: %s", err)

    def _words(self, batch: int) -> str:
        return f"{self._circumstances}; batches of {batch}"


def _pipeline(bundle: Bundle, flavour: Flavour, engine: Engine, gpu: Gpu) -> GpuPipeline:
    if engine.origin == "built":
        _LOG.warning("%s: built an engine for this machine (%s); its goldens are run now", flavour.name, engine.key)
    else:
        _LOG.info("%s: engine of the %s (%s)", flavour.name, engine.origin, engine.key)

    def network(stream: Any) -> GpuNetwork:
        return TensorRtNetwork(flavour, engine.plan, bundle.manifest.frame.size_px, stream)

    return GpuPipeline(bundle, network, EngineVerdicts(engine, f"{gpu}; {yardstick(bundle, NETWORK_FP16)}"))


def _worth_another(engine: Engine, device: str) -> bool:
    """Whether another engine is to be tried: not where one that was built here would not load either."""
    if engine.origin != "built":
        return not rebuilding_is_vain(engine, device)
    try:
        record_vain_build(engine, device)
    except OutputError as err:
        _LOG.warning("the engine will not load, and that cannot be kept: %s", err)
    return False


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
