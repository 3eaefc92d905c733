"""What the GPU pipeline needs of an engine, and the CUDA graph around it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from breastseg_deploy.errors import BackendError

_LOG = logging.getLogger("breastseg_deploy")


class BoundNetwork(Protocol):
    """A network that reads from one address and writes to another, for one batch size."""

    def enqueue(self) -> None:
        """Put one run on the stream the network was opened for; returns before it has run.

        Raises:
            BackendError: the engine refuses.
        """


class GpuNetwork(Protocol):
    """An engine loaded on the GPU: float32 tensor (N, 4, H, W) in, float32 logits (N, 1, H, W) out.

    Attributes:
        name: what computes, with its version, for messages.
        capturable: whether its runs may be captured in a CUDA graph.
    """

    name: str
    capturable: bool

    def bind(self, tensor_address: int, logits_address: int, batch: int) -> BoundNetwork:
        """Prepare runs from and to fixed addresses in device memory.

        Raises:
            BackendError: the engine cannot take that batch, or would write another shape.
        """


def launcher(name: str, bound: BoundNetwork, stream: Any, *, capture: bool) -> Callable[[], None]:
    """What puts one run of a bound network on its stream: a CUDA graph of it where that can be had.

    A network is hundreds of kernels, so launching them one by one can cost more than running them. The graph holds the
    network alone: the frame's address changes from call to call, and so the kernels before and after it stay outside.

    Args:
        name: of the network, for messages.
        bound: the network.
        stream: the CuPy stream it runs on.
        capture: False to enqueue every run.

    Raises:
        BackendError: the network does not run.
    """
    bound.enqueue()  # the first run after a new shape does work that cannot be captured
    stream.synchronize()
    if not capture:
        return bound.enqueue
    try:
        graph = _captured(bound, stream)
    except (BackendError, RuntimeError) as err:  # CuPy's CUDA errors are RuntimeErrors
        stream.synchronize()
        _LOG.warning(
            "%s: no CUDA graph of it can be made (%s); every frame enqueues it anew, which is slower", name, err
        )
        return bound.enqueue
    return _Graph(bound, graph, stream)


class _Graph:
    """A captured run. The graph knows addresses only, so the network that owns what lies there is kept beside it."""

    def __init__(self, bound: BoundNetwork, graph: Any, stream: Any) -> None:
        self._bound, self._graph, self._stream = bound, graph, stream

    def __call__(self) -> None:
        self._graph.launch(self._stream)


def _captured(bound: BoundNetwork, stream: Any) -> Any:
    stream.begin_capture()
    try:
        bound.enqueue()
    except BaseException:
        _abandon(stream)
        raise
    return stream.end_capture()


def _abandon(stream: Any) -> None:
    """End a capture that failed; the stream is of no use before."""
    try:
        stream.end_capture()
    except RuntimeError as err:  # the failure that matters is on its way already
        _LOG.debug("ending a failed capture: %s", err)
