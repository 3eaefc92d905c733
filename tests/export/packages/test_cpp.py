"""The package for C++, compiled and run against OpenVINO's own headers and libraries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from breastseg_deploy.bundle import Bundle, Golden


@pytest.fixture(scope="module")
def package(packaged: Callable[[str], Path]) -> Path:
    return packaged("cpp")


@pytest.fixture(scope="module")
def program(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("cmake or g++ is not installed")
    build = tmp_path_factory.mktemp("build")
    prefix = Path(openvino.__file__).parent
    for words in (
        ["cmake", "-S", package, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_CXX_FLAGS=-Werror"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "breastseg"


@pytest.fixture
def golden(demo_bundle: Path) -> Golden:
    return Bundle.open(demo_bundle).goldens()[0]


def test_ctest_holds_every_golden_to_the_manifests_limit(program: Path) -> None:
    done = subprocess.run(
        ["ctest", "--output-on-failure", "-V"], cwd=program.parent, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("largest probability error") == 3


def test_a_frame_gives_the_mask_of_the_python_runtime(
    program: Path, package: Path, golden: Golden, tmp_path: Path
) -> None:
    _write_ppm(tmp_path / "frame.ppm", golden.frame)

    done = _run(program, package / "bundle", tmp_path / "frame.ppm", tmp_path / "mask.pgm")

    assert done.returncode == 0, done.stderr
    height, width = golden.mask.shape
    header = f"P5\n{width} {height}\n255\n".encode()
    assert (tmp_path / "mask.pgm").read_bytes() == header + (golden.mask * 255).tobytes()


def test_asked_for_times_it_gives_clock_and_processor_for_each_line_and_its_probability(
    program: Path, package: Path, golden: Golden, tmp_path: Path
) -> None:
    _write_ppm(tmp_path / "frame.ppm", golden.frame)
    words = [program, package / "bundle", tmp_path / "frame.ppm", tmp_path / "probability.f32", "--time"]

    done = subprocess.run(
        list(map(str, words)), input="\n\n\n", capture_output=True, text=True, timeout=600, check=False
    )

    assert done.returncode == 0, done.stderr
    assert [len(line.split()) for line in done.stdout.splitlines()] == [2] * 3
    assert all(float(word) > 0 for word in done.stdout.split())
    found = np.fromfile(tmp_path / "probability.f32", "<f4").reshape(golden.mask.shape)
    np.testing.assert_allclose(found, golden.probability, atol=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_an_altered_bundle_is_refused_in_one_sentence(program: Path, package: Path, tmp_path: Path, name: str) -> None:
    bundle = copytree(package / "bundle", tmp_path / "bundle")
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))

    done = _run(program, bundle, "--self-test")

    assert done.returncode == 1
    assert name in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_golden_that_does_not_match_ends_with_3(program: Path, package: Path, tmp_path: Path) -> None:
    bundle = copytree(package / "bundle", tmp_path / "bundle")
    first, second = bundle / "golden-1.probability.f32", bundle / "golden-2.probability.f32"
    hashes = (bundle / "goldens.json").read_text()
    one, two = _sha256(first), _sha256(second)
    assert first.read_bytes() != second.read_bytes()
    first.write_bytes(second.read_bytes())
    (bundle / "goldens.json").write_text(hashes.replace(one, two))

    done = _run(program, bundle, "--self-test")

    assert done.returncode == 3
    assert "miss the limit" in done.stderr


def test_a_frame_of_another_size_is_refused_and_never_resized(
    program: Path, package: Path, golden: Golden, tmp_path: Path
) -> None:
    _write_ppm(tmp_path / "frame.ppm", golden.frame[:-1])

    done = _run(program, package / "bundle", tmp_path / "frame.ppm", tmp_path / "mask.pgm")

    assert done.returncode == 1
    assert "nothing is resized" in done.stderr
    assert not (tmp_path / "mask.pgm").exists()


def test_a_frame_that_is_cut_short_is_refused(program: Path, package: Path, golden: Golden, tmp_path: Path) -> None:
    _write_ppm(tmp_path / "frame.ppm", golden.frame)
    whole = (tmp_path / "frame.ppm").read_bytes()
    (tmp_path / "frame.ppm").write_bytes(whole[:-1])

    done = _run(program, package / "bundle", tmp_path / "frame.ppm", tmp_path / "mask.pgm")

    assert done.returncode == 1
    assert "whole binary PPM" in done.stderr


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=600, check=False)


def _write_ppm(path: Path, frame: np.ndarray) -> None:
    height, width, _ = frame.shape
    path.write_bytes(f"P6\n{width} {height}\n255\n".encode() + frame.tobytes())


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
