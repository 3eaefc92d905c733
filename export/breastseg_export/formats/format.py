"""What a format is: one way in which an export writes the network, with all that anybody else must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import onnx
from pydantic import BaseModel

from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Artefact, ParityLimits, TensorSpec
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.progress import Progress
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import Compared, ParityRun
from breastseg_export.precision.islands import IslandSearch, SearchFrame, watched_frames
from breastseg_export.precision.layers import Groups
from breastseg_export.precision.ranges import Watch
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint

ATTEMPTS = 3
"""Sets of float32 islands that are held to all frames before an export gives up."""


@dataclass(frozen=True)
class Work:
    """What formats are made from.

    Attributes:
        settings: what was asked for.
        checkpoint: the reference.
        frames: what parity is measured on.
        network: float32, as `graph.export_network` makes it.
        machine: on which the export runs.
        say: told about the steps, in sentences.
        passed: artefacts that have passed, by role; empty until parity was measured.
    """

    settings: ExportSettings
    checkpoint: Checkpoint
    frames: NamedFrames
    network: onnx.ModelProto
    machine: Machine
    say: Callable[[str], None]
    passed: Mapping[str, PassedArtefact] = field(default_factory=dict)

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self.settings.size_px, self.settings.size_px

    @cached_property
    def watched(self) -> tuple[Watch, list[SearchFrame]]:
        """How far the layers reach on the parity frames, and those that are hardest for a lower precision.

        Raises:
            ParityError: a layer leaves the range of float32.
        """
        self.say(f"measuring the range of each layer on {self.frames.description}")
        watch = Watch(self.network)
        with Progress("ranges", len(self.frames), "frames") as progress:
            return watch, watched_frames(watch, self.frames, self.gabor, self.checkpoint.threshold, progress.update)

    @property
    def gabor(self) -> GaborParameters:
        """Of the edge channel."""
        return self.checkpoint.model.architecture.gabor


@dataclass(frozen=True)
class ArtefactNotes:
    """What a format says of its artefact once parity was measured.

    Attributes:
        details: for the backends that serve it; see `manifest.Artefact`.
        facts: label and text, for report and `breastseg inspect`.
        section: HTML for the report; empty for none.
        packages: distributions that made it, besides those of every export.
    """

    details: BaseModel | None = None
    facts: Sequence[tuple[str, str]] = ()
    section: str = ""
    packages: Sequence[str] = ()


@dataclass(frozen=True)
class Candidate:
    """An artefact before it is written.

    Attributes:
        role: see `manifest.Artefact`.
        files: content by name inside the bundle, the main one first.
        inputs, outputs: see `manifest.Artefact`.
        compared: ways to run it, each held to its limits; the first one's limits are the artefact's.
        notes: what to say of it, given its parity; raises a ParityError where something beside the masks is wrong.
        holds_goldens: whether goldens are held to their Dice at the export.
        larger: another attempt, after one that missed a limit; None where there is none left.
        advice: what to do where it alone misses a limit.
        shared: files of other artefacts that it is served from, the main one first.
    """

    role: str
    files: Mapping[str, Callable[[], bytes]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compared: tuple[Compared, ...] = ()
    notes: Callable[[ParityRun], ArtefactNotes] = lambda _: ArtefactNotes()
    holds_goldens: bool = False
    larger: Callable[[], Candidate | None] = lambda: None
    advice: str = ""
    shared: tuple[str, ...] = ()


def attempted(
    search: IslandSearch, groups: Groups, make: Callable[[Groups], Candidate], attempts: int = ATTEMPTS
) -> Candidate:
    """The artefact with these groups in float32; where it misses a limit, with the next larger set of them.

    Args:
        search: for the sets.
        groups: the first set.
        make: the artefact with a set of groups in float32.
        attempts: sets to try at most.
    """

    def larger() -> Candidate | None:
        more = search.larger(groups) if attempts > 1 else None
        return None if more is None else attempted(search, more, make, attempts - 1)

    return replace(make(groups), larger=larger)


@dataclass(frozen=True)
class PassedArtefact:
    """An artefact that has passed, with what is said of it."""

    candidate: Candidate
    notes: ArtefactNotes

    def entry(self, run: ParityRun) -> Artefact:
        """The artefact as the manifest states it."""
        limits: ParityLimits | None = self.candidate.compared[0].limits if self.candidate.compared else None
        details = self.notes.details
        return Artefact(
            role=self.candidate.role,
            files=(*self.candidate.shared, *self.candidate.files),
            inputs=self.candidate.inputs,
            outputs=self.candidate.outputs,
            limits=limits,
            parity=tuple(run.summaries[one.title] for one in self.candidate.compared),
            golden_dice=run.golden_dice(self.candidate.compared[0].title) if self.candidate.holds_goldens else (),
            facts=tuple(self.notes.facts),
            details={} if details is None else details.model_dump(mode="json"),
        )


class Format(Protocol):
    """A way to write the network. The exporter, the report and the manifest know formats by this alone.

    Attributes:
        after_parity: whether it is made of artefacts that have passed (`Work.passed`), and not compared itself.
    """

    after_parity: bool

    def check(self, frames: NamedFrames) -> None:
        """Refuse, before the long work, what cannot be made.

        Raises:
            BreastsegError: what is wrong, and what to do.
        """

    def make(self, work: Work) -> Candidate:
        """Make the artefact.

        Raises:
            BreastsegError: it cannot be made.
        """


FRAMES_SPEC = TensorSpec(name="frames", axes="NHWC", dtype="uint8")
TENSOR_SPEC = TensorSpec(name="tensor", axes="NCHW", dtype="float32")
LOGITS_SPEC = TensorSpec(name="logits", axes="NCHW", dtype="float32")
PROBABILITY_SPEC = TensorSpec(name="probability", axes="NCHW", dtype="float32")
