"""What a bundle says about itself: `manifest.json`, checked field by field before anything else is read."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from breastseg_deploy.cell_choice import CellChoice
from breastseg_deploy.errors import BundleError
from breastseg_deploy.fingerprint import Fingerprint
from breastseg_deploy.preprocess.gabor import GaborParameters

SCHEMA_VERSION = 3

Precision = Literal["fp32", "fp16", "int8"]


class Part(BaseModel):
    """A part of a manifest: nothing unknown, nothing that is not finite, nothing that changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FrameContract(Part):
    """What a frame must be; see `contract.rgb_batch` for how grey and 16-bit frames come to it."""

    height_px: int = Field(gt=0, multiple_of=32)
    width_px: int = Field(gt=0, multiple_of=32)
    dtype: Literal["uint8"] = "uint8"
    colour_order: Literal["RGB"] = "RGB"
    pixel_size_um: float | None = Field(default=None, gt=0)

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height_px, self.width_px


class GaborBank(Part):
    """Parameters of the edge channel, and the hash of the bank they make (`gabor.bank_sha256`)."""

    wavelengths_px: tuple[float, ...]
    orientations: int
    sigma_px: float
    gamma: float
    psi_rad: float
    zero_mean: bool
    sha256: str

    def parameters(self) -> GaborParameters:
        """The parameters as `gabor.gabor_bank` takes them."""
        return GaborParameters(**self.model_dump(exclude={"sha256"}))


class Normalisation(Part):
    """Mean and standard deviation of R, G, B in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class FileEntry(Part):
    """Size and SHA-256 of one file of the bundle."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ParityLimits(Part):
    """What an artefact had to meet against the float32 reference (docs/bundle.md).

    `dice_change` holds for both means of the change against the truth, see `Parity`.
    """

    worst_dice: float
    mean_dice: float
    dice_change: float


class Parity(Part):
    """Measured agreement of one artefact with the float32 PyTorch model, over `frames` frames from raw uint8.

    Dice figures compare masks, reference against artefact. `dice_change` is the mean over frames of the change of Dice
    against the ground truth, None without ground truth; `dice_change_with_cells` the same over frames whose truth holds
    cells. `engine` is what ran it. `frames_with_cells` counts frames whose reference is not empty.
    """

    engine: str
    frames: int
    frames_with_cells: int
    mean_dice: float
    worst_dice: float
    mean_dice_with_cells: float | None
    worst_flipped_ppm: float
    worst_surface_dice: float
    largest_probability_error: float
    dice_change: float | None
    dice_change_with_cells: float | None = None
    limits: ParityLimits

    @property
    def change_in_words(self) -> str:
        """The change against the truth over frames with cells, to end a line with; empty where it was not measured."""
        change = self.dice_change_with_cells
        return "" if change is None else f", Dice to the truth changed by {change:+.6f} on frames with cells"


class TensorSpec(Part):
    """One input or output of an artefact.

    Attributes:
        name: as the artefact calls it.
        axes: one letter each, "N" for a batch of any size: "NHWC", "NCHW", "N".
        dtype: NumPy's name.
    """

    name: str
    axes: str
    dtype: str


class Artefact(Part):
    """One thing in a bundle that can be run, as a format of the export made it.

    Attributes:
        role: what it is for; a backend names the role that it serves (`bundle.PORTABLE` and the others).
        files: of the bundle that belong to it, the main one first.
        inputs, outputs: in order.
        limits: what its goldens are held to on every machine; None where nobody measured its parity.
        parity: what was measured at the export; each with the limits that it had to meet.
        golden_dice: mask Dice of each golden at the export, where they are held to it as well; else empty.
        facts: what the format says of it in words, for reports: label and text.
        details: what the format and the backends that serve it agree on (`artefacts`).
    """

    role: str
    files: tuple[str, ...] = Field(min_length=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: ParityLimits | None
    parity: tuple[Parity, ...]
    golden_dice: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    details: dict[str, Any] = Field(default_factory=dict)


class Manifest(Part):
    """The whole of `manifest.json`."""

    schema_version: Literal[3] = 3
    name: str
    encoder: str
    decoder_channels: tuple[int, ...]
    pool_window_px: int | None = None
    frame: FrameContract
    gabor: GaborBank
    normalisation: Normalisation
    threshold: float = Field(gt=0, lt=1)
    precision: Precision
    opset: int
    artefacts: tuple[Artefact, ...] = Field(min_length=1)
    parity_frames: str
    goldens: tuple[str, ...] = Field(min_length=1)
    files: dict[str, FileEntry]
    built_with: dict[str, str]
    built_at: str
    licence: str
    intended_use: str
    training: dict[str, Any]
    cells: CellChoice | None = None
    drift: Fingerprint | None = None

    def artefact(self, role: str) -> Artefact | None:
        """The first artefact of that role; None where there is none."""
        return next(iter(self.artefacts_of(role)), None)

    def artefacts_of(self, role: str) -> list[Artefact]:
        """All artefacts of that role."""
        return [artefact for artefact in self.artefacts if artefact.role == role]

    def limits_of(self, role: str) -> ParityLimits:
        """The limits that the artefact of that role had to meet when it was exported.

        Raises:
            BundleError: there is none, or its parity was never measured.
        """
        found = self.artefact(role)
        if found is None or found.limits is None:
            raise BundleError(f"the manifest holds no parity of the artefact {role!r}; export the bundle again")
        return found.limits

    @field_validator("files")
    @classmethod
    def _inside_the_bundle(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name:
                raise ValueError(f"file name {name!r} leads out of the bundle")
        return files

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        named = {name for artefact in self.artefacts for name in artefact.files} | set(self.goldens)
        if missing := sorted(named - self.files.keys()):
            raise ValueError(f"files lists no {missing[0]}, which belongs to an artefact or is a golden")
        besides = {artefact.role for artefact in self.artefacts} & set(get_args(Precision))
        if besides != {self.precision} - {"fp32"}:
            raise ValueError(f"precision {self.precision} and the artefacts {sorted(besides)} must agree")
        if any(artefact.golden_dice and len(artefact.golden_dice) != len(self.goldens) for artefact in self.artefacts):
            raise ValueError("golden_dice must hold one figure for each golden")
        return self


def parse_manifest(text: str, place: str) -> Manifest:
    """Read a manifest; the schema version is looked at first, so that a newer bundle gets a clear answer.

    Args:
        text: the content of manifest.json.
        place: what to call it in messages.

    Raises:
        BundleError: no JSON, another schema version, or a field that is missing, unknown or out of range.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{place} is no JSON ({err}); copy the bundle again or export it again") from err
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise BundleError(f"{place} must be a JSON object with a schema_version; it was not made by breastseg-export")
    version = raw["schema_version"]
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{place} has schema version {version!r}, this version reads {SCHEMA_VERSION}; "
            "update breastseg-deploy, or export the checkpoint again with this version"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as err:
        first = err.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{place}: {field}: {first['msg']} ({err.error_count()} in all); export it again") from err
