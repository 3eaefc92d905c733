"""What the tests share: one small bundle of the demo checkpoint, and the microscopy beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from filelock import FileLock

from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.nvidia import NoGpu, look_for_gpu
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.storage import make_folder

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait slow every neighbour down

BUNDLE_SIDE_PX = 128
REQUIRE_GPU = os.environ.get("BREASTSEG_REQUIRE_GPU") == "1"
"""On a machine that is to prove the GPU path: no test of it may be skipped, for whatever reason."""
DEMO_BUNDLE = os.environ.get("BREASTSEG_DEMO_BUNDLE")
ROOT = Path(__file__).resolve().parents[1]
MICROSCOPY = ROOT.parent / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped without a GPU."""
    if item.get_closest_marker("gpu") is not None:
        found = look_for_gpu()
        if isinstance(found, NoGpu):
            pytest.skip(found.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With BREASTSEG_REQUIRE_GPU=1, a skipped test marked `gpu` has failed."""
    report = yield
    if REQUIRE_GPU and report.skipped and item.get_closest_marker("gpu") is not None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"BREASTSEG_REQUIRE_GPU=1 allows no skipping: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real microscopy first: they take minutes, and no process should be left alone with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("data") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What the runtime finds out about this machine in the tests is not kept in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREASTSEG_CACHE", str(tmp_path_factory.mktemp("found-out")))
        yield


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that takes long to make, made by the first of the run's processes that needs it."""
    own = factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{place}.lock"):
        if not (place / "made").exists():
            place.mkdir()  # fails where making it failed before: then it fails again, with the same error first
            make(place)
            (place / "made").touch()
    return place


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the demo checkpoint for 128 x 128 frames, made once; tests that alter it take `bundle_copy`.

    BREASTSEG_DEMO_BUNDLE names one that was made elsewhere, for machines that cannot export.
    """
    if DEMO_BUNDLE is not None:
        return Path(DEMO_BUNDLE)

    def make(place: Path) -> None:
        from breastseg_export.exporter import export_bundle
        from breastseg_export.settings import ExportSettings

        export_bundle(ExportSettings("demo", place / "bundle", size_px=BUNDLE_SIDE_PX))

    return _made_once(tmp_path_factory, "demo", make) / "bundle"


@pytest.fixture(scope="session")
def gated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint with an empty-frame gate fitted and calibrated on phantoms, exported for 128 x 128 frames."""
    return _made_once(tmp_path_factory, "gated", _export_gated) / "bundle"


def _export_gated(place: Path) -> None:
    from breastseg_export.exporter import export_bundle
    from breastseg_export.settings import ExportSettings
    from breastseg_train.data.dataset import read_data_set
    from breastseg_train.network.checkpoint import load_checkpoint, save_checkpoint
    from breastseg_train.run.gate import fit_gate

    size_px = (BUNDLE_SIDE_PX, BUNDLE_SIDE_PX)
    for number in range(60):
        phantom, split = phantom_frame(100 + number, size_px), "fit" if number < 20 else "calibrate"
        for kind, pixels in (("images", phantom.frame), ("masks", phantom.mask * 255)):
            make_folder(place / split / kind)
            (place / split / kind / f"{number}.png").write_bytes(png_bytes(pixels))
    checkpoint = load_checkpoint("demo")
    data = read_data_set(place, ["fit", "calibrate"])
    gate = fit_gate(checkpoint.model, data, ["fit"], ["calibrate"], recall=0.9)
    save_checkpoint(replace(checkpoint, gate=gate), place / "gated.safetensors")
    settings = ExportSettings(str(place / "gated.safetensors"), place / "bundle", "fp32", size_px=BUNDLE_SIDE_PX)
    export_bundle(replace(settings, slide=False))  # one trace less; the demo's bundle holds slides


@pytest.fixture(scope="session")
def demo_manifest(demo_bundle: Path) -> Manifest:
    with Segmenter.open(demo_bundle) as segment:
        return segment.manifest


@pytest.fixture
def bundle_copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    copy = tmp_path / "bundle"
    copytree(demo_bundle, copy)
    return copy


@pytest.fixture(scope="session")
def microscopy() -> Callable[[str], Path]:
    """Path of a part of the microscopy, e.g. "public/test"; the test is skipped where it is not there."""

    def path(part: str) -> Path:
        place = MICROSCOPY / part
        if not place.exists():
            pytest.skip(f"no microscopy at {place}: a clone does not hold it")
        return place

    return path
