"""A network whose groups of layers are float32 or float16 by choice, without converting anything again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from breastseg_deploy.bundle import TENSOR
from breastseg_export.graph import LOGITS
from breastseg_export.precision.half import explicitly_rounded, half_network
from breastseg_export.precision.layers import Groups, described_values, groups, part
from breastseg_export.runners import session


class MixedNetwork:
    """A network cut into its groups, each ready in float32 and in float16: sets are tried with nothing converted again.

    Args:
        network: float32.
        necessary: nodes that are float32 in either case.
    """

    def __init__(self, network: ModelProto, necessary: frozenset[str]) -> None:
        self._necessary = necessary
        values = described_values(network)
        self._parts = {group.name: part(network, group.nodes, values) for group in groups(network)}
        self._sessions: dict[tuple[str, bool], Any] = {}

    def logits(self, tensor: NDArray[np.float32], float32: Groups) -> NDArray[np.float32]:
        """(1, 4, H, W) to logits (H, W), with these groups in float32 and the rest rounded as float16 would."""
        values: dict[str, NDArray[np.float32]] = {TENSOR: tensor}
        for name, model in self._parts.items():
            read, made = ([value.name for value in side] for side in (model.graph.input, model.graph.output))
            answers = self._session(name, name in float32).run(made, {value: values[value] for value in read})
            values |= dict(zip(made, answers, strict=True))
        return np.asarray(values[LOGITS][0, 0])

    def _session(self, name: str, float32: bool) -> Any:
        key = (name, float32)
        if key not in self._sessions:
            model = self._parts[name]
            if not float32:
                model = explicitly_rounded(half_network(model, self._necessary))
            self._sessions[key] = session(model, keeps_memory=False)
        return self._sessions[key]
