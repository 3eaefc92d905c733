"""The steps of the check of a machine with a GPU, over the stand-in for a device."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda_cpu import fake_cupy
from host_network import SIDE, Float16Network, HostNetwork, all_passed, segmenter

from breastseg_benchmark.gpu_check import kernel, network, serving
from breastseg_benchmark.gpu_check.machine import versions
from breastseg_benchmark.gpu_check.step import STEPS, Finding, Settings, Skip, run_here
from breastseg_deploy import Segmenter
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError, MachineError
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu
from breastseg_train.network.architecture import Architecture

NOWHERE = Settings("bundle", "output")
SMALL_PX = (64, 64)
needs_no_gpu = pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="there is a GPU")

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")


def test_versions_name_the_gpu_and_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = GPU
    monkeypatch.setitem(sys.modules, "cupy", None)
    without = versions(NOWHERE, Machine(gpu=gpu), ("numpy", "cupy"))
    assert without.verdict == "failed"
    assert "CuPy is not installed: pip install 'breastseg-deploy[gpu]'" in without.words
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    found = versions(NOWHERE, Machine(gpu=gpu), ("numpy", "cupy", "onnxruntime"))
    assert found.verdict == "passed"
    assert "CPUExecutionProvider" in found.figures["onnxruntime has"]  # which of its two builds this is
    assert found.words == "NVIDIA Test, compute capability 8.6, driver 580.82, 24.0 GiB, CUDA up to 13.0"
    assert found.figures["numpy"] == np.__version__
    assert versions(NOWHERE, Machine(gpu=NoGpu("no driver", expected=False)), ()).verdict == "failed"


def test_the_kernels_are_held_to_the_reference(cupy_on_cpu: ModuleType) -> None:
    found = kernel.kernel(NOWHERE, size_px=(32, 32), rounds=1)
    assert found.verdict == "passed", found.words
    assert found.figures["largest error"] <= 1e-5


def test_steps_are_skipped_where_there_is_no_gpu(tmp_path: Path) -> None:
    if isinstance(look_for_gpu(), Gpu):
        pytest.skip("there is a GPU")
    settings = Settings("bundle", str(tmp_path))
    for step in STEPS:
        if step.name not in ("versions", "b7-network"):
            assert run_here(step, settings).verdict == "skipped", step.name


@pytest.mark.parametrize("place", [0, 3], ids=["the first", "the last"])
def test_a_kernel_that_writes_no_number_fails_whichever_frames_it_is_for(
    cupy_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    launched = cupy_on_cpu.Kernel.__call__
    left = [place]

    def spoiled(self: Any, grid: Any, block: Any, args: Any) -> None:
        launched(self, grid, block, args)
        if left[0] == 0:
            args[2].host.fill(np.nan)
        left[0] -= 1

    monkeypatch.setattr(cupy_on_cpu.Kernel, "__call__", spoiled)
    with np.errstate(invalid="ignore"):
        assert not kernel.small() <= 1e-5


SANITIZER = """
import subprocess, sys
check = sys.argv[sys.argv.index("--tool") + 1]
says = {"memcheck": "==== ERROR SUMMARY: 0 errors", "racecheck": "==== RACECHECK SUMMARY: 0 hazards displayed"}
says.update(%r)
print("========= COMPUTE-SANITIZER")
print(says[check])
sys.exit(subprocess.run(sys.argv[sys.argv.index("--error-exitcode") + 2 :]).returncode)
"""
"""Says what compute-sanitizer does, and runs the program."""


@pytest.mark.parametrize(
    ("says", "program", "verdict", "words"),
    [
        ({}, "", "passed", "memcheck: ERROR SUMMARY: 0 errors; racecheck: RACECHECK SUMMARY: 0 hazards displayed"),
        ({"memcheck": "==== ERROR SUMMARY: 2 errors"}, "", "failed", "memcheck: ERROR SUMMARY: 2 errors"),
        ({"racecheck": "==== RACECHECK SUMMARY: 1 hazard displayed"}, "", "failed", "racecheck: RACECHECK SUM"),
        ({"memcheck": ""}, "", "failed", "memcheck: no summary; exit code 0"),
        ({}, "raise SystemExit(3)", "failed", "memcheck: ERROR SUMMARY: 0 errors"),
    ],
    ids=["clean", "errors", "hazards", "no summary", "the program fails"],
)
def test_compute_sanitizer_passes_where_it_finds_nothing(
    says: Mapping[str, str], program: str, verdict: str, words: str
) -> None:
    found = kernel.sanitized([sys.executable, "-c", SANITIZER % says], [sys.executable, "-c", program])
    assert found.verdict == verdict
    assert found.words.startswith(words)


def test_under_the_sanitizer_every_array_is_an_allocation_of_its_own(
    cupy_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """memcheck sees no bounds inside a block of CuPy's pool."""
    pools: list[Any] = []
    monkeypatch.setattr(cupy_on_cpu.cuda, "set_allocator", pools.append, raising=False)
    exec(kernel.UNDER_SANITIZER, {})
    assert pools == [None]


