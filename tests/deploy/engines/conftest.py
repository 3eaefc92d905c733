"""A bundle that holds a tiny float16 network, and a cache of its own for every test."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from small_network import ISLANDS, half_network

from breastseg_deploy.artefacts import HalfPrecision
from breastseg_deploy.bundle import FP16, MANIFEST, NETWORK_FP16, Bundle
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.machine import CACHE_VARIABLE
from breastseg_deploy.manifest import Artefact, FileEntry, FrameContract, GaborBank, Manifest, Normalisation
from breastseg_deploy.preprocess.gabor import GaborParameters, bank_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine cache of a test; not made yet."""
    place = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(place))
    return place


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle as far as engines need one."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    content = half_network()
    (folder / NETWORK_FP16).write_bytes(content)
    gabor = GaborParameters()
    bank = {name: getattr(gabor, name) for name in gabor.__dataclass_fields__}
    half = HalfPrecision(fp32_islands=ISLANDS, largest_activation=1.0, largest_activation_layer="stem")
    entry = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        name="tiny",
        encoder="none",
        decoder_channels=(),
        frame=FrameContract(height_px=32, width_px=32),
        gabor=GaborBank(**bank, sha256=bank_sha256(gabor)),
        normalisation=Normalisation(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        threshold=0.5,
        precision="fp16",
        opset=20,
        artefacts=(
            Artefact(
                role=FP16,
                files=(NETWORK_FP16,),
                inputs=(),
                outputs=(),
                limits=None,
                parity=(),
                details=half.model_dump(mode="json"),
            ),
        ),
        parity_frames="none",
        goldens=("goldens/none.npz",),
        files={NETWORK_FP16: entry, "goldens/none.npz": entry},
        built_with={},
        built_at="2026-11-23T00:00:00+00:00",
        licence="none",
        intended_use="tests",
        training={},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return Bundle(folder, manifest)
