"""A tiny data set on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from discs import disc_frame, write_frame


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Frames this small are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Splits train (4 frames), val (3) and test (3); every third frame is empty."""
    root = tmp_path / "data"
    for first_seed, (split, count) in enumerate({"train": 4, "val": 3, "test": 3}.items()):
        for i in range(count):
            frame, mask = disc_frame(100 * first_seed + i, cells=0 if i % 3 == 2 else 3)
            write_frame(root, split, f"{split}-{i}", frame, mask)
    return root