def test_compute_sanitizer_is_found_in_the_folder_of_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert kernel.found_sanitizer() == str(tool)


@pytest.fixture
def segment(bundle: Bundle, network: HostNetwork, cupy_on_cpu: ModuleType) -> Segmenter:
    return segmenter(bundle, GpuPipeline(bundle, lambda stream: network, all_passed))


BUSY = (64, 2)


def test_frames_that_are_waited_for_pass_the_race(cupy_on_cpu: ModuleType, segment: Segmenter) -> None:
    segment(np.zeros(segment.manifest.frame.size_px, np.uint8))
    cupy_on_cpu.streams.late = True
    assert serving.raced(segment, cupy_on_cpu, 4, BUSY) == Finding(
        "passed", "0 of 4 frames read before they were written, by tested; 4 were not yet written when they were passed"
    )


def test_a_race_that_was_over_before_it_began_proves_nothing(cupy_on_cpu: ModuleType, segment: Segmenter) -> None:
    found = serving.raced(segment, cupy_on_cpu, 4, BUSY)
    assert found.verdict == "failed"
    assert found.words.endswith("; 0 were not yet written when they were passed")


class Hasty:
    """A segmenter that reads frames on the device at once."""

    backend = "one that waits for nobody"

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest

    def __call__(self, frame: Any) -> Any:
        return SimpleNamespace(mask=getattr(frame, "host", frame) > 99)


def test_frames_that_are_not_waited_for_fail_the_race(cupy_on_cpu: ModuleType, bundle: Bundle) -> None:
    segment: Any = Hasty(bundle)
    cupy_on_cpu.streams.late = True
    found = serving.raced(segment, cupy_on_cpu, 4, BUSY)
    assert found.verdict == "failed"
    assert "of 4 frames read before they were written, by one that waits for nobody; 4 were not yet" in found.words


