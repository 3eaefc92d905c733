"""What the tests of formats share: one export in INT8 of a checkpoint with an empty-frame gate."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from written_phantoms import SIDE, write_phantoms

from breastseg_deploy.cli.main import main


@pytest.fixture(scope="session")
def made(gated_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo with its gate in INT8, calibrated on phantoms that parity does not see; and what the command printed."""
    place, checkpoint = tmp_path_factory.mktemp("int8"), gated_bundle.parent / "gated.safetensors"
    frames = write_phantoms(place / "frames", 0, 24, masks=True)
    calibration = write_phantoms(place / "calibration", 100, 32)
    command = [
        "export",
        checkpoint,
        "--output",
        place / "bundle",
        "--precision",
        "int8",
        "--calibrate",
        calibration,
        "--no-slide",
    ]
    said = io.StringIO()
    with redirect_stdout(said):
        assert main([str(word) for word in [*command, "--frames", frames, "--size", SIDE, "--json"]]) == 0
    return place / "bundle", json.loads(said.getvalue())


@pytest.fixture
def exported(made: tuple[Path, dict[str, Any]]) -> Path:
    return made[0]
