"""`pytest --benchmark`: what it collects, and the peers that it measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from breastseg_deploy.contract import rgb_batch, rgb_frame
from breastseg_deploy.errors import MachineError
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference

ROOT = Path(__file__).resolve().parents[1]


def pytest_of_its_own(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Started as from a terminal: by a worker's variables pytest-benchmark would take it for a worker of ours."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=outside)


def collected(*arguments: str) -> tuple[int, list[str]]:
    done = pytest_of_its_own("--collect-only", "-q", "-p", "no:cacheprovider", *arguments)
    return done.returncode, [line for line in done.stdout.splitlines() if "::" in line]


def test_without_the_flag_no_benchmark_is_collected() -> None:
    assert collected("benchmarks") == (5, [])


def test_with_the_flag_benchmarks_are_collected_and_nothing_else() -> None:
    code, tests = collected("--benchmark")
    assert code == 0
    assert tests
    assert all(test.startswith("benchmarks/") for test in tests)
    assert any("the paper's frame rate on a GPU" in test for test in tests)


def test_a_test_named_beside_the_flag_is_not_run() -> None:
    code, tests = collected("--benchmark", "tests/deploy/test_errors.py", "benchmarks/test_budgets.py")
    assert code == 0
    assert all(test.startswith("benchmarks/") for test in tests)


def test_a_bundles_path_is_not_taken_for_a_test(tmp_path: Path) -> None:
    for option in ("docs", str(tmp_path)):
        code, tests = collected("--benchmark", f"--benchmark-bundle={option}")
        assert code == 0
        assert tests
    assert collected("--benchmark", "--benchmark-bundle", "docs") == (code, tests)


def test_benchmarks_are_not_shared_out_among_processes() -> None:
    done = pytest_of_its_own("--benchmark", "--collect-only", "--numprocesses", "2")
    assert done.returncode == 4
    assert "--benchmark measures one thing at a time, got --numprocesses; omit it" in done.stderr


def test_the_flag_is_no_shorthand_for_another_plugins_option() -> None:
    done = pytest_of_its_own("--benchmark-onl")
    assert done.returncode == 4
    assert "unrecognized arguments: --benchmark-onl" in done.stderr


@pytest.fixture
def _peers_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.usefixtures("_peers_on_the_path")
def test_every_peer_has_a_module_that_says_how_it_is_opened() -> None:
    from peers import PEERS

    for peer in PEERS.values():
        module = ROOT / "benchmarks" / "peers" / f"{peer.module}.py"
        assert "def open_peer(setting: Setting, variant: str) -> Segment:" in module.read_text()
        assert not peer.variant or f'"{peer.variant}"' in module.read_text()


@pytest.mark.usefixtures("_peers_on_the_path")
def test_the_papers_edge_channel_is_the_reference() -> None:
    from peers.opencv_front import filter2d_edge

    frame = rgb_frame(phantom_frame(0, (64, 64)).frame, (64, 64))
    expected = edge_channel_reference(frame, GaborParameters())
    np.testing.assert_allclose(filter2d_edge(frame, GaborParameters()), expected, atol=1e-5)


@pytest.mark.usefixtures("_peers_on_the_path")
def test_the_gpu_peers_preprocessing_is_that_of_the_cpu_peers() -> None:
    import torch

    from peers.opencv_front import opencv_tensor
    from peers.torch_front import TorchFront

    frames = rgb_batch([phantom_frame(number, (64, 96)).frame for number in range(2)], (64, 96))
    tensor = TorchFront(GaborParameters())(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(tensor, opencv_tensor(frames, GaborParameters()), atol=1e-5)


@pytest.mark.usefixtures("_peers_on_the_path")
def test_no_peer_on_a_gpu_filters_on_the_cpu() -> None:
    from peers import PEERS

    for peer in PEERS.values():
        if peer.on_gpu:
            assert "TorchFront" in (ROOT / "benchmarks" / "peers" / f"{peer.module}.py").read_text()


@pytest.mark.usefixtures("_peers_on_the_path")
def test_the_papers_pipeline_gives_the_references_mask(tmp_path: Path) -> None:
    from peers import PAPER, PEERS, REFERENCE, Setting

    frames = rgb_batch([phantom_frame(0, (64, 64)).frame], (64, 64))
    np.save(tmp_path / "frames.npy", frames)
    setting = Setting("demo", tmp_path, tmp_path / "frames.npy")
    assert setting.size_px == (64, 64)
    masks = [PEERS[name].open(setting)(frames) for name in (REFERENCE, PAPER)]
    assert (masks[0].shape, masks[0].dtype) == ((1, 64, 64), np.uint8)
    assert masks[0].any()
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.usefixtures("_peers_on_the_path")
def test_peers_on_the_plain_export_give_the_references_masks(tmp_path: Path) -> None:
    import onnxruntime

    from peers import PEERS, REFERENCE, Setting
    from peers.onnxruntime_plain import behind_torch
    from peers.plain_export import read_plain_export, write_plain_export

    frames = rgb_batch([phantom_frame(number, (64, 64)).frame for number in range(2)], (64, 64))
    np.save(tmp_path / "frames.npy", frames)
    setting = Setting("demo", tmp_path, tmp_path / "frames.npy")
    write_plain_export("demo", tmp_path, 64)
    plain = read_plain_export(tmp_path)
    session = onnxruntime.InferenceSession(str(plain.onnx), providers=["CPUExecutionProvider"])
    expected = PEERS[REFERENCE].open(setting)(frames)
    assert expected.any()
    for segment in (
        PEERS["onnxruntime"].open(setting),
        PEERS["openvino-fp32"].open(setting),
        behind_torch(session, plain, "cpu"),  # as on a GPU
    ):
        np.testing.assert_array_equal(segment(frames), expected)


@pytest.mark.usefixtures("_peers_on_the_path")
def test_a_peer_without_a_plain_export_says_so(tmp_path: Path) -> None:
    from peers import PEERS, Setting

    with pytest.raises(MachineError, match="there is no plain export to start from"):
        PEERS["onnxruntime"].open(Setting("demo", tmp_path, tmp_path / "frames.npy"))


@pytest.mark.usefixtures("_peers_on_the_path")
def test_logits_become_the_mask_of_their_sigmoid(tmp_path: Path) -> None:
    from peers.plain_export import PlainExport

    def masks(threshold: float) -> list[list[list[int]]]:
        logits = np.array([[[[-3.0, 0.0], [np.log(0.3 / 0.7), 3.0]]]], np.float32)
        found: list[list[list[int]]] = (
            PlainExport(tmp_path, threshold, GaborParameters()).masks([logits[0][None]]).tolist()
        )
        return found

    assert masks(0.5) == [[[0, 1], [0, 1]]]
    assert masks(0.31) == [[[0, 1], [0, 1]]]
    assert masks(0.29) == [[[0, 1], [1, 1]]]
