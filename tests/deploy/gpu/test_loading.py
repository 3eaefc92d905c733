"""From a backend's name to a pipeline that may serve: what is needed, which engine, and whether it is to be trusted."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from host_network import FRAMES, Float16Network
from surgery import artefact, edit_manifest

from breastseg_deploy import BackendError, BundleError, Machine, MachineError, ParityError, Segmenter
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import FP16, NETWORK_FP16, Bundle
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import Engine, EngineKey, Origin
from breastseg_deploy.gpu.loading import check_tensorrt, open_onnxruntime_cuda, open_tensorrt
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.gpu.tensorrt import KernelStore, PlanError
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")
KEY = EngineKey("0" * 64, "tensorrt-rtx", "1.7.1.116", "8.6", "fp16", 1, 8, 1 << 30, "")


class WithRtx:
    """A machine with a GPU and TensorRT-RTX whose engine computes what the float16 network does.

    Attributes:
        unloadable: plans that TensorRT will not deserialise.
        instead: the engines that the store has in their place, in its order.
    """

    def __init__(self, network: Float16Network, cache: Path) -> None:
        self.gpu: Gpu | NoGpu = GPU
        self.engine = Engine(b"plan", KEY, "a" * 64, "cache")
        self.network, self.cache = network, cache
        self.requests: list[EngineRequest] = []
        self.plans: list[bytes] = []
        self.unloadable: set[bytes] = set()
        self.instead: list[Engine] = []

    def from_(self, origin: Origin) -> None:
        self.engine = replace(self.engine, origin=origin)

    @property
    def machine(self) -> Machine:
        return Machine(gpu=self.gpu, cache=self.cache)

    def obtain_engine(
        self, bundle: Bundle, request: EngineRequest, machine: Machine, say: Any, refused: Sequence[str]
    ) -> Engine:
        self.requests.append(request)
        say("the bundle holds engines for another GPU")
        return next(engine for engine in (self.engine, *self.instead) if engine.sha256 not in refused)

    def load_engine(
        self, flavour: Any, plan: bytes, size_px: tuple[int, int], stream: Any, kernels: KernelStore
    ) -> Float16Network:
        self.plans.append(plan)
        self.kernels = kernels
        if plan in self.unloadable:
            raise PlanError("TensorRT-RTX cannot load this engine on this GPU: no reason")
        return self.network

    def open(self, bundle: Bundle) -> GpuPipeline:
        return open_tensorrt("tensorrt-rtx", bundle, self.machine, self.obtain_engine, self.load_engine)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cupy_on_cpu: ModuleType, float16: Float16Network) -> WithRtx:
    vendor = ModuleType("tensorrt_rtx")
    members = dict.fromkeys(("SM80", "SM86", "SM89", "SM120"))
    vars(vendor).update(__version__="1.7.1.116", ComputeCapability=SimpleNamespace(__members__=members))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", vendor)
    return WithRtx(float16, tmp_path / "cache")


def opened_runs(rtx: WithRtx, bundle: Bundle) -> list[int]:
    """Batch sizes that the engine ran while the backend was opened."""
    rtx.network.runs.clear()
    rtx.open(bundle).close()
    return list(rtx.network.runs)


def test_engine_is_asked_for_this_gpu_and_batches_of_1_to_8(rtx: WithRtx, bundle: Bundle) -> None:
    pipeline = rtx.open(bundle)
    (request,) = rtx.requests
    assert (request.flavour.name, request.compute_capability, request.gpu) == ("tensorrt-rtx", "8.6", GPU.name)
    assert (request.precision, request.min_batch, request.max_batch) == ("fp16", 1, 8)
    assert rtx.plans == [b"plan"]
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


def test_goldens_run_at_the_first_open_and_not_again(rtx: WithRtx, bundle: Bundle) -> None:
    goldens = len(bundle.manifest.goldens)
    assert opened_runs(rtx, bundle) == [1] * (1 + goldens)
    assert opened_runs(rtx, bundle) == [1, 1]  # preparation, a black frame


def test_a_pipeline_does_not_keep_the_plan(rtx: WithRtx, bundle: Bundle) -> None:
    engine = Engine(b"plan", KEY, "a" * 64, "cache")
    kept = weakref.ref(engine)
    rtx.instead, rtx.engine = [], engine
    pipeline = rtx.open(bundle)
    del rtx.engine, engine
    gc.collect()
    assert kept() is None
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


def test_compiled_kernels_are_kept_in_the_private_folder_by_engine(rtx: WithRtx, bundle: Bundle) -> None:
    rtx.open(bundle)
    assert rtx.kernels.read() is None
    rtx.kernels.write(b"kernels")
    rtx.open(bundle)
    assert rtx.kernels.read() == b"kernels"
    rtx.engine = replace(rtx.engine, sha256="b" * 64)
    rtx.open(bundle)
    assert rtx.kernels.read() is None


def test_kernels_that_others_could_have_written_are_not_read(
    rtx: WithRtx, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rtx.open(bundle)
    rtx.kernels.write(b"kernels")
    rtx.cache.chmod(0o777)
    assert rtx.kernels.read() is None
    rtx.kernels.write(b"kernels")
    assert "kept kernels cannot be read: others may write to" in caplog.text
    assert "compiled kernels cannot be kept: others may write to" in caplog.text


def test_goldens_run_again_for_another_engine(rtx: WithRtx, bundle: Bundle) -> None:
    opened_runs(rtx, bundle)
    rtx.engine = replace(rtx.engine, sha256="b" * 64)
    assert len(opened_runs(rtx, bundle)) > 2


@pytest.mark.parametrize("change", [{"driver": "590.1"}, {"name": "NVIDIA Other"}])
def test_goldens_run_again_after_a_change_of_driver_or_gpu(
    rtx: WithRtx, bundle: Bundle, change: dict[str, Any]
) -> None:
    opened_runs(rtx, bundle)
    rtx.gpu = replace(GPU, **change)
    assert len(opened_runs(rtx, bundle)) > 2


def test_goldens_run_once_for_each_batch_size(rtx: WithRtx, bundle: Bundle) -> None:
    rtx.open(bundle).infer(FRAMES)
    rtx.network.spoil = lambda logits: logits.fill(-9)
    rtx.open(bundle).infer(FRAMES)  # no ParityError: both batch sizes are known to pass


def test_goldens_run_again_for_stricter_limits(rtx: WithRtx, bundle: Bundle, bundle_copy: Path) -> None:
    opened_runs(rtx, bundle)
    limits = {"worst_dice": 0.995, "mean_dice": 0.999, "dice_change": 0.001}
    edit_manifest(bundle_copy, lambda raw: artefact(raw, FP16).update(limits=limits))
    assert len(opened_runs(rtx, Bundle.open(bundle_copy))) > 2


def test_an_engine_that_fails_its_goldens_serves_neither_now_nor_later(rtx: WithRtx, bundle: Bundle) -> None:
    rtx.network.spoil = lambda logits: logits.fill(-9)
    for _ in range(2):
        with pytest.raises(ParityError, match=r"do not use its fp16 artefact on this machine"):
            rtx.open(bundle)
    rtx.network.spoil = lambda logits: None
    assert len(opened_runs(rtx, bundle)) > 2


@pytest.mark.parametrize(
    ("origin", "level", "words"),
    [
        ("built", logging.WARNING, "built an engine for this machine"),
        ("cache", logging.INFO, "engine of the cache"),
        ("bundle", logging.INFO, "engine of the bundle"),
    ],
)
def test_where_the_engine_came_from_is_told(
    rtx: WithRtx, bundle: Bundle, caplog: pytest.LogCaptureFixture, origin: Origin, level: int, words: str
) -> None:
    rtx.from_(origin)
    with caplog.at_level(logging.INFO, "breastseg_deploy"):
        rtx.open(bundle)
    said, told, *_ = [record for record in caplog.records if record.name == "breastseg_deploy"]
    assert said.message == "tensorrt-rtx: the bundle holds engines for another GPU"
    assert (told.levelno, words in told.message) == (level, True)


BUILT = Engine(b"built", KEY, "b" * 64, "built")


@pytest.mark.parametrize("origin", ["bundle", "cache"])
def test_an_engine_that_fits_and_will_not_load_is_passed_over_in_words(
    rtx: WithRtx, bundle: Bundle, caplog: pytest.LogCaptureFixture, origin: Origin
) -> None:
    rtx.from_(origin)
    rtx.unloadable, rtx.instead = {b"plan"}, [BUILT]
    assert len(opened_runs(rtx, bundle)) > 2  # the new one has to prove itself
    assert rtx.plans == [b"plan", b"built"]
    assert f"the engine of the {origin} is passed over: TensorRT-RTX cannot load this engine" in caplog.text
    assert "built an engine for this machine" in caplog.text


def test_an_engine_that_was_built_here_and_will_not_load_fails_and_is_not_built_at_the_next_open(
    rtx: WithRtx, bundle: Bundle
) -> None:
    rtx.unloadable, rtx.instead = {b"plan", b"built"}, [BUILT]
    for plans in ([b"plan", b"built"], [b"plan"]):
        rtx.plans.clear()
        with pytest.raises(PlanError, match="cannot load this engine on this GPU"):
            rtx.open(bundle)
        assert rtx.plans == plans


def test_with_another_driver_a_build_is_tried_again(rtx: WithRtx, bundle: Bundle) -> None:
    rtx.unloadable, rtx.instead = {b"plan", b"built"}, [BUILT]
    with pytest.raises(PlanError):
        rtx.open(bundle)
    rtx.gpu, rtx.unloadable = replace(GPU, driver="590.1"), {b"plan"}
    assert len(opened_runs(rtx, bundle)) > 2


def test_verdicts_that_cannot_be_used_are_told_and_the_goldens_run_each_time(
    rtx: WithRtx, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rtx.cache.write_text("a file in the folder's place")
    for _ in range(2):
        assert len(opened_runs(rtx, bundle)) > 2
    assert caplog.text.count("its verdicts cannot be read, so the goldens run again: cannot make the cache folder") == 2
    assert caplog.text.count("the goldens passed, and that cannot be kept: cannot make the cache folder") == 2


def test_a_verdict_that_others_could_have_written_is_told_and_the_goldens_run(
    rtx: WithRtx, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    opened_runs(rtx, bundle)
    for verdict in rtx.cache.glob("self-test-*.json"):
        verdict.chmod(0o666)
    assert len(opened_runs(rtx, bundle)) > 2
    assert "others may write to" in caplog.text


def test_a_library_that_is_there_and_broken_is_a_failure(
    rtx: WithRtx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libnvinfer.so.10:\\ncannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"TensorRT-RTX is installed and does not work here: libnvinfer.so.10: can"):
        check_tensorrt("tensorrt-rtx", rtx.machine)


def test_a_cuda_error_while_the_engine_is_loaded_is_a_failure(
    rtx: WithRtx, bundle: Bundle, cupy_on_cpu: ModuleType
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise cupy_on_cpu.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: driver is too old")

    with pytest.raises(BackendError, match="TensorRT-RTX is installed and does not work here: cudaErrorInsufficient"):
        open_tensorrt("tensorrt-rtx", bundle, rtx.machine, rtx.obtain_engine, fail)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"])
def test_a_machine_without_gpu_lacks_something_and_imports_nothing(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cupy", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)  # an import would end in another sentence
    with pytest.raises(MachineError, match=r"^no NVIDIA driver on this machine$"):
        choose(bundle, name, Machine(gpu=NoGpu("no NVIDIA driver on this machine", expected=False)))


def test_a_bundle_without_float16_network_is_refused_by_name(rtx: WithRtx, bundle: Bundle) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != NETWORK_FP16}
    without = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleError, match=r"holds no network.fp16.onnx"):
        open_tensorrt("tensorrt-rtx", without, rtx.machine)


def test_check_names_version_and_gpu(rtx: WithRtx) -> None:
    assert check_tensorrt("tensorrt-rtx", rtx.machine) == (
        "TensorRT-RTX 1.7.1.116 on NVIDIA Test, compute capability 8.6, driver 580.82"
    )


@pytest.fixture
def hopper(tmp_path: Path, cupy_on_cpu: ModuleType) -> Machine:
    """A GPU that the real TensorRT-RTX knows nothing of."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return Machine(gpu=replace(GPU, name="NVIDIA Hopper", compute_capability="9.0"), cache=tmp_path / "cache")


