"""Which backend serves, and what is said about those that do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy import BackendError, BreastsegError, BundleError, MachineError, ParityError, Segmenter
from breastseg_deploy.backends import select as choice
from breastseg_deploy.backends.select import AUTO, BY_NAME_ONLY, LOADERS, Loader, choose
from breastseg_deploy.bundle import MODEL, NETWORK_FP16, Bundle
from breastseg_deploy.inference import Backend, Inference
from breastseg_deploy.manifest import EngineEntry
from breastseg_deploy.nvidia import Gpu, NoGpu

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")
NO_DRIVER = NoGpu("no NVIDIA driver on this machine", expected=False)
BROKEN_DRIVER = NoGpu("the NVIDIA driver shows no usable GPU", expected=True)
NOT_INSTALLED = MachineError("tensorrt is needed here and not installed: pip install it")
NO_OPENVINO = MachineError("openvino is needed here and not installed: pip install it")


class Serving:
    """An engine that answers nothing in particular."""

    def infer(self, rgb: NDArray[np.uint8]) -> Inference:
        return Inference(np.full(rgb.shape[:3], 0.25, np.float32), {})

    def close(self) -> None: ...


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let each backend serve, lack something (MachineError) or fail (any other error of the project).

    OpenVINO is not installed unless the test says otherwise, so that there is one backend for the CPU.
    """

    def pretend(gpu: Gpu | NoGpu, **outcomes: BreastsegError | None) -> None:
        monkeypatch.setattr(choice, "look_for_gpu", lambda: gpu)
        outcomes = {"openvino": NO_OPENVINO, **outcomes}
        loaders = {}
        for name, loader in LOADERS.items():
            outcome = outcomes.get(name.replace("-", "_"))
            loaders[name] = replace(loader, check=_check(outcome), open=_open(outcome))
        monkeypatch.setattr(choice, "LOADERS", loaders)

    return pretend


def _check(outcome: BreastsegError | None) -> Callable[[], str]:
    def check() -> str:
        if isinstance(outcome, MachineError):
            raise outcome
        return "here"

    return check


def _open(outcome: BreastsegError | None) -> Callable[[Bundle], Backend]:
    def load(_: Bundle) -> Backend:
        if outcome is not None:
            raise outcome
        return Serving()

    return load


def with_engines(bundle: Bundle) -> Bundle:
    entry = EngineEntry(
        file="engines/a.plan", flavour="tensorrt", version="10.16.1.11", compute_capability="8.6", precision="fp16",
        min_batch=1, opt_batch=1, max_batch=8, network_sha256="0" * 64, layer_types={}, build_seconds=1,
        verified=False, verification="not here",
    )  # fmt: skip
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"engines": (entry,)}))


def without_float16(bundle: Bundle) -> Bundle:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != NETWORK_FP16}
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files, "precision": "fp32"}))


def test_preference_is_tensorrt_then_rtx_then_onnxruntime_on_cuda_then_cpu() -> None:
    by_itself = {name: loader for name, loader in LOADERS.items() if name not in BY_NAME_ONLY}
    assert list(by_itself) == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime"]
    assert [loader.on_gpu for loader in by_itself.values()] == [True, True, True, False, False]
    assert [loader.artefact for loader in by_itself.values()] == [NETWORK_FP16] * 3 + [MODEL] * 2
    assert LOADERS.keys() - by_itself.keys() == {"openvino-int8"}


def test_auto_takes_the_first_and_says_that_it_is_preferred(machine: Machine, bundle: Bundle) -> None:
    machine(GPU)
    found = choose(bundle)
    assert (found.name, found.reason) == ("tensorrt", "tensorrt: preferred, and works here")
    assert (found.artefact, found.fell_back) == (NETWORK_FP16, False)


def test_auto_says_why_each_preferred_one_was_passed_over(machine: Machine, bundle: Bundle) -> None:
    machine(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=BackendError("the engine cannot be built"))
    found = choose(bundle)
    assert found.name == "onnxruntime-cuda"
    assert found.reason == (
        "onnxruntime-cuda: the first that works here; passed over: tensorrt (tensorrt is needed here and not "
        "installed: pip install it); tensorrt-rtx (failed: the engine cannot be built)"
    )
    assert found.fell_back


