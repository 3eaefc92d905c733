"""What the tests of the command line share: calls of it, and what they printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from numpy.typing import NDArray

from breastseg_deploy.cli.main import main
from breastseg_deploy.phantom import phantom_frame

SIDE = 128
FRAME = phantom_frame(0, (SIDE, SIDE)).frame


def saved(path: Path, image: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 else image)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def breastseg(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def json_on_stdout(text: str) -> dict[str, Any]:
    """Stdout must be one line, and that line one JSON object."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit code 1 and one line; returns that line."""
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    return line
