"""One checkpoint exported twice gives the same bytes, and SOURCE_DATE_EPOCH stands for the time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import ArgumentError
from breastseg_export.settings import ExportSettings, build_time

EXPORT = "import sys; from breastseg_export.main import main; sys.exit(main())"


def export(place: Path, hash_seed: str) -> dict[str, bytes]:
    """Every file of a small bundle by name, made by a process of its own in a folder of its own."""
    place.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", EXPORT, "demo", "--size", "64", "--output", "bundle"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bundle = place / "bundle"
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_two_exports_of_one_checkpoint_are_equal_to_the_byte(tmp_path: Path) -> None:
    first, second = export(tmp_path / "first", "1"), export(tmp_path / "second", "2")
    assert {"manifest.json", "model.onnx", "network.fp16.onnx", "report.html"} <= set(first)
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert Bundle.open(tmp_path / "first" / "bundle").manifest.built_at == "2023-11-14T22:13:20+00:00"


def test_without_the_variable_a_bundle_states_the_time_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = datetime.now(UTC).replace(microsecond=0)
    stated = datetime.fromisoformat(build_time())
    assert before <= stated <= datetime.now(UTC)
    assert stated.microsecond == 0


@pytest.mark.parametrize("given", ["", "yesterday", "1.5", "9" * 30])
def test_a_variable_that_is_no_time_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(ArgumentError, match=r"^SOURCE_DATE_EPOCH must be a number of seconds since 1970, got '"):
        ExportSettings("demo", tmp_path / "bundle")
