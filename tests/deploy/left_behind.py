"""What a write has left in a folder."""

from __future__ import annotations

from pathlib import Path


def names(folder: Path) -> set[str]:
    """Everything in a folder, hidden leftovers included."""
    return {path.name for path in folder.iterdir()}
