"""A network whose groups of layers are float32 or reduced by choice, tried on a few frames without doing work twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from breastseg_deploy.bundle import TENSOR
from breastseg_export.graph import LOGITS
from breastseg_export.precision.half import rounded_to_float16
from breastseg_export.precision.layers import Groups, described_values, groups, part
from breastseg_export.runners import session

Values = dict[str, NDArray[np.float32]]
Rounded = Callable[[ModelProto, Collection[str]], ModelProto]
"""A float32 network and the names of its islands, to the network with the rounding of another precision elsewhere."""


@dataclass(frozen=True)
class _Run:
    """Which groups were float32, in the order of the network, and what each of them made."""

    float32: tuple[bool, ...]
    made: list[Values]


class MixedNetwork:
    """A network cut into its groups, each ready in float32 and in a lower precision.

    What the groups made is kept of the first and of the last run on each frame: a run starts at the first group that
    differs from one of these. For a B7 at 512 x 512 that is 67 MB a run.

    Args:
        network: float32.
        necessary: nodes that are float32 in either case.
        tensors: of the frames, (1, 4, H, W) each.
        rounded: the lower precision.
    """

    def __init__(
        self,
        network: ModelProto,
        necessary: frozenset[str],
        tensors: Sequence[NDArray[np.float32]],
        rounded: Rounded = rounded_to_float16,
    ) -> None:
        self._necessary, self._tensors, self._rounded = necessary, tensors, rounded
        values = described_values(network)
        self._parts = {group.name: part(network, group.nodes, values) for group in groups(network)}
        self._sessions: dict[tuple[str, bool], Any] = {}
        self._runs: list[list[_Run]] = [[] for _ in tensors]

    def logits(self, frame: int, float32: Groups) -> NDArray[np.float32]:
        """Logits (H, W) of a frame, with these groups in float32 and the rest rounded."""
        kinds = tuple(name in float32 for name in self._parts)
        made = max((_made_alike(run, kinds) for run in self._runs[frame]), key=len, default=[])
        values = {TENSOR: self._tensors[frame]} | {name: value for some in made for name, value in some.items()}
        for name, kind in itertools.islice(zip(self._parts, kinds, strict=True), len(made), None):
            made.append(self._make(name, kind, values))
            values |= made[-1]
        self._runs[frame][1:] = [_Run(kinds, made)]
        return np.asarray(values[LOGITS][0, 0])

    def _make(self, name: str, float32: bool, values: Values) -> Values:
        """What a group makes of the values before it."""
        graph = self._parts[name].graph
        read, made = ([value.name for value in side] for side in (graph.input, graph.output))
        answers = self._session(name, float32).run(made, {value: values[value] for value in read})
        return dict(zip(made, answers, strict=True))

    def _session(self, name: str, float32: bool) -> Any:
        key = (name, float32)
        if key not in self._sessions:
            model = self._parts[name]
            if not float32:
                model = self._rounded(model, self._necessary)
            self._sessions[key] = session(model)
        return self._sessions[key]


def _made_alike(run: _Run, float32: tuple[bool, ...]) -> list[Values]:
    """What the groups of an earlier run made before the first that differs."""
    pairs = zip(run.float32, float32, run.made, strict=True)
    return [made for _, _, made in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
