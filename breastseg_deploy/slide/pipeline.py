"""Tiles through a network: reading and preprocessing ahead of it, writing behind it, and never more than a few at once.

The network takes one tile at a time by all cores. Other threads prepare the next tiles while it runs and keep what it
has answered; both queues are short, so memory does not grow with the slide.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.tiles import TileNetwork, checked
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.progress import Progress
from breastseg_deploy.slide.source import SlideSource
from breastseg_deploy.slide.tile_input import tile_input
from breastseg_deploy.tiling import Tile

Keep = Callable[[Tile, NDArray[np.float32]], object]
"""Takes a tile and the probability (H, W) of its core."""

_AHEAD = 2
"""Tiles that are prepared for each thread, one under way and one waiting."""
_MOST_THREADS = 4
"""That prepare tiles, so that no more than eight wait in memory on many cores; more were not tried there."""


class StageSeconds:
    """Seconds by stage, added up over threads."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._turn = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """So many more."""
        with self._turn:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time of a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def rounded(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond."""
        with self._turn:
            return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}


class TilePipeline:
    """Answers the tiles of one slide.

    Args:
        slide: to read from.
        network: loaded.
        gabor: of the edge channel.
        threads: that prepare tiles, where there is work for so many.
        seconds: by stage.
    """

    def __init__(
        self,
        slide: SlideSource,
        network: TileNetwork,
        gabor: GaborParameters,
        threads: int,
        seconds: StageSeconds,
    ) -> None:
        self._slide, self._network, self._gabor = slide, network, gabor
        self._threads, self._seconds = min(threads, _MOST_THREADS), seconds

    def run(self, tiles: Sequence[Tile], keep: Keep, what: str) -> None:
        """Answer every tile, in order.

        Args:
            tiles: of any plan of the slide.
            keep: called for each, in order, by another thread.
            what: the step, for the progress.

        Raises:
            SlideError: a tile cannot be read.
            BackendError: the engine failed.
            OutputError: by `keep`.
        """
        started, pixels = time.perf_counter(), 0

        def rate() -> str:
            return f"{pixels / 1e6 / (time.perf_counter() - started):.2f} Mpx/s" if pixels else ""

        waiting = iter(tiles)
        ahead: deque[tuple[Tile, Future[NDArray[np.float32]]]] = deque()
        behind: deque[Future[object]] = deque()
        with (
            Progress(what, len(tiles), "tiles", note=rate) as progress,
            _pool(self._threads, "prepare") as readers,
            _pool(1, "keep") as writer,
        ):
            # Reading ahead and writing behind are bounded by the same loop: the slowest of the three sets the pace, and
            # no queue grows while another one waits.
            while True:
                while len(ahead) < _AHEAD * self._threads and (tile := next(waiting, None)) is not None:
                    ahead.append((tile, readers.submit(self.tensor, tile)))
                if not ahead:
                    break
                tile, prepared = ahead.popleft()
                probability = self._infer(tile, prepared.result())
                behind.append(writer.submit(self._kept, keep, tile, probability))
                # Asking for results is also what raises: a full disk ends the run here, not after the last tile.
                while len(behind) > _AHEAD:
                    behind.popleft().result()
                pixels += tile.core.area_px
                progress.update()
            for kept in behind:
                kept.result()

    def answer(self, tile: Tile) -> NDArray[np.float32]:
        """The probability of one core, here and now."""
        return self._infer(tile, self.tensor(tile))

    def tensor(self, tile: Tile) -> NDArray[np.float32]:
        """The network's input for one tile."""
        # Reading is timed apart, since it is the disk's; what remains of this call is preprocessing.
        reading = 0.0

        def read(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
            nonlocal reading
            started = time.perf_counter()
            rgb = self._slide.read_rgb(top, left, height, width)
            reading += time.perf_counter() - started
            return rgb

        started = time.perf_counter()
        tensor = tile_input(read, self._slide.size_px, tile.seen, self._gabor)
        self._seconds.add("read", reading)
        self._seconds.add("preprocess", time.perf_counter() - started - reading)
        return tensor

    def _infer(self, tile: Tile, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._seconds.of("network"):
            probability = checked(self._network, tensor)
        return np.ascontiguousarray(tile.kept(probability))

    def _kept(self, keep: Keep, tile: Tile, probability: NDArray[np.float32]) -> None:
        with self._seconds.of("keep"):
            keep(tile, probability)


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is dropped where the block ends by an error."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
