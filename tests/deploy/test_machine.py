"""What `doctor` finds here."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from breastseg_deploy.machine import capabilities


def test_backend_is_found_with_its_version() -> None:
    (backend,) = [found for found in capabilities() if found.kind == "backend"]
    assert backend.usable
    assert onnxruntime.__version__ in backend.detail


def test_names_are_distinct_and_kinds_known() -> None:
    found = capabilities()
    assert len({capability.name for capability in found}) == len(found)
    assert {capability.kind for capability in found} == {"machine", "library", "backend"}


def test_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (gpu,) = [found for found in capabilities() if found.name == "nvidia gpu"]
    assert not gpu.usable
    assert gpu.detail == "no NVIDIA driver on this machine (no nvidia-smi)"


def test_driver_tool_that_fails_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (gpu,) = [found for found in capabilities() if found.name == "nvidia gpu"]
    assert not gpu.usable
    assert "nvidia-smi failed" in gpu.detail
    assert "exit status 9" in gpu.detail
