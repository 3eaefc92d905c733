"""Memory does not grow with the slide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from array_slide import ArraySlide, BrightPixels, discs, made_up_bundle
from breastseg_deploy.slide.run import Request, segment_slide
from breastseg_deploy.tiling import Grid

class Generated(ArraySlide):
    '''Black but for one corner of discs; no pixel of it is there before it is read.'''
    def __init__(self, side):
        super().__init__(discs((900, 900), 150), pixel_size_um=0.5)
        self.size_px = (side, side)
    def read_rgb(self, top, left, height, width):
        region = np.full((height, width, 3), 10, np.uint8)
        corner = self.rgb[top : top + height, left : left + width]
        region[: corner.shape[0], : corner.shape[1]] = corner
        return region
    def thumbnail(self, longest_px):
        factor = max(1, -(-max(self.size_px) // longest_px))
        small = np.full((-(-self.size_px[0] // factor),) * 2 + (3,), 10, np.uint8)
        corner = self.rgb[::factor, ::factor]
        small[: corner.shape[0], : corner.shape[1]] = corner
        return small, float(factor)

bundle = made_up_bundle(Path(sys.argv[2]) / "bundle", grid=Grid(1024, 256))
request = Request(Path(sys.argv[2]) / "out", write=("csv",))
result = segment_slide(Generated(int(sys.argv[1])), bundle, BrightPixels(), request)
assert result.certified and result.cells > 50, result.content
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mb(side: int, place: Path) -> int:
    """Peak resident memory of a run over a slide of that side, in MB."""
    place.mkdir()
    command = [sys.executable, "-c", RUN, str(side), str(place)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_slide_of_four_times_the_area_takes_no_more_memory(tmp_path: Path) -> None:
    small, large = peak_mb(8_000, tmp_path / "small"), peak_mb(16_000, tmp_path / "large")
    assert large < small + 40
