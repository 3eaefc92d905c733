"""The check of a machine with a GPU: its runner, its page, and its steps over the stand-in for a device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda_cpu import fake_cupy
from host_network import Float16Network, HostNetwork, all_passed

from breastseg_benchmark.gpu_check import kernel, network, serving
from breastseg_benchmark.gpu_check.machine import versions
from breastseg_benchmark.gpu_check.page import page
from breastseg_benchmark.gpu_check.runner import run_steps
from breastseg_benchmark.gpu_check.step import STEPS, Finding, Settings, Skip, Step, run_here
from breastseg_deploy import Segmenter
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu
from breastseg_train.network.architecture import Architecture

NOWHERE = Settings("bundle", "output")
SMALL_PX = (64, 64)
STEP = Step("a step", "machine:versions", 5)
needs_no_gpu = pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="there is a GPU")


def printing(code: str) -> Callable[[Step, Settings], Sequence[str]]:
    """The command of a step that runs that code."""
    return lambda step, settings: [sys.executable, "-c", code]


def run(code: str, limit_s: float = 60) -> tuple[Finding, list[str]]:
    told: list[str] = []
    found = run_steps([Step("a step", "nowhere:nothing", limit_s)], NOWHERE, told.append, printing(code))
    return found["a step"], told


def test_a_steps_finding_is_the_last_line_that_it_prints() -> None:
    finding = json.dumps(Finding("passed", "all well", {"ms": 1.5}).as_json())
    found, told = run(f"print('a library says hello'); print({finding!r})")
    assert (found.verdict, found.words, found.figures) == ("passed", "all well", {"ms": 1.5})
    assert found.seconds > 0
    assert len(told) == 1
    assert told[0].startswith("passed  a step")


def test_a_step_that_hangs_is_ended_at_its_limit() -> None:
    found, _ = run("import time; time.sleep(60)", limit_s=0.5)
    assert (found.verdict, found.words) == ("failed", "took longer than its limit of 0.5 s and was ended")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by signal 11"),
        ("raise SystemExit('libcudnn.so.9: cannot open')", "ended with exit code 1: libcudnn.so.9: cannot open"),
        ("print('no finding')", "its process ended with exit code 0"),
    ],
)
def test_a_step_whose_process_dies_has_failed_and_the_next_runs(code: str, words: str) -> None:
    found, _ = run(code)
    assert found.verdict == "failed"
    assert words in found.words


def test_every_step_can_be_loaded_and_has_a_time_limit() -> None:
    for step in STEPS:
        assert callable(step.load())
        assert 0 < step.limit_s <= 1800


def test_what_a_step_raises_is_its_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: Exception) -> Any:
        def step(settings: Settings) -> Finding:
            raise error

        return step

    class Loaded(Step):
        error: Exception = Skip("no compute-sanitizer")

        def load(self) -> Any:
            return refuse(self.error)

    assert run_here(Loaded("a", "b", 1), NOWHERE) == Finding("skipped", "no compute-sanitizer")
    monkeypatch.setattr(Loaded, "error", RuntimeError("cudaErrorInvalid:\n  value"))
    assert run_here(Loaded("a", "b", 1), NOWHERE) == Finding("failed", "RuntimeError: cudaErrorInvalid: value")


def test_the_page_holds_every_verdict_and_figure() -> None:
    found = {
        "versions": Finding("passed", "NVIDIA Test", {"cupy": "14.0"}, 1.0),
        "kernel": Finding("failed", "error | 1", {"ms": {"one": 0.123456, "eight": 2.0}}, 2.0),
    }
    written = page(found, "2026-11-24")
    assert "| kernel | failed | 2.0 | error \\| 1 |" in written
    assert "| ms | one 0.1235, eight 2 |" in written
    assert written.startswith("# GPU check, 2026-11-24\n\nNVIDIA Test\n")


@needs_no_gpu
def test_the_command_writes_json_and_page_and_fails_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", "gpu-check", str(tmp_path), "--output"]
    command += [str(tmp_path / "out"), "--step", "versions", "--step", "race", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert [one["verdict"] for one in printed["steps"].values()] == ["failed", "skipped"]
    assert "no NVIDIA driver on this machine" in (tmp_path / "out" / "gpu-check.md").read_text()


# the steps


GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82", "13.0")


def test_versions_name_the_gpu_and_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = GPU
    monkeypatch.setitem(sys.modules, "cupy", None)
    without = versions(NOWHERE, Machine(gpu=gpu), ("numpy", "cupy"))
    assert without.verdict == "failed"
    assert "CuPy is not installed: pip install 'breastseg-deploy[gpu]'" in without.words
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    found = versions(NOWHERE, Machine(gpu=gpu), ("numpy", "cupy"))
    assert found.verdict == "passed"
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


@pytest.fixture
def segment(bundle: Bundle, network: HostNetwork, cupy_on_cpu: ModuleType) -> Segmenter:
    pipeline = GpuPipeline(bundle, lambda stream: network, all_passed)
    return Segmenter(bundle, Choice("tested", BACKENDS["tensorrt"], "tested: for this test", pipeline, FP16))


def test_frames_that_are_waited_for_pass_the_race(cupy_on_cpu: ModuleType, segment: Segmenter) -> None:
    segment(np.zeros(segment.manifest.frame.size_px, np.uint8))
    cupy_on_cpu.streams.late = True
    assert serving.raced(segment, cupy_on_cpu, 4) == Finding(
        "passed", "0 of 4 frames read before they were written, by tested"
    )


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
    found = serving.raced(segment, cupy_on_cpu, 4)
    assert found.verdict == "failed"
    assert found.words.endswith("of 4 frames read before they were written, by one that waits for nobody")


def test_an_engine_is_timed_in_both_batch_sizes(cupy_on_cpu: ModuleType) -> None:
    inner, stream = HostNetwork(), cupy_on_cpu.cuda.Stream(non_blocking=True)
    figures = network.timed(cupy_on_cpu, stream, inner.bind, capture=False, size_px=(128, 128))
    assert set(figures) == {"1 frames, ms", "8 frames, ms", "GB held after 1", "GB held after 8"}
    assert set(inner.runs) == {1, 8}


def test_a_backend_is_served_with_its_memory_and_stages(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    pipeline = GpuPipeline(bundle, lambda stream: float16, all_passed)
    segment = Segmenter(bundle, Choice("tested", BACKENDS["tensorrt"], "tested: for this test", pipeline, FP16))
    found = serving.served(segment, cupy_on_cpu, 8 << 30, 1.5, calls=1)
    assert found.verdict == "passed"
    assert "goldens pass, worst Dice" in found.words
    assert list(found.figures["GPU memory held, bytes"]) == ["opened", "one frame", "eight frames"]
    assert found.figures["at the export: engine, mean and worst Dice"]
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
    with pytest.raises(Skip) as skipped:
        network.b7_tensorrt(small_b7, Machine(gpu=GPU), SMALL_PX)
    assert "tensorrt: tensorrt is needed here and not installed" in str(skipped.value)
    assert "tensorrt-rtx: TensorRT-RTX" in str(skipped.value)  # built from that network, and then
    assert "cannot load this engine on this GPU" in str(skipped.value)
    onnxruntime.InferenceSession(str(small_b7.b7_network), providers=["CPUExecutionProvider"], enable_fallback=0)


def test_no_engine_that_runs_is_a_step_skipped() -> None:
    with pytest.raises(Skip, match="tensorrt: not installed"):
        network._in_words({"tensorrt": "not installed"})
    words = network._in_words({"plain": {"1 frames, ms": 12.345}, "graph": "refused"})
    assert (words.verdict, words.words) == ("passed", "one frame: plain 12.35 ms")
