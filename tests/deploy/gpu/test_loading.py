"""From a backend's name to a pipeline that may serve: what is needed, which engine, and whether it is to be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from host_network import FRAMES, Float16Network
from surgery import edit_manifest

from breastseg_deploy import BackendError, BundleError, MachineError, ParityError, Segmenter
from breastseg_deploy.backends import select as choice
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import Engine, EngineKey, Origin
from breastseg_deploy.errors import OutputError
from breastseg_deploy.gpu import loading as gpu_loading
from breastseg_deploy.gpu.tensorrt import PlanError
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")
KEY = EngineKey("0" * 64, "tensorrt-rtx", "1.7.1.116", "8.6", "fp16", 1, 1, 8)


class Machine:
    """A machine with a GPU and TensorRT-RTX whose engine computes what the float16 network does.

    Attributes:
        unloadable: plans that TensorRT will not deserialise.
        instead: the engines that the store has in their place, in its order.
    """

    def __init__(self, network: Float16Network) -> None:
        self.gpu: Gpu | NoGpu = GPU
        self.engine = Engine(b"plan", KEY, "a" * 64, "cache")
        self.network = network
        self.requests: list[EngineRequest] = []
        self.plans: list[bytes] = []
        self.unloadable: set[bytes] = set()
        self.instead: list[Engine] = []

    def from_(self, origin: Origin) -> None:
        self.engine = replace(self.engine, origin=origin)

    def obtain_engine(self, bundle: Bundle, request: EngineRequest, say: Any, refused: Sequence[str]) -> Engine:
        self.requests.append(request)
        say("the bundle holds engines for another GPU")
        return next(engine for engine in (self.engine, *self.instead) if engine.sha256 not in refused)

    def load_engine(self, flavour: Any, plan: bytes, size_px: tuple[int, int], stream: Any) -> Float16Network:
        self.plans.append(plan)
        if plan in self.unloadable:
            raise PlanError("TensorRT-RTX cannot load this engine on this GPU: no reason")
        return self.network


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cupy_on_cpu: ModuleType, quick_edge: None, float16: Float16Network
) -> Machine:
    made = Machine(float16)
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu_loading, "look_for_gpu", lambda: made.gpu)
    monkeypatch.setattr(gpu_loading, "load", lambda flavour: ModuleType("tensorrt_rtx"))
    monkeypatch.setattr(gpu_loading, "version", lambda trt: "1.7.1.116")
    monkeypatch.setattr(gpu_loading, "obtain_engine", made.obtain_engine)
    monkeypatch.setattr(gpu_loading, "TensorRtNetwork", made.load_engine)
    return made


def opened_runs(machine: Machine, bundle: Bundle) -> list[int]:
    """Batch sizes that the engine ran while the backend was opened."""
    machine.network.runs.clear()
    gpu_loading.open_tensorrt(bundle, "tensorrt-rtx").close()
    return list(machine.network.runs)


def test_engine_is_asked_for_this_gpu_and_batches_of_1_to_8(machine: Machine, bundle: Bundle) -> None:
    pipeline = gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
    (request,) = machine.requests
    assert (request.flavour.name, request.compute_capability) == ("tensorrt-rtx", "8.6")
    assert (request.precision, request.min_batch, request.max_batch) == ("fp16", 1, 8)
    assert machine.plans == [b"plan"]
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


def test_goldens_run_at_the_first_open_and_not_again(machine: Machine, bundle: Bundle) -> None:
    goldens = len(bundle.manifest.goldens)
    assert opened_runs(machine, bundle) == [1] * (1 + goldens)
    assert opened_runs(machine, bundle) == [1, 1]  # preparation, a black frame


def test_goldens_run_again_for_another_engine(machine: Machine, bundle: Bundle) -> None:
    opened_runs(machine, bundle)
    machine.engine = replace(machine.engine, sha256="b" * 64)
    assert len(opened_runs(machine, bundle)) > 2


@pytest.mark.parametrize("change", [{"driver": "590.1"}, {"name": "NVIDIA Other"}])
def test_goldens_run_again_after_a_change_of_driver_or_gpu(
    machine: Machine, bundle: Bundle, change: dict[str, Any]
) -> None:
    opened_runs(machine, bundle)
    machine.gpu = replace(GPU, **change)
    assert len(opened_runs(machine, bundle)) > 2


def test_goldens_run_once_for_each_batch_size(machine: Machine, bundle: Bundle) -> None:
    for runs in ([2] * 4, [2] * 3):  # preparation, goldens (3) or at the second open a black batch, frames
        pipeline = gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
        machine.network.runs.clear()
        pipeline.infer(FRAMES[:2])
        assert machine.network.runs == runs


def test_goldens_run_again_for_stricter_limits(machine: Machine, bundle: Bundle, bundle_copy: Path) -> None:
    opened_runs(machine, bundle)
    limits = {"worst_dice": 0.995, "mean_dice": 0.999, "dice_change": 0.001}
    edit_manifest(
        bundle_copy, lambda raw: [p.update(limits=limits) for p in raw["parity"] if p["artefact"] == NETWORK_FP16]
    )
    assert len(opened_runs(machine, Bundle.open(bundle_copy))) > 2


def test_an_engine_that_fails_its_goldens_serves_neither_now_nor_later(machine: Machine, bundle: Bundle) -> None:
    machine.network.spoil = lambda logits: logits.fill(-9)
    for _ in range(2):
        with pytest.raises(ParityError, match=r"do not use its network\.fp16\.onnx on this machine"):
            gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
    machine.network.spoil = lambda logits: None
    assert len(opened_runs(machine, bundle)) > 2


@pytest.mark.parametrize(
    ("origin", "level", "words"),
    [
        ("built", logging.WARNING, "built an engine for this machine"),
        ("cache", logging.INFO, "engine of the cache"),
        ("bundle", logging.INFO, "engine of the bundle"),
    ],
)
def test_where_the_engine_came_from_is_told(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture, origin: Origin, level: int, words: str
) -> None:
    machine.from_(origin)
    with caplog.at_level(logging.INFO, "breastseg_deploy"):
        gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
    said, told = [record for record in caplog.records if record.name == "breastseg_deploy"]
    assert said.message == "tensorrt-rtx: the bundle holds engines for another GPU"
    assert (told.levelno, words in told.message) == (level, True)


BUILT = Engine(b"built", KEY, "b" * 64, "built")


@pytest.mark.parametrize("origin", ["bundle", "cache"])
def test_an_engine_that_fits_and_will_not_load_is_passed_over_in_words(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture, origin: Origin
) -> None:
    machine.from_(origin)
    machine.unloadable, machine.instead = {b"plan"}, [BUILT]
    assert len(opened_runs(machine, bundle)) > 2  # the new one has to prove itself
    assert machine.plans == [b"plan", b"built"]
    assert f"the engine of the {origin} is passed over: TensorRT-RTX cannot load this engine" in caplog.text
    assert "built an engine for this machine" in caplog.text


def test_an_engine_that_was_built_here_and_will_not_load_fails_and_is_not_built_at_the_next_open(
    machine: Machine, bundle: Bundle
) -> None:
    machine.unloadable, machine.instead = {b"plan", b"built"}, [BUILT]
    for plans in ([b"plan", b"built"], [b"plan"]):
        machine.plans.clear()
        with pytest.raises(PlanError, match="cannot load this engine on this GPU"):
            gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
        assert machine.plans == plans


def test_with_another_driver_a_build_is_tried_again(machine: Machine, bundle: Bundle) -> None:
    machine.unloadable, machine.instead = {b"plan", b"built"}, [BUILT]
    with pytest.raises(PlanError):
        gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
    machine.gpu, machine.unloadable = replace(GPU, driver="590.1"), {b"plan"}
    assert len(opened_runs(machine, bundle)) > 2


def test_a_verdict_that_cannot_be_kept_is_told_and_the_engine_serves(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space left on device")

    monkeypatch.setattr(gpu_loading, "record_self_test", full)
    pipeline = gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1
    assert "that cannot be kept: no space left on device" in caplog.text


def test_verdicts_that_cannot_be_read_are_told_and_the_goldens_run(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_permission(*_: Any) -> None:
        raise OutputError("cannot make the engine cache: no permission")

    opened_runs(machine, bundle)
    monkeypatch.setattr(gpu_loading, "self_test_passed", no_permission)
    assert len(opened_runs(machine, bundle)) > 2
    assert "what is known of the engine cannot be read: cannot make the engine cache" in caplog.text


def test_a_library_that_is_there_and_broken_is_a_failure(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise ImportError("libnvinfer.so.10:\ncannot open shared object file")

    monkeypatch.setattr(gpu_loading, "load", broken)
    with pytest.raises(BackendError, match=r"TensorRT is installed and does not work here: libnvinfer.so.10: can"):
        gpu_loading.check_tensorrt("tensorrt")


def test_a_cuda_error_while_the_engine_is_loaded_is_a_failure(
    machine: Machine, bundle: Bundle, cupy_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise cupy_on_cpu.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: driver is too old")

    monkeypatch.setattr(gpu_loading, "TensorRtNetwork", fail)
    with pytest.raises(BackendError, match="TensorRT-RTX is installed and does not work here: cudaErrorInsufficient"):
        gpu_loading.open_tensorrt(bundle, "tensorrt-rtx")


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"])
def test_a_machine_without_gpu_lacks_something_and_imports_nothing(
    machine: Machine, bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpu = NoGpu("no NVIDIA driver on this machine", expected=False)
    monkeypatch.setattr(gpu_loading, "require", lambda *_: pytest.fail("nothing may be imported"))
    with pytest.raises(MachineError, match=r"^no NVIDIA driver on this machine$"):
        choose(bundle, name)


def test_a_bundle_without_float16_network_is_refused_by_name(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from breastseg_deploy.engines.store import obtain_engine

    files = {name: entry for name, entry in bundle.manifest.files.items() if name != NETWORK_FP16}
    without = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    monkeypatch.setattr(gpu_loading, "obtain_engine", obtain_engine)
    with pytest.raises(BundleError, match=r"holds no network.fp16.onnx"):
        gpu_loading.open_tensorrt(without, "tensorrt-rtx")


def test_check_names_version_and_gpu(machine: Machine) -> None:
    assert gpu_loading.check_tensorrt("tensorrt-rtx") == (
        "TensorRT-RTX 1.7.1.116 on NVIDIA Test, compute capability 8.6, driver 580.82"
    )


def test_onnxruntime_on_cuda_runs_the_goldens_at_every_open(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_loading, "open_network", lambda bundle, stream, device: machine.network)
    for _ in range(2):
        machine.network.runs.clear()
        gpu_loading.open_onnxruntime_cuda(bundle).close()
        assert machine.network.runs == [1] * (1 + len(bundle.manifest.goldens))


@pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="needs a machine without GPU, where engines cannot run")
def test_a_real_engine_that_cannot_run_here_is_built_tried_and_passed_over_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cupy_on_cpu: ModuleType, demo_bundle: Path
) -> None:
    """TensorRT-RTX builds without a driver and cannot run without one: all that is real here but the GPU's name."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    for module in (choice, gpu_loading):
        monkeypatch.setattr(module, "look_for_gpu", lambda: GPU)
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    with Segmenter.open(demo_bundle) as segment:
        assert segment.backend in ("openvino", "onnxruntime")
        assert "passed over: tensorrt (" in segment.backend_reason
        assert "tensorrt-rtx (failed: TensorRT-RTX" in segment.backend_reason
        assert "cannot load this engine on this GPU" in segment.backend_reason
        assert "onnxruntime-cuda (" in segment.backend_reason
    (plan,) = (tmp_path / "cache").glob("*.plan")
    built = plan.stat().st_mtime_ns
    with pytest.raises(BackendError, match="tensorrt-rtx failed, and with strict=True no other backend may serve"):
        Segmenter.open(demo_bundle, strict=True)
    assert plan.stat().st_mtime_ns == built  # minutes are not spent twice on an engine that cannot run here
