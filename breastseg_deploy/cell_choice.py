"""What a bundle says about its cells: the parameters that were chosen on labelled frames, and what they bring there."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import DEFAULTS, CellParameters

NOT_CHOSEN = "documented defaults; nothing was chosen on labelled frames"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CellFigures(_Part):
    """Figures over frames, see `instance_metrics.InstanceCounts`; None where they are not defined.

    Attributes:
        truth, found: cells.
        f1, ap: at an intersection over union of 0.5.
        close_pairs: pairs of truth cells less than 3 px apart; `merged` is the share of them that is merged.
    """

    truth: int = Field(ge=0)
    found: int = Field(ge=0)
    f1: float | None
    ap: float | None
    pq: float | None
    aji: float | None
    count_error: float | None
    close_pairs: int = Field(ge=0)
    merged: float | None

    @property
    def in_words(self) -> str:
        """The figures on one line."""
        named = (
            ("F1", self.f1),
            ("AP", self.ap),
            ("PQ", self.pq),
            ("AJI", self.aji),
            ("count error", self.count_error),
        )
        figures = ", ".join(f"{name} {value:.3f}" for name, value in named if value is not None)
        merged = "" if self.merged is None else f", {self.merged:.0%} of {self.close_pairs} close pairs merged"
        return f"{self.truth} cells: {figures}{merged}"


class CellsOfSource(_Part):
    """One source of the labelled frames.

    Attributes:
        figures: with the bundle's general parameters, which serve where nobody names the source.
        parameters: the source's own.
        own_figures: with these.
    """

    figures: CellFigures
    parameters: CellParameters
    own_figures: CellFigures


class CellChoice(_Part):
    """How masks of a bundle become cells.

    Attributes:
        parameters: the general ones.
        chosen_on: the frames, in words; figures below are over the same frames.
        data_sha256: hash of these frames.
        figures: over all of them, with the general parameters.
        components: the same with connected components, for comparison.
        sources: by name, where the frames name theirs.
        worst_source: the one with the lowest F1 under the general parameters; None without sources.
    """

    parameters: CellParameters
    chosen_on: str
    data_sha256: str
    figures: CellFigures
    components: CellFigures
    sources: dict[str, CellsOfSource] = Field(default_factory=dict)
    worst_source: str | None = None


def parameters_for(choice: CellChoice | None, source: str | None = None) -> CellParameters:
    """What a bundle's masks are split with: its own parameters, or the documented defaults where it holds none.

    Args:
        choice: the manifest's part.
        source: whose own parameters to take; None for the general ones.

    Raises:
        ArgumentError: a source that the bundle knows nothing of.
    """
    if source is None:
        return DEFAULTS if choice is None else choice.parameters
    if choice is None or source not in choice.sources:
        known = ", ".join(sorted(choice.sources)) if choice is not None and choice.sources else "none"
        raise ArgumentError(f"the bundle chose no cells' parameters for the source {source!r}; it knows: {known}")
    return choice.sources[source].parameters