def test_a_gpu_that_rtx_builds_no_engines_for_lacks_something(hopper: Machine, bundle: Bundle) -> None:
    with pytest.raises(MachineError) as failure:
        choose(bundle, "tensorrt-rtx", hopper)
    assert "builds engines for the compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in str(failure.value)
    assert "this machine has NVIDIA Hopper, compute capability 9.0" in str(failure.value)


def test_what_rtx_cannot_build_for_does_not_keep_strict_from_the_next_backend(hopper: Machine, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"the CPU may not serve in its place") as failure:
        choose(bundle, machine=hopper, strict=True)
    assert "onnxruntime-cuda (" in str(failure.value)


def test_onnxruntime_on_cuda_runs_the_goldens_at_every_open(rtx: WithRtx, bundle: Bundle) -> None:
    for _ in range(2):
        rtx.network.runs.clear()
        open_onnxruntime_cuda(bundle, rtx.machine, lambda *_: rtx.network).close()
        assert rtx.network.runs == [1] * (1 + len(bundle.manifest.goldens))


@pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="needs a machine without GPU, where engines cannot run")
def test_a_real_engine_that_cannot_run_here_is_built_tried_and_passed_over_in_words(
    tmp_path: Path, cupy_on_cpu: ModuleType, demo_bundle: Path
) -> None:
    """TensorRT-RTX builds without a driver and cannot run without one: all that is real here but the GPU's name."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    machine = Machine(gpu=GPU, cache=tmp_path / "cache")
    with Segmenter.open(demo_bundle, machine=machine) as segment:
        assert segment.backend in ("openvino", "onnxruntime")
        assert "passed over: tensorrt (" in segment.backend_reason
        assert "tensorrt-rtx (failed: TensorRT-RTX" in segment.backend_reason
        assert "cannot load this engine on this GPU" in segment.backend_reason
        assert "onnxruntime-cuda (" in segment.backend_reason
    (plan,) = (tmp_path / "cache").glob("*.plan")
    built = plan.stat().st_mtime_ns
    with pytest.raises(BackendError, match="tensorrt-rtx failed, and with strict=True no other backend may serve"):
        Segmenter.open(demo_bundle, strict=True, machine=machine)
    assert plan.stat().st_mtime_ns == built  # minutes are not spent twice on an engine that cannot run here
