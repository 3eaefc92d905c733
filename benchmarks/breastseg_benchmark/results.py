"""What a benchmark found, as one JSON document. Whatever was not run says why; nothing stands in for a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from breastseg_deploy.metrics import dice

Kind = Literal["backend", "paper", "peer"]
"""Of what is measured: a backend of the runtime, the paper's pipeline or a peer."""

Mask = NDArray[np.uint8]
"""(H, W), any non-zero value foreground."""


class Part(BaseModel):
    """A part of the document: frozen, every field known, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Distribution(Part):
    """Seconds of repeated calls.

    Attributes:
        seconds: as measured, in order.
        p50_s, p95_s, p99_s: percentiles, linear between the samples; with fewer than 100 samples the 99th says little
            more than the largest.
    """

    seconds: tuple[float, ...] = Field(min_length=1)
    p50_s: float = Field(gt=0)
    p95_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution:
        """The distribution of at least one sample."""
        p50, p95, p99 = (float(p) for p in np.percentile(seconds, (50, 95, 99)))
        return cls(seconds=tuple(seconds), p50_s=p50, p95_s=p95, p99_s=p99)


class Ratio(Part):
    """How many times as long one took as another: over pairs that were measured in turn."""

    median: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    pairs: int = Field(ge=1)

    @classmethod
    def of(cls, seconds: Sequence[float], other: Sequence[float]) -> Ratio:
        """Of `seconds` to `other`, pair by pair."""
        ratios = sorted(a / b for a, b in zip(seconds, other, strict=True))
        return cls(median=float(np.median(ratios)), low=ratios[0], high=ratios[-1], pairs=len(ratios))


class Agreement(Part):
    """Mask Dice against a reference. Two empty masks count as 1, so frames with cells stand apart.

    Attributes:
        frames, frames_with_cells: compared; of these, those whose reference holds cells.
        mean_dice, worst_dice: over all of them.
        mean_dice_with_cells, worst_dice_with_cells: None where no reference holds cells.
        mean_dice_without_cells: None where every reference holds cells.
    """

    frames: int = Field(ge=1)
    frames_with_cells: int = Field(ge=0)
    mean_dice: float
    worst_dice: float
    mean_dice_with_cells: float | None
    worst_dice_with_cells: float | None
    mean_dice_without_cells: float | None

    @classmethod
    def of(cls, masks: Sequence[Mask], references: Sequence[Mask | None]) -> Agreement | None:
        """Dice of each mask that has a reference; None where no mask has one.

        Args:
            masks: one for each frame.
            references: as many; None where there is nothing to compare with.
        """
        pairs = [(mask, known) for mask, known in zip(masks, references, strict=True) if known is not None]
        if not pairs:
            return None
        with_cells = [dice(mask, known) for mask, known in pairs if known.any()]
        without = [dice(mask, known) for mask, known in pairs if not known.any()]
        return cls(
            frames=len(pairs),
            frames_with_cells=len(with_cells),
            mean_dice=float(np.mean(with_cells + without)),
            worst_dice=min(with_cells + without),
            mean_dice_with_cells=float(np.mean(with_cells)) if with_cells else None,
            worst_dice_with_cells=min(with_cells, default=None),
            mean_dice_without_cells=float(np.mean(without)) if without else None,
        )


class Memory(Part):
    """What one implementation took in a process of its own, everything that it loaded included.

    In a row it was alone: its process had ended before another began.

    Attributes:
        resident_peak_bytes: the most that lay in the host's memory; None where the system does not say.
        gpu_process_bytes: what the whole process held of the GPU after its calls, by its driver, since allocators keep
            what they took; None where it computes on no GPU.
        gpu_method: how that was found.
        allocators_bytes: what the libraries' own allocators held of the GPU, by library; contained in the above.
    """

    resident_peak_bytes: int | None
    gpu_process_bytes: int | None = None
    gpu_method: str | None = None
    allocators_bytes: dict[str, int] = {}


class Row(Part):
    """One implementation: a backend of the runtime, the paper's pipeline or a peer.

    Attributes:
        name: of the implementation.
        kind: which of these it is.
        on_gpu: whether it computes on a GPU.
        by_name_only: whether the runtime never chooses it by itself, because its masks are not those in float32.
        not_run: why there are no figures; None where there are.
        detail: what it ran with, in words.
        open_s: from the start of loading until the first frame could be taken: compiling and building included.
        first_frame_s: the first frame after that.
        latency: frame by frame, host uint8 to host mask.
        stages_s: medians of its own stages; on a GPU those of the device by CUDA events.
        agreement: with the float32 reference.
        truth: with the ground truth, over the frames that have one.
        memory: of its process while it was alone.
        ratio_to_paper: its time over that of the paper's pipeline.
        ratio_to_runtime: its time over that of the runtime.
    """

    name: str
    kind: Kind
    on_gpu: bool = False
    by_name_only: bool = False
    not_run: str | None = None
    detail: str = ""
    open_s: float | None = None
    first_frame_s: float | None = None
    latency: Distribution | None = None
    stages_s: dict[str, float] = {}
    agreement: Agreement | None = None
    truth: Agreement | None = None
    memory: Memory | None = None
    ratio_to_paper: Ratio | None = None
    ratio_to_runtime: Ratio | None = None


class BatchPoint(Part):
    """Calls with `batch` frames at once; `resident_peak_bytes` is the most since the call before."""

    batch: int = Field(ge=1)
    latency: Distribution
    resident_peak_bytes: int | None


class SizePoint(Part):
    """The same checkpoint exported for another frame size, in a process of its own."""

    size_px: tuple[int, int]
    latency: Distribution
    resident_peak_bytes: int | None


class MemoryGrowth(Part):
    """Resident memory while one process segments frame after frame.

    Attributes:
        frames: how many.
        resident_bytes: at equal distances, the first before the first frame.
        growth_bytes: see `growth.growth_bytes`.
    """

    frames: int = Field(ge=1)
    resident_bytes: tuple[int, ...]
    growth_bytes: int


class Growth(Part):
    """How time and memory of one backend grow; what was not asked for is empty or None, `not_run` says
    what failed."""

    backend: str
    not_run: str | None = None
    batches: tuple[BatchPoint, ...] = ()
    sizes: tuple[SizePoint, ...] = ()
    memory: MemoryGrowth | None = None


class KindOfLayer(Part):
    """All layers of one kind in one precision, as a network was compiled.

    Attributes:
        kind: "3 x 3 convolution", another operation with multiplications, or the engine's own word for what has none.
        precision: what they multiply in; empty for layers without multiplications.
        layers: how many.
        time_share, work_share: of the time of all layers, and of all multiplications; 0 to 1.
        gops: 10^9 operations a second, two for each multiplication; None without any.
        of_peak: the same over the peak of their precision.
    """

    kind: str
    precision: str
    layers: int = Field(ge=1)
    time_share: float = Field(ge=0, le=1)
    work_share: float = Field(ge=0, le=1)
    gops: float | None = None
    of_peak: float | None = None


class Profile(Part):
    """Where the time of a backend's network goes, by the engine's own counters.

    Attributes:
        backend: its name.
        engine: name, version and precision that was asked for.
        not_run: why there is none; None where there is.
        rounds: frames that were counted, a matrix product in turn with each.
        layers_s: seconds of all layers of a frame, each at its fastest.
        multiplications: of the network for one frame.
        peak_gops: 10^9 operations a second of the fastest matrix product, by precision.
        kinds: the longest time first.
    """

    backend: str = ""
    engine: str = ""
    not_run: str | None = None
    rounds: int = 0
    layers_s: float | None = None
    multiplications: int = 0
    peak_gops: dict[str, float] = {}
    kinds: tuple[KindOfLayer, ...] = ()


class SideBySide(Part):
    """So many frames at once, each by so many threads.

    Attributes:
        at_once: frames.
        threads: of each.
        latency: from the start of the first frame to the end of the last.
        frames_per_s: by the median of that.
        time_per_frame: over that of one frame by all cores, in turn; under 1 where frames side by side gain.
    """

    at_once: int = Field(ge=1)
    threads: int = Field(ge=1)
    latency: Distribution
    frames_per_s: float = Field(gt=0)
    time_per_frame: Ratio


class Threads(Part):
    """What threads and frames side by side bring the network of one backend.

    Attributes:
        backend: its name.
        not_run: why there are no points; None where there are.
        cores: that were shared out.
        points: one frame first.
    """

    backend: str
    not_run: str | None = None
    cores: int = 0
    points: tuple[SideBySide, ...] = ()


class Verdict(Part):
    """A budget and what came of it.

    Attributes:
        budget: its name.
        of: whose figure it is.
        bound: in words, e.g. ">= 28 frames/s".
        measured: the figure in words; empty where there is none.
        status: of the budget.
        reason: why it was not run; else empty.
        source: where the budget comes from.
    """

    budget: str
    of: str
    bound: str
    measured: str
    status: Literal["passed", "missed", "not run"]
    reason: str = ""
    source: str = ""


class BundleFacts(Part):
    """Which bundle was measured."""

    name: str
    encoder: str
    precision: str
    size_px: tuple[int, int]
    built_at: str


class Results(Part):
    """The whole document.

    Attributes:
        made_at: ISO 8601, UTC.
        command: that made it.
        environment: processor, versions and load, by name.
        frames: what it was measured on, in words.
        rounds: calls of each implementation, in turn.
        short: whether it is the short form, whose absolute figures no budget is held to.
        runtime: name of the backend that the runtime chooses by itself here; None where it chooses none.
        decode: seconds to read a frame's file.
        profiles: of backends whose layers were counted.
        threads: what threads and frames side by side bring.
        extra: figures of single operations, by whose and which they are.
    """

    schema_version: Literal[1] = 1
    made_at: str
    command: str
    environment: dict[str, str]
    bundle: BundleFacts
    frames: str
    rounds: int
    short: bool
    runtime: str | None
    rows: tuple[Row, ...]
    decode: Distribution | None = None
    growth: Growth | None = None
    profiles: tuple[Profile, ...] = ()
    threads: Threads | None = None
    extra: dict[str, dict[str, float]] = {}
    verdicts: tuple[Verdict, ...] = ()
