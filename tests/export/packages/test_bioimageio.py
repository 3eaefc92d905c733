"""The package for bioimage.io, held to the checker of its own community."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter

_PREDICT = """
import sys
import numpy as np
from bioimageio.core import create_prediction_pipeline
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.spec import load_model_description

model = load_model_description(sys.argv[1])
image = np.load(sys.argv[2])
sample = create_sample_for_model(model, inputs={"frames": image})
found = create_prediction_pipeline(model).predict_sample_with_blocking(sample)
np.save(sys.argv[3], np.asarray(found.members["probability"].data.data))
"""


@pytest.fixture(scope="module")
def package(packaged: Callable[[str], Path]) -> Path:
    return packaged("bioimageio")


@pytest.fixture
def checker() -> Path:
    """The checker's program; its pins keep it out of the constraints, see the Makefile."""
    pytest.importorskip("bioimageio.core", reason="bioimageio.core is not installed")
    return Path(sys.executable).with_name("bioimageio")


def test_bioimageios_own_test_passes_without_a_network(package: Path, checker: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bioimageio.core", "test", str(package / "rdf.yaml")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_tiles_with_the_declared_halo_give_the_runtimes_own_masks(
    package: Path, checker: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    side, halo = _side_and_halo(package)
    image = np.repeat(phantom_frame(5, (3 * side, 3 * side)).frame[..., np.newaxis], 3, axis=-1)
    np.save(tmp_path / "image.npy", image[np.newaxis])

    files = [package / "rdf.yaml", tmp_path / "image.npy", tmp_path / "found.npy"]
    words = [sys.executable, "-c", _PREDICT, *map(str, files)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)

    found = np.load(tmp_path / "found.npy")
    assert found.shape == (1, 1, 3 * side, 3 * side)
    start = side - 2 * halo  # of the second tile's core, in both directions
    with Segmenter.open(demo_bundle, "onnxruntime") as segment:
        tile = segment(image[start - halo :, start - halo :][:side, :side]).probability
    assert tile is not None
    assert np.allclose(found[0, 0, start:, start:][:start, :start], tile[halo:-halo, halo:-halo], atol=1e-4)


def test_threshold_licence_and_limits_of_use_travel_along(package: Path, demo_bundle: Path) -> None:
    with Segmenter.open(demo_bundle, "onnxruntime") as segment:
        manifest = segment.manifest
    described = yaml.safe_load((package / "rdf.yaml").read_text())
    page = (package / "README.md").read_text()

    assert described["config"]["breastseg_deploy"]["threshold"] == manifest.threshold
    assert manifest.licence in page
    assert manifest.intended_use in page


def _side_and_halo(package: Path) -> tuple[int, int]:
    described = yaml.safe_load((package / "rdf.yaml").read_text())
    return described["inputs"][0]["axes"][1]["size"], described["outputs"][0]["axes"][2]["halo"]
