"""What the pipeline's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from host_network import (
    HostNetwork,
    all_passed,
)

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.gpu.pipeline import GpuPipeline


@pytest.fixture
def pipeline(bundle: Bundle, network: HostNetwork, cupy_on_cpu: ModuleType) -> Iterator[GpuPipeline]:
    opened = GpuPipeline(bundle, lambda stream: network, all_passed)
    yield opened
    opened.close()