def test_a_gpu_that_fails_for_good_must_be_named_by_every_later_call(
    cupy_on_cpu: ModuleType, segment: Segmenter, network: HostNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def destroyed(*_: Any) -> None:
        raise cupy_on_cpu.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")

    def destroy() -> None:
        network.spoil = destroyed
        monkeypatch.setattr(cupy_on_cpu.cuda.Stream, "synchronize", destroyed)

    found = serving.broken(segment, destroy)
    assert found.verdict == "passed"
    assert "the GPU failed for good while" in found.words


def test_a_segmenter_that_goes_on_after_an_illegal_address_has_failed(segment: Segmenter) -> None:
    assert serving.broken(segment, lambda: None) == Finding("failed", "the segmenter went on serving")


def test_an_engine_is_timed_in_both_batch_sizes(cupy_on_cpu: ModuleType) -> None:
    inner, stream = HostNetwork(), cupy_on_cpu.cuda.Stream(non_blocking=True)
    figures = network.timed(cupy_on_cpu, stream, inner.bind, capture=False, size_px=(128, 128))
    in_use = {f"GB of the GPU in use after {batch}" for batch in (1, 8)}
    assert set(figures) == {"1 frames, ms", "8 frames, ms", *in_use}
    assert set(inner.runs) == {1, 8}


def test_a_backend_is_served_with_its_memory_and_stages(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    segment = segmenter(bundle, GpuPipeline(bundle, lambda stream: float16, all_passed))
    found = serving.served(segment, cupy_on_cpu, 1.5, calls=1)
    assert found.verdict == "passed"
    assert "goldens pass, worst Dice" in found.words
    assert list(found.figures["GPU memory in use, bytes"]) == ["opened", "one frame", "eight frames"]
    exported = [engine for engine, *_ in found.figures["at the export: engine, mean and worst Dice"]]
    assert exported == ["ONNX Runtime", "PyTorch with float16 sums"]
    assert "network" in found.figures["stages of eight frames, ms"]


@pytest.fixture
def small_b7(tmp_path: Path) -> Settings:
    """Settings with the network that the export code writes, of a smaller encoder for smaller frames."""
    settings = Settings("bundle", str(tmp_path))
    found = network.write_b7(settings, Architecture("resnet18", (16,) * 5), SMALL_PX)
    assert found.verdict == "passed"
    return settings


@needs_no_gpu
def test_the_export_code_writes_a_network_that_every_engine_takes_and_none_runs_without_a_gpu(
    small_b7: Settings, cupy_on_cpu: ModuleType
) -> None:
    """In that order: what the export code imports must not meet the stand-in for CuPy."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    found = network.b7_tensorrt(small_b7, Machine(gpu=GPU), SMALL_PX)
    assert found.verdict == "failed"  # built from that network, and then:
    assert "tensorrt-rtx: PlanError: TensorRT-RTX" in found.words
    assert "cannot load this engine on this GPU" in found.words
    assert "tensorrt is needed here and not installed" in found.figures["tensorrt"]
    onnxruntime.InferenceSession(str(small_b7.b7_network), providers=["CPUExecutionProvider"], enable_fallback=0)


def lacking() -> Any:
    raise MachineError("not installed")


def failing() -> Any:
    raise BackendError("refused")


def test_where_every_way_lacks_something_the_step_is_skipped() -> None:
    with pytest.raises(Skip, match="tensorrt: not installed"):
        network.tried({"tensorrt": lacking})


def test_a_way_that_fails_is_a_failure_and_costs_the_others_nothing() -> None:
    found = network.tried({"graph": failing, "plain": lambda: {"1 frames, ms": 12.345}, "tensorrt": lacking})
    assert (found.verdict, found.words) == ("failed", "one frame: plain 12.35 ms; failed: graph: BackendError: refused")
    assert found.figures == {
        "plain": {"1 frames, ms": 12.345}, "graph": "BackendError: refused", "tensorrt": "not installed",
    }  # fmt: skip
    assert network.tried({"graph": failing}).verdict == "failed"


def test_each_variant_of_onnxruntimes_options_is_opened_and_timed(cupy_on_cpu: ModuleType) -> None:
    asked: list[Mapping[str, str]] = []

    def opened(stream: Any, changes: Mapping[str, str]) -> HostNetwork:
        asked.append(changes)
        return HostNetwork()

    found = network.variants(cupy_on_cpu, opened, (SIDE, SIDE))
    assert found.verdict == "passed"
    assert list(found.figures) == ["plain", "channels last", "graph", "channels last, graph"]
    assert [changes["enable_cuda_graph"] for changes in asked] == ["0", "0", "1", "1"]


ROW = {"name": "tensorrt", "not_run": None, "latency": {"p50_s": 0.004, "p99_s": 0.005},
       "memory": {"gpu_process_bytes": 2_000_000_000}}  # fmt: skip
LACKING = {"name": "tensorrt-rtx", "not_run": "not installed", "latency": None, "memory": None}


def benchmarked(place: Path, result: Any, code: int) -> Finding:
    words = f"import sys; print({json.dumps(result)!r}); sys.exit({code})"
    return serving.benchmarked([sys.executable, "-c", words], place)


def test_the_benchmarks_rows_are_told_and_kept(tmp_path: Path) -> None:
    found = benchmarked(tmp_path / "benchmark.json", {"rows": [ROW, LACKING]}, 0)
    assert (found.verdict, found.words) == ("passed", "tensorrt 4.00 ms a frame; all of it in benchmark.json")
    assert found.figures["tensorrt"] == {"median, ms": 4.0, "99th percentile, ms": 5.0, "GB of the GPU": 2.0}
    assert found.figures["tensorrt-rtx"] == "not installed"
    assert json.loads((tmp_path / "benchmark.json").read_text())["rows"] == [ROW, LACKING]


def test_a_benchmark_that_ends_with_an_error_has_failed(tmp_path: Path) -> None:
    found = benchmarked(tmp_path / "benchmark.json", {"error": "the bundle was altered", "kind": "BundleError"}, 1)
    assert (found.verdict, found.words) == ("failed", "the bundle was altered")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"error": "psutil is needed here and not installed", "kind": "MachineError"}, "psutil is needed"),
        ({"rows": [LACKING]}, "tensorrt-rtx: not installed"),
    ],
)
def test_a_benchmark_that_lacks_something_is_skipped(tmp_path: Path, result: Any, words: str) -> None:
    with pytest.raises(Skip, match=words):
        benchmarked(tmp_path / "benchmark.json", result, 4)
