"""The package for Triton, held to its own protobuf, and served by its own server where that is installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import cv2
import numpy as np
import pytest

from breastseg_deploy.bundle import ENGINE, MANIFEST, Bundle, file_entry
from breastseg_export.packages.triton import TRITON

_STARTS_WITHIN_S = 120
# The public wheel of the server brings no backend but Python's: this one stands in for that of ONNX Runtime.
_BACKEND = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np, onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        model = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"], enable_fallback=0)

    def execute(self, requests):
        answers = []
        for request in requests:
            frames = np.from_dlpack(triton.get_input_tensor_by_name(request, "frames"))
            found = self.session.run(["probability"], {{"frames": frames}})[0]
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack("probability", found)]))
        return answers
"""


@pytest.fixture(scope="module")
def package(packaged: Callable[[str], Path]) -> Path:
    return packaged("triton")


def test_tritons_own_protobuf_reads_the_configuration(package: Path, demo_bundle: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = text_format.Parse((package / "models/breastseg/config.pbtxt").read_text(), ModelConfig())

    height, width = Bundle.open(demo_bundle).manifest.frame.size_px
    assert list(config.input[0].dims) == [height, width, 3]
    assert list(config.output[0].dims) == [1, height, width]
    assert config.max_batch_size == 8
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64


def test_the_client_is_ten_lines(package: Path) -> None:
    code = [line for line in (package / "client.py").read_text().splitlines() if line and not line.startswith('"""')]
    assert len(code) <= 12
    compile("\n".join(code), "client.py", "exec")


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_engines_stay_in_the_bundle_and_the_package_says_so(bundle_copy: Path, flavour: str) -> None:
    put_engine(bundle_copy, flavour)

    files = {name: content.decode("utf-8", "replace") for name, content in TRITON.files(Bundle.open(bundle_copy))}

    assert [name for name in files if name.endswith(".plan")] == []
    assert "tensorrt_plan" not in files["models/breastseg/config.pbtxt"]
    assert f"- `engines/a.plan`, {flavour} 1.7.0" in files["README.md"]


def test_a_bundle_without_engines_has_nothing_left_out(package: Path) -> None:
    assert "Not in this repository" not in (package / "README.md").read_text()


def put_engine(bundle: Path, flavour: str) -> None:
    """Put an engine into a bundle; the packages never read it."""
    place = bundle / "engines" / "a.plan"
    place.parent.mkdir()
    place.write_bytes(b"a plan")
    details = {
        "file": "engines/a.plan", "flavour": flavour, "version": "1.7.0", "compute_capability": "8.6",
        "precision": "fp16", "min_batch": 1, "max_batch": 8, "workspace_bytes": 1, "gpu": "",
        "network_sha256": "0" * 64, "layer_types": {}, "build_seconds": 1, "verified": False, "verification": "no",
    }  # fmt: skip
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["engines/a.plan"] = file_entry(place).model_dump()
    engine = {"role": ENGINE, "files": ["engines/a.plan"], "inputs": [], "outputs": [], "limits": None, "parity": []}
    manifest["artefacts"].append({**engine, "details": details})
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_a_real_server_reproduces_a_golden_for_the_packaged_client(
    package: Path, server: str, demo_bundle: Path, tmp_path: Path
) -> None:
    golden = Bundle.open(demo_bundle).goldens()[0]
    cv2.imwrite(str(tmp_path / "frame.png"), golden.frame[:, :, ::-1])

    subprocess.run(
        [sys.executable, str(package / "client.py"), str(tmp_path / "frame.png"), str(tmp_path / "mask.png"), server],
        check=True, timeout=120,
    )  # fmt: skip

    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(mask, golden.mask * 255)


def test_frames_that_arrive_together_get_their_own_answers(server: str, demo_bundle: Path) -> None:
    import tritonclient.http as triton

    goldens = Bundle.open(demo_bundle).goldens()
    with triton.InferenceServerClient(server, concurrency=len(goldens)) as client:
        waiting = []
        for golden in goldens:
            sent = triton.InferInput("frames", (1, *golden.frame.shape), "UINT8")
            sent.set_data_from_numpy(golden.frame[np.newaxis])
            waiting.append(client.async_infer("breastseg", [sent]))
        found = [one.get_result().as_numpy("probability")[0, 0] for one in waiting]

    for golden, probability in zip(goldens, found, strict=True):
        assert np.allclose(probability, golden.probability, atol=1e-4)


@pytest.fixture(scope="module")
def server(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a running server."""
    pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    found = find_spec("pytriton")
    if found is None or found.origin is None:
        pytest.skip("nvidia-pytriton, which brings Triton's server, is not installed")
    triton = Path(found.origin).parent / "tritonserver"
    folder = tmp_path_factory.mktemp("triton")
    backends = copytree(triton / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = backends / "python" / "triton_python_backend_stub"
    stub.write_bytes((triton / "python_backend_stubs" / version / stub.name).read_bytes())
    stub.chmod(0o755)
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(_BACKEND.format(path=sys.path))
    program = folder / "tritonserver"
    program.write_bytes((triton / "bin" / "tritonserver").read_bytes())
    program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model-repository", package / "models", "--backend-directory", backends, "--http-address", "127.0.0.1"]
    words += ["--http-port", port, "--allow-grpc", "false", "--allow-metrics", "false"]
    libraries = triton.parents[1] / "nvidia_pytriton.libs"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(program), *map(str, words)],
            stdout=log,
            stderr=log,
            env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        )
    try:
        _wait_until_ready(process, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < ends:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/breastseg/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server was not ready within {_STARTS_WITHIN_S} s: {log.read_text()[-2000:]}")
