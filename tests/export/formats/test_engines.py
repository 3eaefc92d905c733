"""Engines in a bundle: asked for on the command line, built by TensorRT-RTX without a GPU, and written down."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch

from breastseg_deploy.artefacts import EngineEntry, details_of
from breastseg_deploy.bundle import ENGINE, NETWORK_FP16, Bundle
from breastseg_deploy.cli.main import main as breastseg
from breastseg_deploy.engines.build import build_engine
from breastseg_deploy.engines.flavour import FLAVOURS
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import EngineKey, obtain_engine
from breastseg_deploy.errors import ArgumentError, BackendError, MachineError
from breastseg_deploy.machine import CACHE_VARIABLE, Machine
from breastseg_deploy.nvidia import Gpu, NoGpu
from breastseg_export import graph
from breastseg_export.formats import engines
from breastseg_export.main import main
from breastseg_export.precision.half import half_network
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIDE = 64
RTX = FLAVOURS["tensorrt-rtx"]

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(RTX.module) is None,
    reason="TensorRT-RTX is not installed: pip install 'breastseg-deploy[tensorrt-rtx]'",
)


def projection_stem_and_pools(network: onnx.ModelProto) -> tuple[str, ...]:
    """Nodes before the fourth convolution, and the global pools: islands that need no search."""
    islands, convolutions = [], 0
    for node in network.graph.node:
        convolutions += node.op_type == "Conv"
        if convolutions <= 3 or node.op_type == "ReduceMean":
            islands.append(node.name)
    return tuple(islands)


@pytest.fixture(scope="module")
def b7() -> tuple[bytes, tuple[str, ...]]:
    """The float16 network of an EfficientNet-B7 with random weights, and its islands: half a minute's work."""
    torch.manual_seed(0)
    network = graph.export_network(SegmentationModel(Architecture()).eval(), (SIDE, SIDE))
    islands = projection_stem_and_pools(network)
    return half_network(network, islands).SerializeToString(), islands


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that exports in seconds; its threshold lies where few of its pixels do."""
    torch.manual_seed(0)
    model = SegmentationModel(Architecture("resnet18", (16,) * 5))
    with torch.no_grad():
        model.unet.segmentation_head[0].bias.fill_(0.5)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(Checkpoint(model), path)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two engines."""
    place = tmp_path_factory.mktemp("bundles") / "b"
    arguments = [str(checkpoint), "--output", str(place), "--size", str(SIDE), "--no-slide"]
    assert main([*arguments, "--target", "tensorrt-rtx", "--compute-capability", "8.6,8.9"]) == 0
    return place


NO_GPU = NoGpu("no NVIDIA driver on this machine", expected=False)


def gpu(capability: str) -> Gpu:
    return Gpu("GPU", capability, 1 << 34, "580", "13.0")


@needs_rtx
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9"])
def test_the_b7_network_is_built_without_a_gpu(b7: tuple[bytes, tuple[str, ...]], capability: str) -> None:
    network, islands = b7
    built = build_engine(network, EngineRequest(RTX, capability), islands)
    assert len(built.plan) > len(network)
    assert built.type_histogram["CONVOLUTION"] == {"FLOAT": 3, "HALF": 357}
    assert built.type_histogram["REDUCE"].keys() == {"FLOAT"}


@needs_rtx
def test_the_b7_network_without_its_islands_is_refused(b7: tuple[bytes, tuple[str, ...]]) -> None:
    with pytest.raises(BackendError, match="3 of the network's convolutions and matrix products must be HALF"):
        build_engine(b7[0], EngineRequest(RTX, "8.6"), ())


