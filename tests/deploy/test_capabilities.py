"""What `doctor` finds, here and on machines that have more or less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import onnxruntime
import pytest

from breastseg_deploy import BackendError, Machine, MachineError
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.capabilities import Capability, capabilities
from breastseg_deploy.machine import this_processor
from breastseg_deploy.nvidia import Gpu, NoGpu

GPU = Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82.07", "13.0")
NO_GPU = NoGpu("no NVIDIA driver on this machine", expected=False)


def pretend(gpu: Gpu | NoGpu, packages: dict[str, str], **checks: Callable[[Machine], str]) -> dict[str, Capability]:
    """The capabilities, by name, of a machine with this GPU and these packages; `checks` are of backends, by name."""

    def version(package: str) -> str:
        if package not in packages:
            raise PackageNotFoundError(package)
        return packages[package]

    def check(name: str) -> Callable[[Machine], str]:
        return checks.get(name.replace("-", "_"), lambda _: "here")

    backends = {name: replace(record, check=check(name)) for name, record in BACKENDS.items()}
    return {found.name: found for found in capabilities(Machine(gpu=gpu), backends, version)}


def refuses(error: Exception) -> Callable[[Machine], str]:
    def check(_: Machine) -> str:
        raise error

    return check


def test_the_cpu_backend_is_found_with_its_version() -> None:
    (backend,) = [found for found in capabilities() if found.name == "backend onnxruntime"]
    assert backend.usable
    assert onnxruntime.__version__ in backend.detail


def test_names_are_distinct_and_kinds_known() -> None:
    found = capabilities()
    assert len({capability.name for capability in found}) == len(found)
    assert {capability.kind for capability in found} == {"machine", "library", "backend"}


def test_every_backend_is_listed_in_the_order_of_preference() -> None:
    listed = [found.name for found in capabilities() if found.kind == "backend"]
    assert listed == [f"backend {name}" for name in BACKENDS]


def test_machine_without_a_driver_says_so_and_nothing_is_to_be_installed_for_it() -> None:
    lacks = refuses(MachineError(NO_GPU.reason))
    found = pretend(NO_GPU, {"onnxruntime": "1.32.0"}, tensorrt=lacks, tensorrt_rtx=lacks, onnxruntime_cuda=lacks)
    assert (found["nvidia gpu"].usable, found["nvidia gpu"].detail) == (False, NO_GPU.reason)
    assert "nvidia driver" not in found
    for name in ("cupy", "onnxruntime-gpu", "tensorrt", "backend tensorrt", "backend onnxruntime-cuda"):
        assert (found[name].usable, found[name].remedy) == (False, ""), name
    assert found["cupy"].detail.endswith("is not installed; of no use without an NVIDIA GPU")
    assert found["backend tensorrt"].detail == NO_GPU.reason


def test_gpu_driver_and_cuda_are_named() -> None:
    found = pretend(GPU, {})
    assert found["nvidia gpu"].detail == "NVIDIA Test, compute capability 8.6, 24.0 GiB"
    assert found["nvidia driver"].detail == "580.82.07, runs CUDA up to 13.0"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cupy", "pip install 'breastseg-deploy[gpu]'"),
        ("onnxruntime", "pip install 'breastseg-deploy[cpu]'"),
        ("onnxruntime-gpu", "pip install 'breastseg-deploy[gpu]'"),
        ("tensorrt", "pip install 'breastseg-deploy[tensorrt]'"),
        ("tensorrt-rtx", "pip install 'breastseg-deploy[tensorrt-rtx]'"),
    ],
)
def test_each_missing_library_names_the_command_that_brings_it(name: str, command: str) -> None:
    found = pretend(GPU, {})[name]
    assert (found.usable, found.remedy) == (False, command)
    assert "is not installed" in found.detail


@pytest.mark.parametrize("package", ["cupy-cuda13x", "cupy-cuda12x", "cupy"])
def test_cupy_is_found_by_each_of_its_names(package: str) -> None:
    assert pretend(GPU, {package: "14.2.0"})["cupy"].detail == f"{package} 14.2.0"


def test_the_cpu_build_of_onnxruntime_must_go_before_the_gpu_build_comes() -> None:
    found = pretend(GPU, {"onnxruntime": "1.32.0"})["onnxruntime-gpu"]
    assert found.remedy == "pip uninstall -y onnxruntime && pip install 'breastseg-deploy[gpu]'"


def test_the_gpu_build_of_onnxruntime_holds_the_cpu_backend() -> None:
    found = pretend(GPU, {"onnxruntime-gpu": "1.32.0"})
    assert (found["onnxruntime"].usable, found["onnxruntime"].detail) == (True, "part of onnxruntime-gpu")
    assert found["backend onnxruntime"].usable


@pytest.mark.parametrize("name", ["backend onnxruntime", "backend onnxruntime-cuda"])
def test_both_builds_of_onnxruntime_at_once_are_a_fault(name: str) -> None:
    found = pretend(GPU, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})[name]
    assert not found.usable
    assert "overwrite each other's files" in found.detail
    assert found.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'breastseg-deploy[")


def test_a_backend_that_lacks_a_library_names_the_command_that_brings_all_of_it() -> None:
    found = pretend(GPU, {}, tensorrt=refuses(MachineError("cupy is needed here and not installed: pip install it")))
    assert found["backend tensorrt"].detail == "cupy is needed here and not installed: pip install it"
    assert found["backend tensorrt"].remedy == "pip install 'breastseg-deploy[gpu,tensorrt]'"


@pytest.mark.parametrize("error", [BackendError("libnvinfer.so.10"), ImportError("libnvinfer.so.10"), OSError("libnv")])
def test_a_backend_whose_library_is_broken_is_not_usable(error: Exception) -> None:
    found = pretend(GPU, {}, tensorrt=refuses(error))["backend tensorrt"]
    assert (found.usable, found.detail) == (False, f"its library is broken: {error}")


def test_a_usable_gpu_backend_says_what_would_serve() -> None:
    found = pretend(GPU, {}, tensorrt_rtx=lambda _: "TensorRT-RTX 1.7.1.116 on NVIDIA Test")["backend tensorrt-rtx"]
    assert (found.usable, found.detail) == (True, "TensorRT-RTX 1.7.1.116 on NVIDIA Test")


def test_openvino_is_named_with_its_version_or_the_command_that_brings_it() -> None:
    assert pretend(NO_GPU, {"openvino": "2026.4.1"})["openvino"].detail == "openvino 2026.4.1"
    lacks = refuses(MachineError("openvino is needed here and not installed"))
    found = pretend(NO_GPU, {}, openvino=lacks)
    for name in ("openvino", "backend openvino"):
        assert (found[name].usable, found[name].remedy) == (False, "pip install 'breastseg-deploy[openvino]'")


def test_processor_is_named_with_the_cores_that_this_process_may_use() -> None:
    (found,) = [found for found in capabilities() if found.name == "processor"]
    assert found.detail.endswith(f"{this_processor().cores} cores for this process")
    assert found.detail.startswith(this_processor().name)


def test_processors_of_one_name_differ_by_their_instruction_sets(tmp_path: Path) -> None:
    core = "processor\t: {n}\nmodel name\t: A CPU\nflags\t\t: fpu avx2{more}\n\n"
    found = []
    for more in ("", " avx512_vnni"):
        (tmp_path / "cpuinfo").write_text("".join(core.format(n=n, more=more) for n in range(2)))
        found.append(this_processor(tmp_path / "cpuinfo"))
    assert [one.name for one in found] == ["A CPU", "A CPU"]
    assert found[0].instructions != found[1].instructions
    assert str(found[0]) != str(found[1])


def test_a_system_that_tells_nothing_of_its_processor_is_no_error(tmp_path: Path) -> None:
    found = this_processor(tmp_path / "nothing here")
    assert (found.instructions, bool(found.name), found.cores >= 1) == ("", True, True)
