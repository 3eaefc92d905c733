"""Which nodes of a network of less precision stay in float32: found by trying, with the steps written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from breastseg_deploy.artefacts import HalfPrecision, IslandTrial
from breastseg_deploy.manifest import Parity, ParityLimits
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import followed
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.parity import failures, frame_parity, summary
from breastseg_export.precision.half import rounded_to_float16
from breastseg_export.precision.layers import Groups, described_values, groups, multiply_adds
from breastseg_export.precision.mixed import MixedNetwork, Rounded
from breastseg_export.precision.ranges import Watch
from breastseg_export.runners import Probability, probability

SEARCH_FRAMES = 3
"""Frames that every set is tried on: the hardest of the parity frames, two of them with cells."""

LARGEST_SHARE = 0.5
"""Of the network's multiply-adds in float32: beyond that, the lower precision is not worth its name."""

_NEAR = 0.05
"""A pixel whose probability is closer to the threshold than this makes its frame harder."""

_LAYERS_NAMED = 20
"""Layers of which the manifest says how far they reached."""

_STEP = "trying float32 islands, "
"""Before what is tried, in what is said of the search's progress."""


@dataclass(frozen=True)
class SearchFrame:
    """A frame that sets are tried on: tensor (1, 4, H, W), and the probability (H, W) of the float32 network."""

    named: NamedFrame
    tensor: NDArray[np.float32]
    expected: Probability
    threshold: float

    @property
    def with_cells(self) -> bool:
        """Whether the float32 network finds any."""
        return bool((self.expected >= self.threshold).any())

    @property
    def hardness(self) -> float:
        """The Dice that is lost if the pixels near the threshold flip, each counted by how near it is; 0 to 1."""
        near = float(np.clip(1 - np.abs(self.expected - self.threshold) / _NEAR, 0, 1).sum())
        return near / (2 * float((self.expected >= self.threshold).sum()) + near) if near else 0.0


def watched_frames(
    watch: Watch,
    frames: NamedFrames,
    gabor: GaborParameters,
    threshold: float,
    on_frame: Callable[[], object] = lambda: None,
) -> list[SearchFrame]:
    """Run the float32 network over all frames, so that `watch` knows its ranges, and keep the hardest frames.

    A frame is hard when many pixels lie near the threshold for the size of its mask: they are what rounding flips, and
    the Dice that it can cost.

    Args:
        watch: the network.
        frames: to choose from.
        gabor: of the edge channel.
        threshold: of the masks.
        on_frame: called after each frame, for a progress bar.

    Returns:
        At most `SEARCH_FRAMES`, the hardest first, at least two of them with cells where there are as many.

    Raises:
        ParityError: a layer leaves the range of float32.
    """
    kept: list[SearchFrame] = []
    for one in frames:
        tensor = network_input(one.frame[np.newaxis], gabor)
        expected = probability(watch.logits(tensor))
        kept.append(SearchFrame(one, tensor, expected, threshold))
        # Sorted and cut at every frame: tensors of a whole data set would not fit into memory.
        kept.sort(key=lambda frame: -frame.hardness)
        with_cells = [frame for frame in kept if frame.with_cells][: SEARCH_FRAMES - 1]
        others = [frame for frame in kept if not any(frame is other for other in with_cells)]
        kept = [*with_cells, *others[: SEARCH_FRAMES - len(with_cells)]]
        on_frame()
    return kept


