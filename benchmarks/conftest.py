"""What the benchmarks run on: the demo checkpoint, or a bundle and the checkpoint that it was exported from."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("breastseg benchmarks")
    group.addoption(
        "--benchmark-bundle", type=Path, metavar="BUNDLE", help="default: the demo checkpoint, exported here"
    )
    group.addoption(
        "--benchmark-checkpoint", default="demo", metavar="CHECKPOINT", help="what BUNDLE was exported from"
    )


@pytest.fixture(scope="session")
def checkpoint_name(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--benchmark-checkpoint"))


@pytest.fixture(scope="session")
def bundle(pytestconfig: pytest.Config, checkpoint_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from breastseg_export.exporter import ExportSettings, export_bundle

    given = pytestconfig.getoption("--benchmark-bundle")
    if given is not None:
        return Path(given)
    place = tmp_path_factory.mktemp("benchmark") / "bundle"
    export_bundle(ExportSettings(checkpoint_name, place, precision="fp32"))
    return place