@needs_rtx
def test_the_bundle_holds_the_engines_that_its_manifest_names(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    engines = details_of(opened.manifest, ENGINE, EngineEntry)
    version = engines[0].version
    names = [f"engines/tensorrt-rtx-{version}-sm{sm}-fp16-b1-8-w1024.plan" for sm in (86, 89)]
    assert [engine.file for engine in engines] == names
    assert sorted(f"engines/{path.name}" for path in (bundle / "engines").iterdir()) == names
    assert set(names) <= opened.manifest.files.keys()


@needs_rtx
def test_the_manifest_says_what_an_engine_is_and_that_it_was_not_run(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    engine = details_of(opened.manifest, ENGINE, EngineEntry)[0]
    assert (engine.flavour, engine.compute_capability, engine.precision) == ("tensorrt-rtx", "8.6", "fp16")
    assert (engine.min_batch, engine.max_batch) == (1, 8)
    assert engine.network_sha256 == hashlib.sha256(opened.read(NETWORK_FP16)).hexdigest()
    assert engine.layer_types["CONVOLUTION"]["HALF"] > 30
    assert engine.build_seconds > 0
    assert not engine.verified
    assert "not run on a GPU" in engine.verification


@needs_rtx
def test_the_runtime_finds_the_exported_engine(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    opened = Bundle.open(bundle)
    engine = obtain_engine(opened, EngineRequest(RTX, "8.9"), Machine())
    assert engine.origin == "bundle"
    entry = details_of(opened.manifest, ENGINE, EngineEntry)[1]
    assert engine.key == EngineKey.of_entry(entry)
    assert engine.sha256 == opened.manifest.files[entry.file].sha256


@needs_rtx
def test_inspect_lists_engines(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert breastseg(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("  engine ")]
    assert len(lines) == 2
    assert "compute capability 8.6, fp16" in lines[0]
    assert shown.count("1 to 8") == shown.count("not verified: not run on a GPU") == 2


# what cannot be asked for is said before the long work


def said(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["demo", "--output", str(tmp_path / "b"), *arguments])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not list(tmp_path.iterdir())
    return code, line


def test_engines_of_a_float32_export_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(["--precision", "fp32", "--target", "tensorrt-rtx"], tmp_path, capsys)
    assert code == 1
    assert "engines are built from the float16 network, got --precision fp32" in line


def test_a_capability_without_a_target_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(["--compute-capability", "8.6"], tmp_path, capsys)
    assert (code, "name which with --target tensorrt-rtx" in line) == (1, True)


@needs_rtx
def test_a_capability_that_rtx_does_not_know_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(["--target", "tensorrt-rtx", "--compute-capability", "9.0"], tmp_path, capsys)
    assert code == 1
    assert "builds for the compute capabilities 7.5, 8.0, 8.6" in line
    assert "got 9.0" in line


@pytest.mark.parametrize("capability", ["sm86", "8.6,", "8,6"])
def test_a_capability_that_is_none_is_a_usage_error(capability: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--output", "b", "--target", "tensorrt-rtx", "--compute-capability", capability])
    assert caught.value.code == 2
    assert "a compute capability is written as in 8.6, got" in capsys.readouterr().err


@needs_rtx
def test_rtx_needs_a_gpu_or_its_name() -> None:
    with pytest.raises(MachineError, match=r"no NVIDIA driver on this machine; name the GPU to build for, e\.g\. --c"):
        engines.engine_requests(["tensorrt-rtx"], [], "fp16", Machine(gpu=NO_GPU))


@needs_rtx
def test_rtx_builds_for_this_machines_gpu_unless_told_otherwise() -> None:
    machine = Machine(gpu=gpu("8.9"))
    (request,) = engines.engine_requests(["tensorrt-rtx"], [], "fp16", machine)
    assert request.compute_capability == "8.9"


@needs_rtx
def test_each_engine_is_built_once() -> None:
    requests = engines.engine_requests(["tensorrt-rtx"] * 2, ["8.6", "8.9", "8.6"], "fp16", Machine())
    assert [request.compute_capability for request in requests] == ["8.6", "8.9"]


def test_tensorrt_that_is_not_installed_is_named_with_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    code, line = said(["--target", "tensorrt"], tmp_path, capsys)
    assert code == 4
    assert "pip install 'breastseg-deploy[tensorrt]'" in line


def test_tensorrt_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    machine = Machine(gpu=NO_GPU)
    with pytest.raises(MachineError, match="TensorRT builds on the GPU that will run the engine: no NVIDIA driver"):
        engines.engine_requests(["tensorrt"], [], "fp16", machine)


def test_tensorrt_builds_for_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    machine = Machine(gpu=gpu("9.0"))
    assert engines.engine_requests(["tensorrt"], [], "fp16", machine)[0].compute_capability == "9.0"
    with pytest.raises(ArgumentError, match=r"own machine only \(9\.0\), got --compute-capability 8\.6"):
        engines.engine_requests(["tensorrt"], ["8.6"], "fp16", machine)
