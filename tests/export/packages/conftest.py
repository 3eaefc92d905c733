"""What the tests of packages share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from breastseg_export.packages.package import write_package
from breastseg_export.packages.registry import PACKAGES


@pytest.fixture(scope="module")
def packaged(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a package of the demo bundle for a consumer."""

    def make(consumer: str) -> Path:
        output = tmp_path_factory.mktemp(consumer) / "package"
        write_package(PACKAGES[consumer], demo_bundle, output)
        return output

    return make
