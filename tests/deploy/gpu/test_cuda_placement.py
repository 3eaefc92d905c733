"""Where the nodes of our networks are on a GPU, by ONNX Runtime's own CUDA provider over a runtime of stubs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from breastseg_benchmark.gpu_check.network import write_b7
from breastseg_benchmark.gpu_check.step import Settings
from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.gpu.onnxruntime_cuda import provider_options
from breastseg_train.network.architecture import Architecture

STUB = Path(__file__).resolve().parents[1] / "stub_cuda"
UNPACKED = Path(sys.prefix) / "onnxruntime-gpu"
ONNXRUNTIME_GPU_1_27 = {
    ("Add", 14), ("AveragePool", 19), ("Cast", 19), ("Clip", 13), ("Concat", 13), ("Conv", 11),
    ("Mul", 14), ("ReduceMean", 18), ("Relu", 14), ("Resize", 19), ("Sigmoid", 13), ("Slice", 13),
}  # fmt: skip
"""Operators and versions with a CUDA kernel, in float16 and float32, in the least release that the extra `gpu` allows:
found by its own provider, which placed networks of them (the test below, with that release unpacked)."""


LITE = Architecture("tu-tf_efficientnet_lite0", (16,) * 5, pool_window_px=64)
"""EfficientNet-Lite, pools over windows: other operators than the demo's, whose own are those of every EfficientNet."""


@pytest.fixture(scope="module", params=["the demo", "EfficientNet-Lite"])
def network(request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 network, as the export code writes it."""
    if request.param == "the demo":
        return bundle.path / NETWORK_FP16
    settings = Settings("bundle", str(tmp_path_factory.mktemp("network")))
    write_b7(settings, LITE, (128, 128))
    return settings.b7_network


def operators(model: onnx.ModelProto) -> set[tuple[str, int]]:
    (opset,) = [opset.version for opset in model.opset_import if opset.domain == ""]
    return {(node.op_type, onnx.defs.get_schema(node.op_type, opset).since_version) for node in model.graph.node}


def test_every_operator_of_a_network_has_a_cuda_kernel_in_the_least_release(network: Path) -> None:
    assert operators(onnx.load_model(network)) <= ONNXRUNTIME_GPU_1_27


@pytest.fixture(scope="module")
def stub_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the real CUDA provider opens a session without a GPU."""
    if not UNPACKED.is_dir():
        pytest.skip(
            f"no onnxruntime-gpu in {UNPACKED}: pip install --no-deps --target {UNPACKED} onnxruntime-gpu==1.27.0"
        )
    nvidia = [str(place) for place in (Path(onnx.__file__).parents[1] / "nvidia").glob("*/lib")]
    if not nvidia or shutil.which("gcc") is None:
        pytest.skip("needs gcc, and CUDA's libraries as PyTorch brings them")
    place = tmp_path_factory.mktemp("stubs")
    empty = place / "empty.c"
    empty.write_text("")
    for name in ("libcuda.so.1", "libcurand.so.10"):
        subprocess.run(["gcc", "-shared", f"-Wl,-soname,{name}", "-o", str(place / name), str(empty)], check=True)
    preloaded = place / "cudart.so"
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", "-o", str(preloaded), str(STUB / "cudart.c")], check=True)
    paths = os.pathsep.join([str(place), *nvidia])
    return {"LD_PRELOAD": str(preloaded), "LD_LIBRARY_PATH": paths, "PYTHONPATH": str(UNPACKED)}


def placed(environment: dict[str, str], network: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STUB / "place.py"), str(network)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_the_real_provider_takes_our_options_and_places_every_node_on_the_gpu(
    stub_libraries: dict[str, str], network: Path
) -> None:
    done = placed(stub_libraries, network)
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    wanted = provider_options(4096, 0)
    assert {name: taken[name] for name in wanted} == wanted


def test_the_real_provider_refuses_a_network_with_a_node_that_it_has_no_kernel_for(
    stub_libraries: dict[str, str], tmp_path: Path
) -> None:
    node = onnx.helper.make_node("Det", ["x"], ["y"])
    tensors = [onnx.helper.make_tensor_value_info(*info) for info in (("x", 1, [4, 4]), ("y", 1, []))]
    graph = onnx.helper.make_graph([node], "one", tensors[:1], tensors[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "det.onnx")
    done = placed(stub_libraries, tmp_path / "det.onnx")
    assert done.returncode != 0
    assert "BackendError" in done.stderr
