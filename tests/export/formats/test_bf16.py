"""The bfloat16 artefact: part of every export in less than float32, without a file of its own, held to its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from breastseg_deploy.artefacts import Bf16Precision, details_of
from breastseg_deploy.bundle import BF16, MODEL, Bundle
from breastseg_deploy.cli.main import main


@pytest.fixture
def bundle(demo_bundle: Path) -> Bundle:
    return Bundle.open(demo_bundle)


def test_it_names_islands_of_the_portable_model_and_adds_no_file(bundle: Bundle) -> None:
    found = bundle.manifest.artefact(BF16)
    assert found is not None
    assert found.files == (MODEL,)
    (details,) = details_of(bundle.manifest, BF16, Bf16Precision)
    assert details.groups[-1] == "head"
    assert details.fp32_islands


def test_its_parity_is_measured_by_rounding_and_held_to_its_limits(bundle: Bundle) -> None:
    found = bundle.manifest.artefact(BF16)
    assert found is not None
    (parity,) = found.parity
    assert parity.engine == "ONNX Runtime rounding to bfloat16"
    assert (parity.limits.worst_dice, parity.limits.mean_dice, parity.limits.dice_change) == (0.99, 0.999, 0.001)
    assert 0.99 <= parity.worst_dice < 1
    assert parity.mean_dice_with_cells is not None
    assert parity.mean_dice_with_cells >= 0.999


def test_report_and_inspect_say_what_stays_in_float32(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    report = (bundle.path / "report.html").read_text()
    assert "Layers in float32 beside bfloat16" in report
    assert main(["inspect", str(bundle.path)]) == 0
    assert "float32 islands of bfloat16" in capsys.readouterr().out


def test_an_export_in_float32_alone_holds_none(gated_bundle: Path) -> None:
    assert Bundle.open(gated_bundle).manifest.artefact(BF16) is None