def test_backends_with_the_same_reason_are_named_together(machine: Machine, bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    machine(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    found = choose(bundle)
    assert found.reason == (
        "onnxruntime: the first that works here; passed over: "
        "tensorrt, tensorrt-rtx, onnxruntime-cuda (no NVIDIA driver on this machine); "
        "openvino (openvino is needed here and not installed: pip install it)"
    )
    assert (found.artefact, found.fell_back) == (MODEL, False)


def test_a_machine_without_gpu_is_served_by_the_cpu_also_with_strict(machine: Machine, bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    machine(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    assert choose(bundle, strict=True).name == "onnxruntime"


def test_a_gpu_backend_that_misses_its_goldens_is_passed_over_with_the_figures(
    machine: Machine, bundle: Bundle
) -> None:
    machine(GPU, tensorrt=ParityError("golden 1 came out with Dice 0.5"), tensorrt_rtx=NOT_INSTALLED)
    found = choose(bundle)
    assert found.name == "onnxruntime-cuda"
    assert "tensorrt (failed: golden 1 came out with Dice 0.5)" in found.reason
    assert found.fell_back


@pytest.mark.parametrize("error", [BackendError("no memory"), ParityError("Dice 0.5")])
def test_strict_refuses_to_pass_over_a_backend_that_fails(
    machine: Machine, bundle: Bundle, error: BreastsegError
) -> None:
    machine(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=error)
    with pytest.raises(
        type(error), match=r"tensorrt-rtx failed, and with strict=True no other backend may serve"
    ) as failure:
        choose(bundle, strict=True)
    assert str(error) in str(failure.value)


def test_strict_passes_over_a_backend_that_is_not_installed(machine: Machine, bundle: Bundle) -> None:
    machine(GPU, tensorrt=NOT_INSTALLED)
    assert choose(bundle, strict=True).name == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("gpu", "words"), [(GPU, r"this machine has a GPU \(NVIDIA Test"), (BROKEN_DRIVER, "this machine has an NVIDIA dr")]
)
def test_strict_refuses_the_cpu_where_a_gpu_ought_to_serve(
    machine: Machine, bundle: Bundle, gpu: Gpu | NoGpu, words: str
) -> None:
    machine(gpu, tensorrt=NOT_INSTALLED, tensorrt_rtx=NOT_INSTALLED, onnxruntime_cuda=NOT_INSTALLED)
    with pytest.raises(BackendError, match=f"{words}.*so with strict=True the CPU may not serve") as failure:
        choose(bundle, strict=True)
    assert "tensorrt, tensorrt-rtx, onnxruntime-cuda (tensorrt is needed here and not installed" in str(failure.value)


def test_strict_refuses_the_cpu_for_a_bundle_that_holds_engines(machine: Machine, bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    machine(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    with pytest.raises(BackendError, match="the bundle holds engines for GPUs, so with strict=True"):
        choose(with_engines(bundle), strict=True)
    assert choose(with_engines(bundle)).name == "onnxruntime"


def test_a_gpu_that_stays_unused_is_a_fall_back(machine: Machine, bundle: Bundle) -> None:
    machine(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=NOT_INSTALLED, onnxruntime_cuda=NOT_INSTALLED)
    assert choose(bundle).fell_back


def test_a_bundle_without_float16_network_is_served_by_the_cpu(machine: Machine, bundle: Bundle) -> None:
    machine(GPU)
    found = choose(without_float16(bundle))
    assert found.name == "onnxruntime"
    assert "(the bundle holds no network.fp16.onnx (it was exported with --precision fp32))" in found.reason
    with pytest.raises(BackendError, match="the CPU may not serve"):
        choose(without_float16(bundle), strict=True)


def test_a_damaged_bundle_is_never_passed_over(machine: Machine, bundle: Bundle) -> None:
    machine(GPU, tensorrt=BundleError("network.fp16.onnx was altered"))
    with pytest.raises(BundleError, match="was altered"):
        choose(bundle)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NOT_INSTALLED, MachineError), (BackendError("no memory"), BackendError)],
    ids=["lacks", "fails"],
)
def test_nothing_left_is_an_error_with_every_reason(
    machine: Machine, bundle: Bundle, error: BreastsegError, kind: type[BreastsegError]
) -> None:
    machine(
        NO_DRIVER, **dict.fromkeys(["tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime"], error)
    )
    with pytest.raises(kind, match=r"no backend can serve here: tensorrt, tensorrt-rtx, .*, onnxruntime \(") as failure:
        choose(bundle)
    assert str(error) in str(failure.value)


@pytest.mark.parametrize("error", [NOT_INSTALLED, BackendError("no memory"), ParityError("Dice 0.5")])
@pytest.mark.parametrize("strict", [False, True])
def test_a_backend_asked_for_by_name_never_falls_back(
    machine: Machine, bundle: Bundle, error: BreastsegError, strict: bool
) -> None:
    machine(GPU, tensorrt=error)
    with pytest.raises(type(error), match=f"^{error}$"):
        choose(bundle, "tensorrt", strict=strict)


def test_a_backend_asked_for_by_name_serves_whatever_is_preferred(machine: Machine, bundle: Bundle) -> None:
    machine(GPU)
    found = choose(bundle, "onnxruntime", strict=True)
    assert (found.name, found.reason) == ("onnxruntime", "onnxruntime: asked for by name")
    assert (found.artefact, found.fell_back) == (MODEL, False)


def test_unknown_backend_is_refused_with_those_that_exist(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no backend 'tensorflow'; choose one of auto, tensorrt, tensorrt-rtx, "):
        choose(bundle, "tensorflow")


def test_a_new_backend_is_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    other = Loader(check=lambda: "here", open=lambda _: Serving(), on_gpu=True, artefact=MODEL, extras="gpu")
    monkeypatch.setattr(choice, "LOADERS", {"other": other, **LOADERS})
    assert choose(bundle, AUTO).name == "other"


@pytest.mark.parametrize(("outcome", "level"), [(NOT_INSTALLED, logging.INFO), (BackendError("x"), logging.WARNING)])
def test_the_segmenter_warns_where_a_better_backend_ought_to_have_worked(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture, outcome: BreastsegError, level: int
) -> None:
    machine(GPU, tensorrt=outcome)
    with caplog.at_level(logging.INFO, "breastseg_deploy"), Segmenter.open(bundle.path) as segment:
        assert segment.backend == "tensorrt-rtx"
    (record,) = [record for record in caplog.records if segment.backend_reason in record.message]
    assert record.levelno == level


def test_the_segmenter_hands_strict_on(machine: Machine, bundle: Bundle) -> None:
    machine(GPU, tensorrt=BackendError("no memory"))
    with pytest.raises(BackendError, match="strict=True"):
        Segmenter.open(bundle.path, strict=True)
