"""What an export says of itself: the manifest, the report, the goldens."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from breastseg_deploy.bundle import GOLDENS, Golden, file_entry
from breastseg_deploy.cell_choice import NOT_CHOSEN, CellChoice
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.errors import CheckpointError
from breastseg_deploy.fingerprint import fingerprint
from breastseg_deploy.manifest import FrameContract, GaborBank, Manifest, Normalisation
from breastseg_deploy.preprocess.gabor import bank_sha256
from breastseg_export.cells import cells_section
from breastseg_export.formats.format import PassedArtefact, Work
from breastseg_export.graph import OPSET
from breastseg_export.parity import ParityRun
from breastseg_export.report import report_html
from breastseg_export.sbom import sbom_json
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint

_PACKAGES = ("breastseg-deploy", "torch", "segmentation-models-pytorch", "timm", "onnx", "onnxruntime", "numpy")
INTENDED_USE = "Research and engineering. Not a medical device; no diagnosis may rest on its masks."


def frame_contract(settings: ExportSettings, checkpoint: Checkpoint) -> FrameContract:
    """What frames of the bundle must be.

    Raises:
        CheckpointError: the checkpoint states a pixel size that is none.
    """
    spacing_um = checkpoint.details.get("pixel_size_um")
    try:
        return FrameContract(height_px=settings.size_px, width_px=settings.size_px, pixel_size_um=spacing_um)
    except ValidationError as err:
        raise CheckpointError(
            f"{settings.checkpoint} states a pixel_size_um of {spacing_um!r}, expected micrometres over 0, or none; "
            "save it again"
        ) from err


@dataclass(frozen=True)
class Description:
    """What was exported and what was measured of it, before the bundle is written.

    Attributes:
        work: what was asked for, and what the artefacts were made from.
        run: parity.
        frame: what frames must be.
        artefacts: in the order of the manifest.
        cells: how masks become cells, where that was chosen on labelled frames.
    """

    work: Work
    run: ParityRun
    frame: FrameContract
    artefacts: list[PassedArtefact]
    cells: CellChoice | None = None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each artefact's files, one in memory at a time."""
        for artefact in self.artefacts:
            for name, content in artefact.candidate.files.items():
                yield name, content()

    def goldens(self) -> list[Golden]:
        """Frames with the reference's answers, as they lie in the bundle."""
        return [
            Golden(f"{GOLDENS}/golden-{number}.npz", answer.frame, answer.probability, answer.mask)
            for number, answer in enumerate(self.run.goldens, start=1)
        ]

    def report(self) -> str:
        """The parity report, one HTML page."""
        settings, checkpoint = self.work.settings, self.work.checkpoint
        architecture = checkpoint.model.architecture
        rows = [
            ("checkpoint", Path(settings.checkpoint).name),
            ("encoder", architecture.encoder),
            ("decoder channels", ", ".join(map(str, architecture.decoder_channels))),
            ("frame", f"{settings.size_px} x {settings.size_px}, uint8 RGB"),
            ("precision", settings.precision),
            ("threshold", str(checkpoint.threshold)),
            *(fact for artefact in self.artefacts for fact in artefact.notes.facts),
            ("cells", NOT_CHOSEN if self.cells is None else f"parameters chosen on {self.cells.chosen_on}"),
            *self._versions().items(),
        ]
        sections = [artefact.notes.section for artefact in self.artefacts if artefact.notes.section]
        sections += [] if self.cells is None else [cells_section(self.cells)]
        description = self.work.frames.description
        return report_html(architecture.encoder, self.run, description, rows, checkpoint.threshold, sections)

    def sbom(self, folder: Path) -> bytes:
        """What the artefacts in the bundle's folder were built with, and what serves them; CycloneDX in JSON.

        Raises:
            BundleError: one of their files cannot be read.
        """
        files = {
            name: file_entry(folder / name).sha256 for artefact in self.artefacts for name in artefact.candidate.files
        }
        packages = {package for artefact in self.artefacts for package in artefact.notes.packages}
        return sbom_json(self._name, self.work.settings.built_at, files, packages)

    def manifest(self, folder: Path) -> Manifest:
        """The manifest over all files of the bundle's folder.

        Raises:
            BundleError: one of them cannot be read.
        """
        settings, checkpoint = self.work.settings, self.work.checkpoint
        architecture, details = checkpoint.model.architecture, checkpoint.details
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        return Manifest(
            name=self._name,
            encoder=architecture.encoder,
            decoder_channels=architecture.decoder_channels,
            pool_window_px=architecture.pool_window_px,
            frame=self.frame,
            gabor=GaborBank(**asdict(architecture.gabor), sha256=bank_sha256(architecture.gabor)),
            normalisation=Normalisation(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            threshold=checkpoint.threshold,
            precision=settings.precision,
            opset=OPSET,
            artefacts=tuple(artefact.entry(self.run) for artefact in self.artefacts),
            parity_frames=self.work.frames.description,
            goldens=tuple(golden.name for golden in self.goldens()),
            files={path.relative_to(folder).as_posix(): file_entry(path) for path in written},
            built_with=self._versions(),
            built_at=settings.built_at,
            licence=str(details.get("licence", "not stated")),
            intended_use=str(details.get("intended_use", INTENDED_USE)),
            training=dict(details),
            cells=self.cells,
            # Phantoms look like no scanner: a fingerprint of theirs would call every real frame a drift.
            drift=None if self.work.frames.are_phantoms else fingerprint(self.run.measured),
        )

    @property
    def _name(self) -> str:
        return str(self.work.checkpoint.details.get("name", Path(self.work.settings.checkpoint).stem))

    def _versions(self) -> dict[str, str]:
        packages = [*_PACKAGES, *(package for artefact in self.artefacts for package in artefact.notes.packages)]
        return {"python": platform.python_version(), **{package: version(package) for package in packages}}
