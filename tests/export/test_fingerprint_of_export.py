"""The fingerprint in a bundle: of the frames that the export was given, and of no phantoms."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_deploy.drift import DriftWatch
from breastseg_deploy.fingerprint import FEATURES, measure
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.phantom import phantom_frame
from breastseg_export.exporter import export_bundle
from breastseg_export.settings import ExportSettings

SIDE, COUNT = 64, 18


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a bundle that was exported with frames from files."""
    place = tmp_path_factory.mktemp("export")
    (place / "frames").mkdir()
    for number in range(COUNT):
        content = png_bytes(phantom_frame(number, (SIDE, SIDE)).frame)
        (place / "frames" / f"{number}.png").write_bytes(content)
    frames = place / "frames"
    return export_bundle(
        ExportSettings("demo", place / "bundle", precision="fp32", size_px=SIDE, frames=frames, slide=False)
    )


def test_an_export_with_frames_holds_their_fingerprint(manifest: Manifest) -> None:
    assert manifest.drift is not None
    assert manifest.drift.frames == COUNT
    assert list(manifest.drift.spreads) == [name for name in FEATURES if name in manifest.drift.spreads]
    empty = np.zeros((SIDE, SIDE), np.uint8)
    bright = [measure(phantom_frame(number, (SIDE, SIDE)).frame, empty, None)["bright"] for number in range(COUNT)]
    assert manifest.drift.spreads["bright"].mean == pytest.approx(np.mean(bright))
    assert 0 < manifest.drift.spreads["confidence"].frames < COUNT


def test_a_watch_takes_it_from_there(manifest: Manifest) -> None:
    assert DriftWatch(manifest).windows == 0


def test_phantoms_make_no_fingerprint(demo_manifest: Manifest) -> None:
    assert demo_manifest.drift is None
