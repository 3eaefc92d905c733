"""What the runtime gives back for one slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SlideResult:
    """The answer for one slide: files in a folder, and what `result.json` says.

    Attributes:
        folder: holds `result.json` and the files of `write`.
        content: of `result.json`.
        resumed: "" where this call did all of the work; "done" where it found the result finished; "resumed" where it
            went on from where an earlier one was interrupted.
    """

    folder: Path
    content: Mapping[str, Any]
    resumed: str = ""

    @property
    def certified(self) -> bool:
        """Whether the slide keeps to the limit that its bundle was certified for."""
        return bool(self.content["certificate"]["passed"])

    @property
    def cells(self) -> int:
        """How many cells were found."""
        return int(self.content["cells"]["count"])

    @property
    def summary(self) -> str:
        """One line for people."""
        held, skipped = self.content["certificate"], self.content["skipped"]["tiles"]
        verdict = "within" if self.certified else "OVER"
        return (
            f"{self.cells} cells, {skipped} of {self.content['tiles']} tiles skipped, {held['flipped_ppm']:.0f} ppm "
            f"flipped on a moved grid, {verdict} the limit of {held['limit_ppm']:.0f} ppm"
        )