class IslandSearch:
    """Tries sets of groups in float32, beside the islands that must be, and says how far it is.

    Args:
        network: float32, as `graph.export_network` makes it.
        necessary: nodes that compute in float32 in every trial (`ranges.necessary_islands`).
        frames: to try on.
        threshold: of the masks.
        limits: of the reduced network; a set is found when it keeps to half of the error that they allow, because
            frames that were not tried may be worse.
        rounded: the precision of all that is no island.
    """

    def __init__(
        self,
        network: ModelProto,
        necessary: Iterable[str],
        frames: Sequence[SearchFrame],
        threshold: float,
        limits: ParityLimits,
        rounded: Rounded = rounded_to_float16,
    ) -> None:
        self._necessary = frozenset(necessary)
        self._frames, self._threshold = frames, threshold
        self._limits, self._target = limits, halved(limits)
        self._mixed = MixedNetwork(network, self._necessary, [frame.tensor for frame in frames], rounded)
        self._nodes = {group.name: group.node_names for group in groups(network)}
        self._work = multiply_adds(network, described_values(network))
        self._names = [node.name for node in network.graph.node]
        self._tried: dict[Groups, tuple[IslandTrial, bool]] = {}
        self._order: list[str] = []

    @property
    def trials(self) -> tuple[IslandTrial, ...]:
        """What was tried, in that order."""
        return tuple(trial for trial, _ in self._tried.values())

    @property
    def frame_names(self) -> tuple[str, ...]:
        """What it was tried on."""
        return tuple(frame.named.name for frame in self._frames)

    def smallest(self) -> Groups:
        """The set with the least work in float32 that keeps to half of the allowed error on all frames tried.

        No group at all is tried first, then each alone, the one with the least work first; then the best ones together,
        less those that turn out not to be needed. Where nothing up to `LARGEST_SHARE` suffices, the set with the least
        work that meets the limits themselves, or else the best of all: parity on all frames has the last word.
        """
        # Each trial runs the network on all search frames: the order is chosen so that the usual answers come early.
        nothing = Groups()
        if self._meets(nothing):
            return nothing
        for name in followed(self._candidates(), f"{_STEP}each alone", "groups at most"):
            if self._meets(Groups([name])):
                return Groups([name])
        # What helps most alone is the best guess of what helps together; trying all sets would take for ever.
        found = nothing
        for name in followed(self._by_benefit(), f"{_STEP}the best together", "groups at most"):
            if self.share(found | {name}) <= LARGEST_SHARE:
                found |= {name}
                if self._meets(found):
                    break
        if self._meets(found):
            return self._without_idlers(found)
        passing = [groups for groups, (_, within) in self._tried.items() if within]
        if passing:
            return min(passing, key=self.share)
        return max(self._tried, key=lambda groups: self._tried[groups][0].mean_dice)

    def larger(self, groups: Groups) -> Groups | None:
        """The set with the next best group added, or None where that would be too much."""
        for name in self._by_benefit():
            if name not in groups and self.share(groups | {name}) <= LARGEST_SHARE:
                self._try(groups | {name})  # for the record
                return groups | {name}
        return None

    def islands(self, groups: Groups) -> tuple[str, ...]:
        """Names of the nodes in float32, in the order of the graph."""
        chosen = self._necessary.union(*(self._nodes[name] for name in groups))
        return tuple(name for name in self._names if name in chosen)

    def in_order(self, groups: Groups) -> tuple[str, ...]:
        """Names of groups, in the order of the network."""
        return tuple(name for name in self._nodes if name in groups)

    def share(self, groups: Groups) -> float:
        """Of the network's multiply-adds that are in float32."""
        return sum(self._work.get(name, 0) for name in self.islands(groups)) / max(sum(self._work.values()), 1)

    def _meets(self, groups: Groups) -> bool:
        return self._try(groups).accepted

    def _candidates(self) -> list[str]:
        """Groups that may become float32, the one with the least work first."""
        shares = {name: self.share(Groups([name])) for name in self._nodes}
        return sorted((name for name in shares if shares[name] <= LARGEST_SHARE), key=lambda name: shares[name])

    def _by_benefit(self) -> list[str]:
        """Groups, the one first that alone brings the masks closest."""

        def distance(name: str) -> tuple[float, float]:
            trial = self._try(Groups([name]))
            return 1 - trial.mean_dice, trial.largest_probability_error

        # None is left in `smallest`; some are in a `larger` after a set that was found early.
        untried = [name for name in self._candidates() if Groups([name]) not in self._tried]
        for name in followed(untried, f"{_STEP}each alone", "groups"):
            self._try(Groups([name]))
        return sorted(self._candidates(), key=distance)

    def _without_idlers(self, groups: Groups) -> Groups:
        """The set without groups that it does without, those with the most work first."""
        # The most expensive group that is not needed saves the most; the name settles ties, so a search repeats itself.
        most_work_first = sorted(groups, key=lambda name: (-self.share(Groups([name])), name))
        for name in followed(most_work_first, f"{_STEP}leaving out one by one", "groups"):
            if self._meets(groups - {name}):
                groups -= {name}
        return groups

    def _try(self, groups: Groups) -> IslandTrial:
        if groups not in self._tried:
            parity = self._parity(groups)
            trial = IslandTrial(
                groups=self.in_order(groups),
                float32_share=self.share(groups),
                worst_dice=parity.worst_dice,
                mean_dice=parity.mean_dice,
                largest_probability_error=parity.largest_probability_error,
                accepted=_keeps(parity, self._target),
            )
            self._tried[groups] = trial, _keeps(parity, self._limits)
        return self._tried[groups][0]

    def _parity(self, groups: Groups) -> Parity:
        figures = []
        # The first trial also makes the sessions of all groups; those after it are counted themselves.
        frames = self._frames if self._tried else followed(self._frames, f"{_STEP}none", "frames")
        for number, frame in enumerate(frames):
            found = probability(self._mixed.logits(number, groups))
            figures.append(frame_parity(frame.named, frame.expected, found, self._threshold))
        return summary("trial", self._limits, figures)


def described(search: IslandSearch, groups: Groups, watch: Watch, necessary: Mapping[str, str]) -> HalfPrecision:
    """What the manifest says of the float16 network.

    Args:
        search: that found the groups.
        groups: that are float32.
        watch: what was measured.
        necessary: nodes that must be float32, each with its reason.
    """
    layers = watch.by_layer()
    furthest = dict(list(layers.items())[:_LAYERS_NAMED])
    layer, largest = next(iter(furthest.items()))
    return HalfPrecision(
        fp32_islands=search.islands(groups),
        largest_activation=largest,
        largest_activation_layer=layer,
        layers=len(layers),
        activations=furthest,
        necessary=dict(Counter(necessary.values())),
        groups=search.in_order(groups),
        search=search.trials,
        search_frames=search.frame_names,
    )


def halved(limits: ParityLimits) -> ParityLimits:
    """Limits that allow half of the error in Dice."""
    return limits.model_copy(
        update={"worst_dice": (1 + limits.worst_dice) / 2, "mean_dice": (1 + limits.mean_dice) / 2}
    )


def _keeps(parity: Parity, limits: ParityLimits) -> bool:
    return not failures({"": parity.model_copy(update={"limits": limits})})
