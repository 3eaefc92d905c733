"""How masks become cells is chosen on labelled frames, told in full, and never tuned in silence."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from breastseg_deploy import Bundle
from breastseg_deploy.cell_choice import NOT_CHOSEN
from breastseg_deploy.cli.main import main as breastseg
from breastseg_deploy.errors import DataError
from breastseg_deploy.instance_metrics import InstanceCounts
from breastseg_deploy.instances import DEFAULTS, split_cells
from breastseg_deploy.manifest import Manifest
from breastseg_export.cells import COMPONENTS, WATERSHEDS, LabelledFrames, best, best_of_source, choose_cells
from breastseg_export.main import main
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIDE = 128


def discs(*places: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Numbered discs by row, column and radius; of two that overlap, each pixel belongs to the nearer centre."""
    y, x = np.indices((SIDE, SIDE))
    distance = np.stack([np.hypot(y - top, x - left) / radius for top, left, radius in places])
    return np.where(distance.min(axis=0) <= 1, distance.argmin(axis=0) + 1, 0).astype(np.uint16)


PAIRS = discs((30, 20, 11), (30, 40, 11), (80, 60, 11), (80, 79, 11), (30, 100, 10))
DUMBBELL = (discs((60, 45, 20), (60, 80, 20)) > 0).astype(np.uint16)


def lay_out(root: Path, **sources: NDArray[np.uint16]) -> Path:
    """A data set of one split, one frame for each source; its folder."""
    rows = ["split,name,dataset"]
    for name, labels in sources.items():
        for kind, pixels in (("images", 60 + 120 * (labels > 0)), ("masks", 255 * (labels > 0)), ("labels", labels)):
            folder = root / "val" / kind
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}.png"), pixels.astype(np.uint16 if kind == "labels" else np.uint8))
        rows.append(f"val,{name},{name}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root / "val"


def bright(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (frame[..., 0] > 100).astype(np.float32)


def test_the_watershed_is_chosen_where_cells_touch_and_every_source_has_its_figures(tmp_path: Path) -> None:
    frames = LabelledFrames([lay_out(tmp_path, pairs=PAIRS, dumbbell=DUMBBELL)], (SIDE, SIDE))
    choice = choose_cells(frames, bright, 0.5, None)
    assert choice.parameters.method == "watershed"
    assert choice.chosen_on == "2 frames of val"
    assert (choice.figures.truth, choice.components.found) == (6, 4)
    assert (choice.figures.f1 or 0) > (choice.components.f1 or 0)
    assert set(choice.sources) == {"pairs", "dumbbell"}
    assert choice.sources["pairs"].own_figures.f1 == 1


def test_a_source_that_the_watershed_cuts_up_has_connected_components_of_its_own(tmp_path: Path) -> None:
    frames = LabelledFrames([lay_out(tmp_path, pairs=PAIRS, dumbbell=DUMBBELL)], (SIDE, SIDE))
    choice = choose_cells(frames, bright, 0.5, None)
    dumbbell = choice.sources["dumbbell"]
    assert choice.worst_source == "dumbbell"
    assert (dumbbell.parameters, dumbbell.own_figures.f1) == (COMPONENTS, 1)
    assert (dumbbell.figures.f1 or 0) < 1


@pytest.mark.parametrize(("components", "chosen"), [(81, "watershed"), (83, "components")])
def test_components_serve_a_source_where_the_watershed_loses_more_than_a_fiftieth(components: int, chosen: str) -> None:
    tried = {one: [InstanceCounts(truth=100, found=100, matched=80)] for one in WATERSHEDS}
    tried[COMPONENTS] = [InstanceCounts(truth=100, found=100, matched=components)]
    assert best_of_source(tried).method == chosen
    assert best(tried) == COMPONENTS


def test_a_known_pixel_size_makes_the_choice_one_of_micrometres(tmp_path: Path) -> None:
    frames = LabelledFrames([lay_out(tmp_path, pairs=PAIRS)], (SIDE, SIDE))
    in_px, in_um = (choose_cells(frames, bright, 0.5, pixel_size_um) for pixel_size_um in (None, 0.4))
    assert (in_px.parameters.unit, in_um.parameters.unit) == ("px", "um")
    assert in_um.parameters.in_unit("px", 0.4) == in_px.parameters
    assert in_um.figures == in_px.figures


def test_frames_without_numbered_cells_are_refused(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, pairs=PAIRS, empty=np.zeros_like(PAIRS))
    with pytest.raises(DataError, match=r"the bundle's frames \(64, 64\); crop it"):
        LabelledFrames([folder], (64, 64))
    (folder / "labels" / "empty.png").unlink()
    with pytest.raises(DataError, match=r"empty\.png has no labels of that name; --cells needs all"):
        LabelledFrames([folder], (SIDE, SIDE))
    only_empty = lay_out(tmp_path / "other", empty=np.zeros_like(PAIRS))
    with pytest.raises(DataError, match="no cell is numbered there"):
        LabelledFrames([only_empty], (SIDE, SIDE))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(Checkpoint(SegmentationModel(Architecture("resnet18", (16,) * 5))), path)
    return path


def test_an_export_with_labelled_frames_tells_the_choice_everywhere(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bundle = lay_out(tmp_path / "data", pairs=PAIRS, dumbbell=DUMBBELL), tmp_path / "bundle"
    arguments = [str(checkpoint), "--output", str(bundle), "--size", str(SIDE), "--precision", "fp32", "--no-slide"]
    assert main([*arguments, "--cells", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    choice = Bundle.open(bundle).manifest.cells
    assert choice is not None
    assert told["manifest"]["cells"]["chosen_on"] == choice.chosen_on == "2 frames of val"
    report = (bundle / "report.html").read_text()
    assert "<h2>Cells</h2>" in report
    assert f"{choice.worst_source}, worst source" in report
    assert breastseg(["inspect", str(bundle)]) == 0
    inspected = capsys.readouterr().out
    assert choice.figures.in_words in inspected
    assert f"{choice.worst_source}, the worst" in inspected


def test_a_bundle_without_labelled_frames_says_that_the_defaults_serve(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest: Manifest = Bundle.open(demo_bundle).manifest
    assert manifest.cells is None
    assert NOT_CHOSEN in (demo_bundle / "report.html").read_text()
    assert breastseg(["inspect", str(demo_bundle)]) == 0
    assert NOT_CHOSEN in capsys.readouterr().out


def test_the_documented_defaults_lie_on_the_grid() -> None:
    assert DEFAULTS in WATERSHEDS
    assert split_cells(PAIRS > 0, (PAIRS > 0).astype(np.float32)).max() == 5
