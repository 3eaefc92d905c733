"""Float32 islands: what must be one, and the search for the rest, on a small network whose projection overflows."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from onnx import ModelProto

from breastseg_deploy.artefacts import HalfPrecision, details_of
from breastseg_deploy.bundle import FP16
from breastseg_deploy.errors import ParityError
from breastseg_deploy.manifest import Manifest, Parity
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_export.graph import export_network
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import FP16_LIMITS, Compared, check, compare
from breastseg_export.precision.half import explicitly_rounded, half_network
from breastseg_export.precision.islands import SEARCH_FRAMES, IslandSearch, SearchFrame, halved, watched_frames
from breastseg_export.precision.layers import Groups, groups, layer_of
from breastseg_export.precision.mixed import MixedNetwork, Values
from breastseg_export.precision.ranges import SAFE_MAGNITUDE, Ranges, Watch, necessary_islands
from breastseg_export.runners import network_in_onnxruntime, reference, session
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel

SIZE = (64, 64)
GROUPS = [
    "projection",
    "stem",
    *(f"encoder stage {number}" for number in (1, 2, 3, 4)),
    *(f"decoder x_*_{number}" for number in range(5)),
    "head",
]


@dataclass(frozen=True)
class Overflowing:
    """A network whose projection reaches a million: harmless in float32, where the first batch norm takes it back."""

    model: SegmentationModel
    network: ModelProto
    watch: Watch
    frames: list[SearchFrame]
    necessary: Mapping[str, str]

    def layers(self, reason: str) -> set[str]:
        nodes = {node.name: node for node in self.network.graph.node}
        return {layer_of(nodes[name]) for name, why in self.necessary.items() if why == reason}


@pytest.fixture(scope="module")
def overflowing() -> Overflowing:
    torch.manual_seed(0)
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    with torch.no_grad():
        model.projection[3].weight *= 1e6
        model.unet.encoder.bn1.running_var.fill_(1e12)
    network = export_network(model, SIZE)
    watch = Watch(network)
    frames = watched_frames(watch, NamedFrames(None, SIZE), GaborParameters(), 0.5)
    return Overflowing(model, network, watch, frames, necessary_islands(network, watch.ranges))


def searching(overflowing: Overflowing) -> IslandSearch:
    return IslandSearch(overflowing.network, overflowing.necessary, overflowing.frames, 0.5, FP16_LIMITS)


def parity_with(overflowing: Overflowing, islands: Collection[str]) -> dict[str, Parity]:
    model, half = overflowing.model, half_network(overflowing.network, islands)
    limits = FP16_LIMITS.model_copy(update={"mean_dice": 0.99})  # random weights leave every pixel near the threshold
    artefact = Compared("file", "ONNX Runtime", network_in_onnxruntime(half, model.architecture.gabor), limits)
    return compare(reference(model), [artefact], NamedFrames(None, SIZE), 0.5).summaries


class Scripted(IslandSearch):
    """A search whose trials are not run: each group that is missing costs as much of the mean Dice as it is told."""

    def cost(self, **costs: float) -> Scripted:
        self._costs = {name.replace("_", " "): cost for name, cost in costs.items()}
        return self

    def _parity(self, groups: Groups) -> Parity:
        lost = sum(cost for name, cost in self._costs.items() if name not in groups)
        (figures,) = compare(
            lambda frame: np.ones(SIZE, np.float32),
            [Compared("n", "trial", lambda frame: np.ones(SIZE, np.float32), FP16_LIMITS)],
            NamedFrames(None, SIZE),
            0.5,
        ).summaries.values()
        dice = {"mean_dice": 1 - lost, "mean_dice_with_cells": 1 - lost, "worst_dice": 1 - lost}
        return figures.model_copy(update=dice)


@pytest.fixture
def scripted(overflowing: Overflowing) -> Scripted:
    return Scripted(overflowing.network, (), overflowing.frames, 0.5, FP16_LIMITS)


def test_groups_hold_every_node_once_in_the_order_of_the_network(overflowing: Overflowing) -> None:
    found = groups(overflowing.network)
    assert [group.name for group in found] == GROUPS
    names = [node.name for group in found for node in group.nodes]
    assert sorted(names) == sorted(node.name for node in overflowing.network.graph.node)


def test_a_mixed_network_is_the_float32_network_where_all_its_groups_are(overflowing: Overflowing) -> None:
    tensor = overflowing.frames[0].tensor
    expected = session(overflowing.network).run(["logits"], {"tensor": tensor})[0][0, 0]
    mixed = MixedNetwork(overflowing.network, frozenset(), [tensor])
    np.testing.assert_allclose(mixed.logits(0, frozenset(GROUPS)), expected, rtol=1e-3, atol=1e-5)


def test_a_mixed_network_rounds_as_the_file_would_that_is_made_of_the_same_islands(overflowing: Overflowing) -> None:
    tensor = overflowing.frames[0].tensor
    search, chosen = searching(overflowing), Groups(["stem", "decoder x_*_2"])
    file = half_network(overflowing.network, search.islands(chosen))
    expected = session(explicitly_rounded(file)).run(["logits"], {"tensor": tensor})[0][0, 0]
    full = session(overflowing.network).run(["logits"], {"tensor": tensor})[0][0, 0]
    found = MixedNetwork(overflowing.network, frozenset(overflowing.necessary), [tensor]).logits(0, chosen)
    assert np.abs(found - expected).mean() < 0.3 * np.abs(expected - full).mean()


def test_a_mixed_network_computes_a_group_again_only_where_it_or_one_before_it_changed(
    overflowing: Overflowing,
) -> None:
    class Telling(MixedNetwork):
        def _make(self, name: str, float32: bool, values: Values) -> Values:
            computed.append(name)
            return super()._make(name, float32, values)

    computed: list[str] = []
    mixed = Telling(overflowing.network, frozenset(), [overflowing.frames[0].tensor])
    for chosen, expected in (
        (Groups(), GROUPS),
        (Groups(["decoder x_*_3"]), GROUPS[-3:]),
        (Groups(["stem"]), GROUPS[1:]),
        (Groups(["stem", "head"]), GROUPS[-1:]),  # the last run
        (Groups(["decoder x_*_4"]), GROUPS[-2:]),  # the first run
    ):
        computed.clear()
        mixed.logits(0, chosen)
        assert computed == expected


def test_what_a_mixed_network_keeps_changes_no_answer_and_is_not_shared_between_frames(
    overflowing: Overflowing,
) -> None:
    tensors = [frame.tensor for frame in overflowing.frames[:2]]
    kept = MixedNetwork(overflowing.network, frozenset(), tensors)
    for chosen in (Groups(), Groups(["stem"]), Groups(["stem", "head"]), Groups(["decoder x_*_1"])):
        for number, tensor in enumerate(tensors):
            fresh = MixedNetwork(overflowing.network, frozenset(), [tensor]).logits(0, chosen)
            np.testing.assert_array_equal(kept.logits(number, chosen), fresh)


def test_watched_ranges_are_those_of_the_float32_network(overflowing: Overflowing) -> None:
    largest = overflowing.watch.by_layer()
    assert next(iter(largest)) == "projection.3"
    assert largest["projection.3"] > 65504
    assert list(largest.values()) == sorted(largest.values(), reverse=True)


def test_layers_that_overflow_and_their_readers_must_be_islands(overflowing: Overflowing) -> None:
    """The folded batch norm gives the convolution that reads the projection its name."""
    over = overflowing.layers(f"values over {SAFE_MAGNITUDE:.0f}")
    assert over == {"projection.3", "unet.encoder.bn1"}


def test_a_pool_over_more_values_than_float16_can_count_must_be_an_island(overflowing: Overflowing) -> None:
    """SCSE at the full 64 x 64; at 32 x 32 and below float16 can count."""
    reasons = necessary_islands(overflowing.network, Ranges())
    layers = [layer_of(node) for node in overflowing.network.graph.node if "planes" in reasons.get(node.name, "")]
    assert layers == ["unet.decoder.blocks.x_0_4.attention2.attention.cSE.0"]


def test_a_pool_whose_plane_sum_overflows_must_be_an_island(overflowing: Overflowing) -> None:
    pools = [node.name for node in overflowing.network.graph.node if node.op_type == "ReduceMean"]
    ranges = Ranges({}, dict.fromkeys(pools[:2], SAFE_MAGNITUDE * 1.01) | dict.fromkeys(pools[2:], SAFE_MAGNITUDE))
    reasons = necessary_islands(overflowing.network, ranges)
    assert [name for name in pools if reasons.get(name) == f"plane sums over {SAFE_MAGNITUDE:.0f}"] == pools[:2]


def test_a_value_within_the_safe_range_makes_no_island(overflowing: Overflowing) -> None:
    tame = Ranges(dict.fromkeys(overflowing.watch.ranges.largest, SAFE_MAGNITUDE), {})
    reasons = set(necessary_islands(overflowing.network, tame).values())
    assert reasons == {"weights over 65504", "planes of over 2048 values"}  # the projection's weights are a million


def test_the_islands_of_an_overflow_give_the_float16_file_the_right_masks(overflowing: Overflowing) -> None:
    check(parity_with(overflowing, list(overflowing.necessary)))


def test_without_its_islands_an_overflow_is_refused(overflowing: Overflowing) -> None:
    with pytest.raises(ParityError, match=r"file in ONNX Runtime: worst frame Dice 0\.0"):
        check(parity_with(overflowing, ()))


def test_search_frames_are_the_hardest_and_two_of_them_hold_cells(overflowing: Overflowing) -> None:
    assert len(overflowing.frames) == SEARCH_FRAMES
    assert sum(frame.with_cells for frame in overflowing.frames) >= 2


def test_hardness_is_the_dice_that_pixels_near_the_threshold_can_cost(overflowing: Overflowing) -> None:
    frame = overflowing.frames[0]

    def hardness(*probabilities: float) -> float:
        return SearchFrame(frame.named, frame.tensor, np.array([probabilities], np.float32), 0.5).hardness

    assert hardness(0.0, 1.0) == hardness(0.0, 0.0) == 0
    assert hardness(0.9, 0.9, 0.5) == pytest.approx(1 / (2 * 3 + 1))
    assert hardness(0.9, 0.475) == pytest.approx(0.5 / (2 + 0.5), rel=1e-4)
    assert hardness(0.475, 0.0) == 1


def test_no_group_becomes_float32_where_none_is_needed(scripted: Scripted) -> None:
    assert scripted.cost(head=0.0004).smallest() == Groups()
    assert [trial.groups for trial in scripted.trials] == [()]


def test_the_one_group_that_suffices_with_the_least_work_is_taken(scripted: Scripted) -> None:
    class Either(Scripted):
        def _parity(self, groups: Groups) -> Parity:
            enough = {"encoder stage 4", "stem"} & groups
            return super()._parity(groups | {"nowhere"} if enough else groups)

    scripted.__class__ = Either
    assert scripted.cost(nowhere=0.002).smallest() == {"stem"}


def test_groups_that_suffice_together_are_found_without_those_that_are_not_needed(scripted: Scripted) -> None:
    """Alone the stem helps most, so it is tried first of all together; beside the other two it does nothing."""

    class StemHelpsAlone(Scripted):
        def _parity(self, groups: Groups) -> Parity:
            return super()._parity(groups | {"head", "more"} if groups == {"stem"} else groups)

    scripted.__class__ = StemHelpsAlone
    scripted.cost(head=0.0020, projection=0.0012, more=0.0003)
    assert scripted.smallest() == {"head", "projection"}
    assert ("projection", "stem", "head") in [trial.groups for trial in scripted.trials]


def test_a_search_that_reaches_its_limits_but_not_half_of_them_takes_the_least_work_that_does(
    scripted: Scripted,
) -> None:
    found = scripted.cost(head=0.0006, nowhere=0.0008).smallest()
    assert found == {"head"}


def test_the_next_larger_set_has_the_best_of_the_other_groups(scripted: Scripted) -> None:
    scripted.cost(head=0.0002, stem=0.0001)
    assert scripted.larger(Groups()) == {"head"}
    assert scripted.larger(Groups(["head"])) == {"head", "stem"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def bars(self) -> dict[str, tuple[int, int]]:
        """What the last bar of each step says: done, total."""
        found = re.findall(r"trying float32 islands, ([a-z ]+): +\d+%\|[^|]*\| (\d+)/(\d+)", self.getvalue())
        return {step: (int(done), int(total)) for step, done, total in found}


def test_a_search_says_how_far_it_is_in_each_of_its_steps(scripted: Scripted) -> None:
    scripted.cost(head=0.0020, projection=0.0012)
    with redirect_stderr(Terminal()) as terminal:
        assert scripted.smallest() == {"head", "projection"}
    alone = sum(len(trial.groups) == 1 for trial in scripted.trials)
    assert terminal.bars() == {
        "each alone": (alone, alone),
        "the best together": (1, alone),  # the second group is under way when the set is found
        "leaving out one by one": (2, 2),
    }


def test_the_first_trial_which_loads_the_network_is_counted_by_frames(overflowing: Overflowing) -> None:
    with redirect_stderr(Terminal()) as terminal:
        searching(overflowing).smallest()
    assert terminal.bars()["none"] == (SEARCH_FRAMES, SEARCH_FRAMES)


def test_looking_for_a_larger_set_says_how_far_it_is(scripted: Scripted) -> None:
    with redirect_stderr(Terminal()) as terminal:
        scripted.cost(head=0.0002).larger(Groups())
    (done, total) = terminal.bars()["each alone"]
    assert done == total > 5


def test_the_target_is_half_of_the_allowed_error() -> None:
    limits = halved(FP16_LIMITS)
    assert (limits.worst_dice, limits.mean_dice) == pytest.approx((0.995, 0.9995))
    assert limits.dice_change == FP16_LIMITS.dice_change


def test_the_bundle_says_what_is_float32_and_why(demo_manifest: Manifest) -> None:
    (half,) = details_of(demo_manifest, FP16, HalfPrecision)
    assert half is not None
    assert half.search[-1].accepted
    assert half.groups in [trial.groups for trial in half.search]
    assert len(half.search_frames) == SEARCH_FRAMES
    assert len(half.activations) == 20 < half.layers
    assert half.activations[half.largest_activation_layer] == half.largest_activation == max(half.activations.values())
    assert sum(half.necessary.values()) <= len(half.fp32_islands)
