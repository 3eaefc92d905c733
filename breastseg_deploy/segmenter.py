"""The runtime that scanner software embeds: open a bundle once, hand it frames, get masks."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.accounts import Policy
from breastseg_deploy.backends.gated import bundle_gate, run_gated_goldens
from breastseg_deploy.backends.registry import BackendRecord
from breastseg_deploy.backends.select import AUTO, Choice, choose
from breastseg_deploy.backends.tiles import TileNetwork, bundle_tiles, no_slides, run_golden_tile
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.contract import rgb_batch, rgb_frame
from breastseg_deploy.errors import ArgumentError, ClosedError, FrameError
from breastseg_deploy.events import Event
from breastseg_deploy.gate import Gate
from breastseg_deploy.inference import DeviceBackend, GatedBackend, Inference, lies_on_gpu
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.result import Segmentation
from breastseg_deploy.selftest import GoldenResult, run_goldens
from breastseg_deploy.slide.outputs import DEFAULT_WRITE
from breastseg_deploy.slide.result import SlideResult
from breastseg_deploy.slide.run import Request, segment_slide
from breastseg_deploy.slide.source import SlideSource
from breastseg_deploy.stream import Stream
from breastseg_deploy.trust.keys import PublicKeyPem

_LOG = logging.getLogger("breastseg_deploy")
Result = TypeVar("Result")


class Segmenter:
    """A bundle, loaded and ready. Open it with `Segmenter.open`; several threads may share one.

    Attributes:
        bundle: the opened bundle.
        manifest: what the bundle says about itself.
        backend: name of the backend in use.
        record: what the registry says of it.
        artefact: the role of what it serves: "portable", "fp16" on a GPU, "bf16" or "int8"; with the empty-frame
            gate "gate", "gate-bf16" or "gate-int8".
        gate: the empty-frame gate where the bundle was opened with it, else None.
        backend_reason: which backend was chosen, why, and why each preferred one was passed over; also logged under
            "breastseg_deploy", at WARNING where a better backend ought to have worked, else at INFO.
    """

    def __init__(self, bundle: Bundle, choice: Choice, machine: Machine | None = None) -> None:
        self.manifest: Manifest = bundle.manifest
        self.backend: str = choice.name
        self.record: BackendRecord = choice.record
        self.backend_reason: str = choice.reason
        self.bundle = bundle
        self.artefact: str = choice.artefact
        self._engine = choice.backend
        engine = self._engine
        self.gate: Gate | None = bundle_gate(bundle, choice.artefact) if isinstance(engine, GatedBackend) else None
        self._infer = engine.infer_gated if isinstance(engine, GatedBackend) else engine.infer
        self._machine = machine or Machine()
        self._tiles: TileNetwork | None = None
        self._slides = threading.Lock()
        self._process = os.getpid()
        self._running = 0
        self._closed = False
        self._state = threading.Condition()

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        backend: str = AUTO,
        *,
        strict: bool = False,
        gate: bool = False,
        max_dice_loss: float | None = None,
        machine: Machine | None = None,
        public_key: PublicKeyPem | None = None,
        require_signature: bool = False,
    ) -> Segmenter:
        """Check a bundle and load it.

        A backend other than the one that the bundle was verified with serves only once it reproduces the bundle's
        goldens on this machine; where TensorRT has no engine for this GPU yet, it builds one first, which takes
        minutes and is logged.

        Args:
            bundle: a folder made by breastseg-export, or a bundle that `Bundle.open` has checked already.
            backend: a backend's name ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime",
                "openvino-bf16", "openvino-int8"), which then serves or fails; or "auto": the first of the GPU's that
                works here, else the CPU's fastest one in float32; or "fastest": likewise, and on the CPU in whatever
                precision, as long as it keeps to `max_dice_loss`.
            strict: with "auto", refuse to serve by a lesser backend where a better one is there and fails, and by the
                CPU where a GPU ought to serve; see `backends.select.choose`.
            gate: skip the decoder for frames that the bundle's empty-frame gate finds empty; on the CPU alone. What it
                may miss stands in the manifest (`gate.GateCalibration`), and every result says what was skipped.
            max_dice_loss: with "fastest" alone, the mean Dice that may be lost against float32, by the export's
                figures and by the goldens here, e.g. 0.002; see `backends.dice_loss`.
            machine: where it serves; None for this one.
            public_key: PEM file, or its bytes, of the key that must have signed the bundle. Without one a signature is
                not looked at, and the log says so.
            require_signature: refuse to open without a public key.

        Raises:
            ArgumentError: a public key that is none, or none where a signature is required, or one for a bundle that is
                open already; "fastest" without `max_dice_loss`, or the other way round.
            BundleError: the bundle is missing, incomplete or altered, was not signed by the public key's owner, or
                holds no gate.
            BackendError: there is no such backend, it cannot load the bundle, or `strict` refuses.
            ParityError: the backend does not reproduce the bundle's goldens.
            MachineError: this machine lacks what the backend needs, such as its library, or the folder for engines is
                not this user's alone.
            OutputError: a TensorRT backend asked for by name cannot keep its engine.
        """
        if not isinstance(bundle, Bundle):
            opened = Bundle.open(bundle, public_key, require_signature=require_signature)
        elif public_key is None and not require_signature:
            opened = bundle
        else:
            raise ArgumentError("a bundle that is open was checked with its key by Bundle.open; omit the key here")
        if opened.is_signed:
            _LOG.log(logging.WARNING if opened.signed_by is None else logging.INFO, "%s: %s", opened.path, opened.trust)
        choice = choose(opened, backend, machine, strict=strict, gate=gate, max_dice_loss=max_dice_loss)
        _LOG.log(logging.WARNING if choice.fell_back else logging.INFO, "%s: backend %s", opened.path, choice.reason)
        segmenter = cls(opened, choice, machine)
        if segmenter.gate is not None:
            _LOG.info("%s: empty-frame gate on: %s", opened.path, segmenter.gate.promise)
        return segmenter

    def __call__(
        self,
        frame: Any,
        *,
        bit_depth: int | None = None,
        full_scale: float | None = None,
        probability: bool = True,
    ) -> Segmentation:
        """Segment one frame; nothing is resized and no range is guessed.

        Args:
            frame: (H, W) or (H, W, 3), of the bundle's size: a NumPy array, see `contract.rgb_frame`; or, where the
                backend computes on a GPU, an array on that GPU (with `__cuda_array_interface__` or DLPack: CuPy,
                PyTorch, a camera's buffer), which is read where it lies.
            bit_depth: for uint16 frames, the bits that the scanner uses.
            full_scale: for floating-point NumPy frames, the value of white.
            probability: whether the result holds the probabilities; without them a GPU has less to copy.

        Raises:
            FrameError: the frame breaks the contract, or lies on a GPU that does not compute; nothing was computed.
            BackendError: the engine failed, its answer is no probability (NaN, outside [0, 1], another shape), or the
                Segmenter is closed. After a failure of one call the next may succeed; where none can, because the
                Segmenter is closed, its GPU has failed for good, or the process is a fork, it is a ClosedError.
            ParityError: this is the first batch of its size on a GPU, and it does not reproduce the goldens.
        """
        return self._segmented(frame, bit_depth, full_scale, probability, is_batch=False)[0]

    def batch(
        self,
        frames: Any,
        *,
        bit_depth: int | None = None,
        full_scale: float | None = None,
        probability: bool = True,
    ) -> list[Segmentation]:
        """Segment several frames; the arguments and errors of a call with one.

        Args:
            frames: an array whose first axis is N, (N, H, W) or (N, H, W, 3), or a list or tuple of NumPy frames.
            bit_depth: see `__call__`.
            full_scale: see `__call__`.
            probability: see `__call__`.

        Returns:
            One result per frame, in order.
        """
        return self._segmented(frames, bit_depth, full_scale, probability, is_batch=True)

    def slide(
        self,
        slide: SlideSource,
        output: str | Path,
        *,
        write: Collection[str] = DEFAULT_WRITE,
        skip_empty: bool = True,
    ) -> SlideResult:
        """Segment an image of any size from 32 x 32 px on, tile by tile in bounded memory, with a certificate.

        The bundle's slide artefact serves, once it reproduces its golden tile on this machine. A run that was
        interrupted goes on where it was; one that is finished is found done.

        Args:
            slide: open, see `io.open_slide.open_slide`; files and arrays alike.
            output: the folder for this slide's results.
            write: kinds of files beside `result.json`, overview and page: "ome-tiff", "geojson", "csv", "dicom-seg".
            skip_empty: whether tiles of nothing but background are skipped, see `slide.foreground`.

        Raises:
            SlideError: the slide cannot be read, is too small, or has another pixel size than the bundle.
            BackendError: the backend segments no slides (GPUs and INT8), the engine failed, or the Segmenter is closed.
            ParityError: the golden tile misses its limit.
            BundleError: the bundle holds no slide artefact.
            OutputError: the folder is in use, or holds something else; no permission, no space. What is done stays.
            ArgumentError: a kind of file that nobody knows.
            MachineError: a library that writes one is not installed.
        """
        request = Request(Path(output), write, skip_empty, self._machine.processor.cores)
        with self._slides:  # one at a time: each fills the cores
            return self._while_open(lambda: segment_slide(slide, self.bundle, self._tile_network(), request))

    def _tile_network(self) -> TileNetwork:
        """The slide artefact, loaded when a slide is first asked for."""
        if self._tiles is None:
            if self.record.open_tiles is None:
                raise no_slides(self.backend)
            self._tiles = self.record.open_tiles(self.bundle, self._machine)
        return self._tiles

    def _segmented(
        self, frames: Any, bit_depth: int | None, full_scale: float | None, probability: bool, *, is_batch: bool
    ) -> list[Segmentation]:
        started = time.perf_counter()
        # A frame on the GPU is checked there: copying it down to look at it would undo what it was put there for.
        if lies_on_gpu(frames):
            engine = self._engine_for_device_frames(frames, full_scale)
            checked = time.perf_counter()
            inference = self._while_open(
                lambda: engine.infer_on_device(frames, bit_depth=bit_depth, is_batch=is_batch, probability=probability)
            )
            count = int(frames.shape[0]) if is_batch else 1
        else:
            check = rgb_batch if is_batch else rgb_frame
            rgb = check(frames, self.manifest.frame.size_px, bit_depth=bit_depth, full_scale=full_scale)
            rgb = rgb if is_batch else rgb[np.newaxis]
            checked = time.perf_counter()
            inference = self._while_open(lambda: self._infer(rgb, probability=probability))
            count = len(rgb)
        inferred = time.perf_counter()
        masks, probabilities = self._checked(inference, count)
        ended = time.perf_counter()
        timings = {"contract": checked - started, **inference.seconds, "check": ended - inferred}
        timings["total"] = ended - started
        return [
            Segmentation(
                masks[number],
                probabilities[number] if probability and probabilities is not None else None,
                timings,
                self.backend,
                None if inference.skipped is None else bool(inference.skipped[number]),
                None if inference.scores is None else float(inference.scores[number]),
                self.manifest.cells,
                self.manifest.frame.pixel_size_um,
            )
            for number in range(count)
        ]

    def _checked(self, inference: Inference, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Masks (N, H, W), and the probabilities where they were computed."""
        # A backend that makes the mask itself has held its logits to finite values: no probability is left to check.
        if inference.mask is not None and inference.probability is None:
            return inference.mask, None
        probability = inference.checked((count, *self.manifest.frame.size_px), self.backend)
        if inference.mask is not None:
            return inference.mask, probability
        return (probability >= self.manifest.threshold).astype(np.uint8), probability

    def stream(
        self,
        policy: Policy = "block",
        *,
        depth: int = 8,
        deadline_s: float | None = None,
        callback: Callable[[Event], object] | None = None,
        patience_s: float | None = 60.0,
        calls: int | None = None,
        bit_depth: int | None = None,
        full_scale: float | None = None,
        probability: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> Stream:
        """A stream of a camera's frames through this Segmenter; close it before the Segmenter, best by a `with` block.

        Args:
            policy: see `stream.Stream`, as for all that is not named here.
            depth: see there.
            deadline_s: see there.
            callback: see there.
            patience_s: see there.
            calls: see there; by default two where the backend computes on a GPU, so that one frame is copied while
                another is computed, else one.
            bit_depth: see `__call__`; the same for every frame.
            full_scale: see `__call__`; the same for every frame.
            probability: see `__call__`.
            clock: see `stream.Stream`.

        Raises:
            ArgumentError: a policy, depth, deadline or number of calls that is none.
        """
        return Stream(
            partial(self, bit_depth=bit_depth, full_scale=full_scale, probability=probability),
            policy,
            depth=depth,
            deadline_s=deadline_s,
            callback=callback,
            patience_s=patience_s,
            calls=(2 if self.record.on_gpu else 1) if calls is None else calls,
            clock=clock,
        )

    def self_test(self) -> list[GoldenResult]:
        """Run the bundle's golden frames and hold them to the limits that the export had to meet.

        With the empty-frame gate, no golden is skipped, and its score is held to the reference's as well.

        Returns:
            One result per golden, all within the limits.

        Raises:
            ParityError: a golden's mask Dice is under the limit of the file that serves (`manifest.limits_of`).
            BackendError: the engine failed.
            BundleError: a golden is damaged, or the manifest holds no limit.
        """
        engine = self._engine
        if isinstance(engine, GatedBackend):
            return list(self._while_open(lambda: run_gated_goldens(engine, self.bundle, self.artefact, self.backend)))

        def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            found = self._while_open(lambda: self._infer(rgb))
            masks, _ = self._checked(found, len(rgb))
            return masks, found.checked(masks.shape, self.backend)

        return list(run_goldens(self.bundle, self.artefact, run, 1, self.backend))

    def self_test_slides(self) -> GoldenResult:
        """Run the golden tile of the bundle's slide artefact and hold it to the limit that the export had to meet.

        Apart from `self_test`, since it loads the network for tiles beside the one for frames.

        Raises:
            ParityError: the tile's mask Dice is under the limit.
            BackendError: the backend segments no slides (GPUs and INT8), the engine failed, or the Segmenter is closed.
            BundleError: the bundle holds no slide artefact, or the golden is damaged.
        """

        def run() -> GoldenResult:
            return run_golden_tile(self._tile_network(), self.bundle, bundle_tiles(self.bundle))

        with self._slides:
            return self._while_open(run)

    def close(self) -> None:
        """Wait for running calls, then give the engine's memory back; calls after this raise ClosedError.

        In a process forked after it was opened, it does nothing: the engine is the parent's.
        """
        if os.getpid() != self._process:
            return
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._state.wait_for(lambda: self._running == 0)
        self._engine.close()
        if self._tiles is not None:
            self._tiles.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _engine_for_device_frames(self, frames: Any, full_scale: float | None) -> DeviceBackend:
        """The engine, if it reads frames where they lie on the GPU: a silent copy would hide its cost."""
        if not isinstance(self._engine, DeviceBackend):
            raise FrameError(
                f"these frames ({type(frames).__name__}) lie on a GPU, and {self.backend} takes NumPy arrays alone; "
                "copy them to the host first, or open the bundle with a GPU backend"
            )
        if full_scale is not None:
            raise FrameError(
                f"frames on a GPU must be uint8, or uint16 with bit_depth, got full_scale {full_scale}; "
                "omit it, or pass floating-point frames as NumPy arrays"
            )
        if not hasattr(frames, "shape"):
            raise FrameError(f"{type(frames).__name__} must have a shape like an array; wrap it with cupy.from_dlpack")
        return self._engine

    def _while_open(self, infer: Callable[[], Result]) -> Result:
        """Run it while nobody may close the engine."""
        if os.getpid() != self._process:  # asked before the lock: another thread may have held it when this one forked
            raise ClosedError(
                f"this Segmenter was opened in process {self._process}, and a fork has none of its engine's threads; "
                "open the bundle in the process that uses it, or start processes by spawn"
            )
        with self._state:
            if self._closed:
                raise ClosedError("this Segmenter is closed; open the bundle again with Segmenter.open")
            self._running += 1
        try:
            return infer()
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()
