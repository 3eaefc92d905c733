"""Which backend serves, and what is said about those that do not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy import BackendError, BreastsegError, BundleError, Machine, MachineError, ParityError, Segmenter
from breastseg_deploy.artefacts import EngineEntry
from breastseg_deploy.backends.registry import BACKENDS, BackendRecord
from breastseg_deploy.backends.select import AUTO, Choice, choose
from breastseg_deploy.bundle import ENGINE, FP16, PORTABLE, Bundle
from breastseg_deploy.inference import Backend, Inference
from breastseg_deploy.manifest import Artefact
from breastseg_deploy.nvidia import Gpu, NoGpu

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")
NO_DRIVER = NoGpu("no NVIDIA driver on this machine", expected=False)
BROKEN_DRIVER = NoGpu("the NVIDIA driver shows no usable GPU", expected=True)
NOT_INSTALLED = MachineError("tensorrt is needed here and not installed: pip install it")
NO_OPENVINO = MachineError("openvino is needed here and not installed: pip install it")


class Serving:
    """An engine that answers nothing in particular."""

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        return Inference(np.full(rgb.shape[:3], 0.25, np.float32), {})

    def close(self) -> None: ...


Choose = Callable[..., Choice]


def on(gpu: Gpu | NoGpu, **outcomes: BreastsegError | None) -> Choose:
    """`choose` on a machine where each backend serves, lacks something (MachineError) or fails (any other error).

    OpenVINO is not installed unless the test says otherwise, so that there is one backend for the CPU.
    """
    outcomes = {"openvino": NO_OPENVINO, **outcomes}
    backends = {}
    for name, record in BACKENDS.items():
        outcome = outcomes.get(name.replace("-", "_"))
        backends[name] = replace(record, check=_check(outcome), open=_open(outcome))
    return partial(choose, machine=Machine(gpu=gpu), backends=backends)


def _check(outcome: BreastsegError | None) -> Callable[[Machine], str]:
    def check(_: Machine) -> str:
        if isinstance(outcome, MachineError):
            raise outcome
        return "here"

    return check


def _open(outcome: BreastsegError | None) -> Callable[[Bundle, Machine], Backend]:
    def load(_: Bundle, __: Machine) -> Backend:
        if outcome is not None:
            raise outcome
        return Serving()

    return load


def with_engines(bundle: Bundle) -> Bundle:
    entry = EngineEntry(
        file="engines/a.plan", flavour="tensorrt", version="10.16.1.11", compute_capability="8.6", precision="fp16",
        min_batch=1, max_batch=8, workspace_bytes=1 << 30, gpu="", network_sha256="0" * 64, layer_types={},
        build_seconds=1, verified=False, verification="not here",
    )  # fmt: skip
    engine = Artefact(
        role=ENGINE,
        files=(entry.file,),
        inputs=(),
        outputs=(),
        limits=None,
        parity=(),
        details=entry.model_dump(mode="json"),
    )
    artefacts = (*bundle.manifest.artefacts, engine)
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"artefacts": artefacts}))


def without_float16(bundle: Bundle) -> Bundle:
    artefacts = tuple(artefact for artefact in bundle.manifest.artefacts if artefact.role != FP16)
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"artefacts": artefacts, "precision": "fp32"}))


def test_preference_is_tensorrt_then_rtx_then_onnxruntime_on_cuda_then_cpu() -> None:
    by_itself = {name: record for name, record in BACKENDS.items() if not record.by_name_only}
    assert list(by_itself) == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime"]
    assert [record.on_gpu for record in by_itself.values()] == [True, True, True, False, False]
    assert [record.artefact for record in by_itself.values()] == [FP16] * 3 + [PORTABLE] * 2
    assert BACKENDS["openvino-int8"].by_name_only


def test_auto_takes_the_first_and_says_that_it_is_preferred(bundle: Bundle) -> None:
    select = on(GPU)
    found = select(bundle)
    assert (found.name, found.reason) == ("tensorrt", "tensorrt: preferred, and works here")
    assert (found.artefact, found.fell_back) == (FP16, False)


def test_auto_says_why_each_preferred_one_was_passed_over(bundle: Bundle) -> None:
    select = on(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=BackendError("the engine cannot be built"))
    found = select(bundle)
    assert found.name == "onnxruntime-cuda"
    assert found.reason == (
        "onnxruntime-cuda: the first that works here; passed over: tensorrt (tensorrt is needed here and not "
        "installed: pip install it); tensorrt-rtx (failed: the engine cannot be built)"
    )
    assert found.fell_back


def test_backends_with_the_same_reason_are_named_together(bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    select = on(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    found = select(bundle)
    assert found.reason == (
        "onnxruntime: the first that works here; passed over: "
        "tensorrt, tensorrt-rtx, onnxruntime-cuda (no NVIDIA driver on this machine); "
        "openvino (openvino is needed here and not installed: pip install it)"
    )
    assert (found.artefact, found.fell_back) == (PORTABLE, False)


def test_a_machine_without_gpu_is_served_by_the_cpu_also_with_strict(bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    select = on(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    assert select(bundle, strict=True).name == "onnxruntime"


def test_a_gpu_backend_that_misses_its_goldens_is_passed_over_with_the_figures(bundle: Bundle) -> None:
    select = on(GPU, tensorrt=ParityError("golden 1 came out with Dice 0.5"), tensorrt_rtx=NOT_INSTALLED)
    found = select(bundle)
    assert found.name == "onnxruntime-cuda"
    assert "tensorrt (failed: golden 1 came out with Dice 0.5)" in found.reason
    assert found.fell_back


@pytest.mark.parametrize("error", [BackendError("no memory"), ParityError("Dice 0.5")])
def test_strict_refuses_to_pass_over_a_backend_that_fails(bundle: Bundle, error: BreastsegError) -> None:
    select = on(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=error)
    with pytest.raises(
        type(error), match=r"tensorrt-rtx failed, and with strict=True no other backend may serve"
    ) as failure:
        select(bundle, strict=True)
    assert str(error) in str(failure.value)


def test_strict_passes_over_a_backend_that_is_not_installed(bundle: Bundle) -> None:
    select = on(GPU, tensorrt=NOT_INSTALLED)
    assert select(bundle, strict=True).name == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("gpu", "words"), [(GPU, r"this machine has a GPU \(NVIDIA Test"), (BROKEN_DRIVER, "this machine has an NVIDIA dr")]
)
def test_strict_refuses_the_cpu_where_a_gpu_ought_to_serve(bundle: Bundle, gpu: Gpu | NoGpu, words: str) -> None:
    select = on(gpu, tensorrt=NOT_INSTALLED, tensorrt_rtx=NOT_INSTALLED, onnxruntime_cuda=NOT_INSTALLED)
    with pytest.raises(BackendError, match=f"{words}.*so with strict=True the CPU may not serve") as failure:
        select(bundle, strict=True)
    assert "tensorrt, tensorrt-rtx, onnxruntime-cuda (tensorrt is needed here and not installed" in str(failure.value)


def test_strict_refuses_the_cpu_for_a_bundle_that_holds_engines(bundle: Bundle) -> None:
    lacks = MachineError(NO_DRIVER.reason)
    select = on(NO_DRIVER, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    with pytest.raises(BackendError, match="the bundle holds engines for GPUs, so with strict=True"):
        select(with_engines(bundle), strict=True)
    assert select(with_engines(bundle)).name == "onnxruntime"


def test_a_gpu_that_stays_unused_is_a_fall_back(bundle: Bundle) -> None:
    select = on(GPU, tensorrt=NOT_INSTALLED, tensorrt_rtx=NOT_INSTALLED, onnxruntime_cuda=NOT_INSTALLED)
    assert select(bundle).fell_back


def test_a_bundle_without_float16_network_is_served_by_the_cpu(bundle: Bundle) -> None:
    select = on(GPU)
    found = select(without_float16(bundle))
    assert found.name == "onnxruntime"
    assert "(the bundle holds no fp16 artefact (it was exported with --precision fp32))" in found.reason
    with pytest.raises(BackendError, match="the CPU may not serve"):
        select(without_float16(bundle), strict=True)


def test_a_damaged_bundle_is_never_passed_over(bundle: Bundle) -> None:
    select = on(GPU, tensorrt=BundleError("network.fp16.onnx was altered"))
    with pytest.raises(BundleError, match="was altered"):
        select(bundle)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NOT_INSTALLED, MachineError), (BackendError("no memory"), BackendError)],
    ids=["lacks", "fails"],
)
def test_nothing_left_is_an_error_with_every_reason(
    bundle: Bundle, error: BreastsegError, kind: type[BreastsegError]
) -> None:
    select = on(
        NO_DRIVER, **dict.fromkeys(["tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime"], error)
    )
    with pytest.raises(kind, match=r"no backend can serve here: tensorrt, tensorrt-rtx, .*, onnxruntime \(") as failure:
        select(bundle)
    assert str(error) in str(failure.value)


@pytest.mark.parametrize("error", [NOT_INSTALLED, BackendError("no memory"), ParityError("Dice 0.5")])
@pytest.mark.parametrize("strict", [False, True])
def test_a_backend_asked_for_by_name_never_falls_back(bundle: Bundle, error: BreastsegError, strict: bool) -> None:
    select = on(GPU, tensorrt=error)
    with pytest.raises(type(error), match=f"^{error}$"):
        select(bundle, "tensorrt", strict=strict)


def test_a_backend_asked_for_by_name_serves_whatever_is_preferred(bundle: Bundle) -> None:
    select = on(GPU)
    found = select(bundle, "onnxruntime", strict=True)
    assert (found.name, found.reason) == ("onnxruntime", "onnxruntime: asked for by name")
    assert (found.artefact, found.fell_back) == (PORTABLE, False)


def test_unknown_backend_is_refused_with_those_that_exist(bundle: Bundle) -> None:
    with pytest.raises(
        BackendError, match="no backend 'tensorflow'; choose one of auto, fastest, tensorrt, tensorrt-rtx, "
    ):
        choose(bundle, "tensorflow")


def test_a_new_backend_is_one_line_of_the_table(bundle: Bundle) -> None:
    other = BackendRecord(lambda _: "here", lambda *_: Serving(), artefact=PORTABLE, extras="gpu", on_gpu=True)
    assert choose(bundle, AUTO, backends={"other": other, **BACKENDS}).name == "other"


@pytest.mark.parametrize(("gpu", "level"), [(NO_DRIVER, logging.INFO), (GPU, logging.WARNING)])
def test_the_segmenter_warns_where_a_gpu_stays_unused(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, gpu: Gpu | NoGpu, level: int
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # not installed
    with caplog.at_level(logging.INFO, "breastseg_deploy"), Segmenter.open(bundle.path, machine=Machine(gpu=gpu)) as s:
        assert s.backend in ("openvino", "onnxruntime")
    (record,) = [record for record in caplog.records if s.backend_reason in record.message]
    assert record.levelno == level


def test_the_segmenter_hands_strict_on(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="strict=True"):
        Segmenter.open(bundle.path, strict=True, machine=Machine(gpu=BROKEN_DRIVER))
