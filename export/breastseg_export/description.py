"""What an export says of itself: the manifest, the report, the goldens."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from breastseg_deploy.bundle import GOLDENS, Golden, file_entry
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.gate import Gate
from breastseg_deploy.manifest import (
    EngineEntry,
    FrameContract,
    GaborBank,
    HalfPrecision,
    Int8Precision,
    Manifest,
    Normalisation,
)
from breastseg_deploy.preprocess.gabor import bank_sha256
from breastseg_export.formats.gate import gate_rows
from breastseg_export.formats.int8 import int8_rows
from breastseg_export.graph import OPSET
from breastseg_export.parity import ParityRun
from breastseg_export.report import report_html
from breastseg_export.samples import Samples
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint

_PACKAGES = ("breastseg-deploy", "torch", "segmentation-models-pytorch", "timm", "onnx", "onnxruntime", "numpy")
_INT8_PACKAGES = ("openvino", "nncf")
INTENDED_USE = "Research and engineering. Not a medical device; no diagnosis may rest on its masks."


@dataclass(frozen=True)
class Exported:
    """What was exported and how it came out, before the bundle is written.

    Attributes:
        settings: what was asked for.
        checkpoint: what was exported.
        samples: what parity was measured on.
        run: parity.
        half: how the layers in float32 were chosen; None without a float16 network.
        gate: the empty-frame gate; None without one.
        int8: how the INT8 network was quantised; None without one.
    """

    settings: ExportSettings
    checkpoint: Checkpoint
    samples: Samples
    run: ParityRun
    half: HalfPrecision | None
    gate: Gate | None = None
    int8: Int8Precision | None = None

    def goldens(self) -> list[Golden]:
        """Frames with the reference's answers, as they lie in the bundle."""
        return [
            Golden(f"{GOLDENS}/golden-{number}.npz", answer.frame, answer.probability, answer.mask)
            for number, answer in enumerate(self.run.goldens, start=1)
        ]

    def report(self) -> str:
        """The parity report, one HTML page."""
        architecture, checkpoint, size_px = self.checkpoint.model.architecture, self.checkpoint, self.settings.size_px
        rows = [
            ("checkpoint", Path(self.settings.checkpoint).name),
            ("encoder", architecture.encoder),
            ("decoder channels", ", ".join(map(str, architecture.decoder_channels))),
            ("frame", f"{size_px} x {size_px}, uint8 RGB"),
            ("precision", self.settings.precision),
            ("threshold", str(checkpoint.threshold)),
            *(gate_rows(self.gate) if self.gate else ()),
            *(int8_rows(self.int8) if self.int8 else ()),
            *self._versions().items(),
        ]
        description = self.samples.description
        return report_html(architecture.encoder, self.run, description, rows, checkpoint.threshold, self.half)

    def manifest(self, contract: FrameContract, engines: tuple[EngineEntry, ...], folder: Path) -> Manifest:
        """The manifest over all files of the bundle's folder.

        Raises:
            BundleError: one of them cannot be read.
        """
        architecture, details = self.checkpoint.model.architecture, self.checkpoint.details
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        return Manifest(
            name=str(details.get("name", Path(self.settings.checkpoint).stem)),
            encoder=architecture.encoder,
            decoder_channels=architecture.decoder_channels,
            pool_window_px=architecture.pool_window_px,
            frame=contract,
            gabor=GaborBank(**asdict(architecture.gabor), sha256=bank_sha256(architecture.gabor)),
            normalisation=Normalisation(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            threshold=self.checkpoint.threshold,
            precision=self.settings.precision,
            opset=OPSET,
            half=self.half,
            parity=tuple(self.run.summaries.values()),
            parity_frames=self.samples.description,
            goldens=tuple(golden.name for golden in self.goldens()),
            engines=engines,
            gate=self.gate,
            int8=self.int8,
            files={path.relative_to(folder).as_posix(): file_entry(path) for path in written},
            built_with=self._versions(),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            licence=str(details.get("licence", "not stated")),
            intended_use=str(details.get("intended_use", INTENDED_USE)),
            training=dict(details),
        )

    def _versions(self) -> dict[str, str]:
        packages = _PACKAGES + (_INT8_PACKAGES if self.int8 else ())
        return {"python": platform.python_version(), **{package: version(package) for package in packages}}
