"""Failures on the GPU as errors of this project, told apart by whether the GPU can be used afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from breastseg_deploy.errors import BackendError, BreastsegError, ClosedError


class GpuGuard:
    """Watches over work on some streams.

    CUDA errors are of two kinds: some concern one call (no memory for it), others destroy the process's whole context
    (an illegal address, an uncorrectable memory error), after which every call fails until the process ends. Which it
    was is found by asking the streams, not by a list of error numbers: engines report failures without numbers.

    Attributes:
        dead: why the GPU cannot be used any more; None while it can.
    """

    def __init__(self, name: str, streams: Sequence[Any]) -> None:
        self.dead: str | None = None
        self._name = name
        self._streams = streams

    @contextmanager
    def watch(self, frames: int) -> Iterator[None]:
        """Run a block of GPU work; whatever ends it, nothing of it is still running afterwards.

        Args:
            frames: in the batch, for the message.

        Raises:
            BackendError: the block failed on the GPU.
            ClosedError: this block, or an earlier one, has made the GPU unusable.
            BreastsegError: as the block raised it.
        """
        if self.dead is not None:
            raise ClosedError(self.dead)
        try:
            yield
        except BreastsegError:
            self._settle()
            raise
        except MemoryError as err:
            self._settle()
            raise BackendError(
                f"{self._name} has not enough memory for {frames} frames at once ({one_line(err)}); this Segmenter "
                "stays usable: pass fewer frames, or free memory on the GPU"
            ) from err
        except Exception as err:  # CuPy's CUDA errors and the engines' own share no base class
            self._settle(err)
            raise BackendError(
                f"{self._name} failed on a batch of {frames} frames: {one_line(err)}; no mask is returned and this "
                "Segmenter stays usable: if it happens again, run `breastseg verify` on this bundle"
            ) from err
        except BaseException:  # Ctrl-C: the next call must not overwrite buffers that are still being read
            self._settle()
            raise

    def _settle(self, cause: Exception | None = None) -> None:
        """Wait until the streams are idle; an error that is still there then is there to stay."""
        try:
            for stream in self._streams:
                stream.synchronize()
        except Exception as err:  # whatever it is: the streams cannot be used
            first = one_line(cause or err)
            self.dead = (
                f"the GPU failed for good while {self._name} ran on it ({first}): this Segmenter is closed; "
                "end this process and start it again, and see the system's log where that does not help"
            )
            raise ClosedError(self.dead) from (cause or err)


def one_line(err: BaseException) -> str:
    """An error's text without line breaks, or its kind where it has none."""
    return " ".join(str(err).split()) or type(err).__name__
