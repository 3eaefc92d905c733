"""ONNX Runtime must compute on the GPU or say that it cannot: it would rather serve from the CPU silently."""

from __future__ import annotations

import re
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from host_network import SIDE

from breastseg_deploy import BackendError, MachineError
from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.gpu import onnxruntime_cuda
from breastseg_deploy.gpu.onnxruntime_cuda import (
    PROVIDER,
    load_onnxruntime_gpu,
    open_network,
    open_session,
    provider_options,
)

STREAM = SimpleNamespace(ptr=4096)

needs_cpu_build = pytest.mark.skipif(
    PROVIDER in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed here"
)


@needs_cpu_build
def test_the_build_for_cpus_is_refused_with_the_way_to_the_other() -> None:
    with pytest.raises(
        MachineError, match=r"is the build for CPUs: pip uninstall onnxruntime onnxruntime-gpu, then pip install"
    ) as failure:
        load_onnxruntime_gpu()
    assert "breastseg-deploy[gpu]" in str(failure.value)


def pretend_gpu_build(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, Any]]:
    """ONNX Runtime as it is, except that it claims to have the CUDA provider; returns what sessions were asked for."""
    asked: list[dict[str, Any]] = []

    def session(content: bytes, settings: Any, **options: Any) -> Any:
        asked.append({"fallback": settings.get_session_config_entry("session.disable_cpu_ep_fallback"), **options})
        on_cpu = onnxruntime.SessionOptions()
        recorded = "session.record_ep_graph_assignment_info"
        on_cpu.add_session_config_entry(recorded, settings.get_session_config_entry(recorded))
        return onnxruntime.InferenceSession(content, on_cpu, providers=["CPUExecutionProvider"])

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
    monkeypatch.setitem(sys.modules, "onnxruntime", build)
    return asked


def test_a_session_that_silently_runs_on_the_cpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = pretend_gpu_build(monkeypatch)
    with pytest.raises(BackendError) as failure:
        open_network(bundle, STREAM, 0)
    assert re.search(
        r"with \d+ nodes on CPUExecutionProvider, where all belong on CUDAExecutionProvider", str(failure.value)
    )
    assert asked == [{"fallback": "1", "providers": [(PROVIDER, provider_options(4096, 0))], "enable_fallback": 0}]
    assert capsys.readouterr().out == ""


class Placed:
    """A session that names the GPU first and tells where its nodes are."""

    def __init__(self, **nodes: int) -> None:
        self._nodes = nodes

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        def part(name: str, number: int) -> Any:
            return SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * number)

        return [part(name, number) for name, number in self._nodes.items()]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({PROVIDER: 491, "CPUExecutionProvider": 1}, "491 nodes on CUDAExecutionProvider, 1 nodes on CPUExecutionPro"),
        ({}, "with no node that it tells of"),
    ],
)
def test_a_session_with_a_node_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, nodes: dict[str, int], words: str
) -> None:
    """That the GPU stands first among its providers says nothing about each node."""
    pretend_gpu_build(monkeypatch, InferenceSession=lambda *_, **__: Placed(**nodes))
    with pytest.raises(BackendError, match=words):
        open_network(bundle, STREAM, 0)


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
        open_session(onnxruntime, bundle.path / NETWORK_FP16, bundle.read(NETWORK_FP16), provider_options(4096, 0))


def test_precision_and_choice_of_kernels_are_fixed() -> None:
    options = provider_options(stream_address=4096, device=2)
    assert options["user_compute_stream"] == "4096"
    assert options["device_id"] == "2"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert (options["enable_cuda_graph"], options["prefer_nhwc"]) == ("1", "1")


class Session:
    """Keeps the run options and the thread of each run."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.graph_ids: list[str] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        self.threads.add(threading.get_ident())
        self._real.run_with_iobinding(binding, options)


def bound(session: Session, batches: tuple[int, ...]) -> list[Any]:
    network = onnxruntime_cuda.OnnxRuntimeNetwork(onnxruntime, session, (SIDE, SIDE), ("cpu", 0))
    made = []
    for batch in batches:
        tensor, logits = np.zeros((batch, 4, SIDE, SIDE), np.float32), np.zeros((batch, 1, SIDE, SIDE), np.float32)
        made.append(
            SimpleNamespace(run=network.bind(tensor.ctypes.data, logits.ctypes.data, batch), at=(tensor, logits))
        )
    return made


def test_each_batch_size_has_a_graph_of_its_own(float16_session: Any) -> None:
    session = Session(float16_session)
    for one in bound(session, (1, 2)):
        one.run.enqueue()
    assert session.graph_ids == ["1", "2"]


def test_all_runs_come_from_one_thread_whoever_calls(float16_session: Any) -> None:
    """ONNX Runtime captures a graph for each thread: with a pool of callers, each would capture anew."""
    session = Session(float16_session)
    (one,) = bound(session, (1,))
    callers = [threading.Thread(target=one.run.enqueue) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(session.graph_ids) == 3
    assert len(session.threads) == 1


def test_a_failing_run_is_a_backend_error(bundle: Bundle, float16_session: Any) -> None:
    network = onnxruntime_cuda.OnnxRuntimeNetwork(onnxruntime, float16_session, (64, 64), ("cpu", 0))
    tensor, logits = np.zeros((1, 4, 64, 64), np.float32), np.zeros((1, 1, 64, 64), np.float32)
    bound = network.bind(tensor.ctypes.data, logits.ctypes.data, 1)
    with pytest.raises(BackendError, match=r"failed: .*; no mask is returned") as failure:
        bound.enqueue()
    assert "\n" not in str(failure.value)
