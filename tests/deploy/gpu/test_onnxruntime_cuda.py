"""ONNX Runtime must compute on the GPU or say that it cannot: it would rather serve from the CPU without a word."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from breastseg_deploy import BackendError, MachineError
from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.gpu import onnxruntime_cuda
from breastseg_deploy.gpu.onnxruntime_cuda import PROVIDER, load_onnxruntime_gpu, open_network, provider_options

STREAM = SimpleNamespace(ptr=4096)

needs_cpu_build = pytest.mark.skipif(
    PROVIDER in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed here"
)


@needs_cpu_build
def test_the_build_for_cpus_is_refused_with_the_way_to_the_other() -> None:
    with pytest.raises(
        MachineError, match=r"is the build for CPUs: pip uninstall onnxruntime, then pip install"
    ) as failure:
        load_onnxruntime_gpu()
    assert "breastseg-deploy[gpu]" in str(failure.value)


def pretend_gpu_build(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, Any]]:
    """ONNX Runtime as it is, except that it claims to have the CUDA provider; returns what sessions were asked for."""
    asked: list[dict[str, Any]] = []

    def session(content: bytes, settings: Any, **options: Any) -> Any:
        asked.append({"fallback": settings.get_session_config_entry("session.disable_cpu_ep_fallback"), **options})
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def preload_dlls() -> None:
        print("Failed to load libcudnn.so.9")

    build = ModuleType("onnxruntime")
    build.__dict__.update(
        {
            **vars(onnxruntime),
            "get_available_providers": lambda: [PROVIDER, "CPUExecutionProvider"],
            "preload_dlls": preload_dlls,
            "InferenceSession": session,
            **changes,
        }
    )
    monkeypatch.setattr(onnxruntime_cuda, "require", lambda module, extra: build)
    return asked


def test_a_session_that_silently_runs_on_the_cpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = pretend_gpu_build(monkeypatch)
    with pytest.raises(BackendError) as failure:
        open_network(bundle, STREAM, 0)
    assert "runs on CPUExecutionProvider in place of CUDAExecutionProvider" in str(failure.value)
    assert asked == [{"fallback": "1", "providers": [(PROVIDER, provider_options(4096, 0))], "enable_fallback": 0}]
    assert capsys.readouterr().out == ""


def test_a_session_that_cannot_be_made_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("libcublasLt.so.13:\n cannot open shared object file")

    pretend_gpu_build(monkeypatch, InferenceSession=refuse)
    with pytest.raises(
        BackendError, match=r"on the GPU: libcublasLt.so.13: cannot open shared object file; run `breast"
    ):
        open_network(bundle, STREAM, 0)


@needs_cpu_build
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_build_for_cpus_is_refused_a_session_too(bundle: Bundle) -> None:
    """Its own check of `disable_cpu_ep_fallback`, without a stand-in."""
    with pytest.raises(BackendError, match=f"cannot load .*{NETWORK_FP16} on the GPU"):
        onnxruntime_cuda._open_session(onnxruntime, bundle, provider_options(4096, 0))


def test_precision_and_choice_of_kernels_are_fixed() -> None:
    options = provider_options(stream_address=4096, device=2)
    assert options["user_compute_stream"] == "4096"
    assert options["device_id"] == "2"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_a_failing_run_is_a_backend_error(bundle: Bundle, float16_session: Any) -> None:
    network = onnxruntime_cuda.OnnxRuntimeNetwork(onnxruntime, float16_session, (64, 64), ("cpu", 0))
    tensor, logits = np.zeros((1, 4, 64, 64), np.float32), np.zeros((1, 1, 64, 64), np.float32)
    bound = network.bind(tensor.ctypes.data, logits.ctypes.data, 1)
    with pytest.raises(BackendError, match=r"failed: .*; no mask is returned") as failure:
        bound.enqueue()
    assert "\n" not in str(failure.value)
