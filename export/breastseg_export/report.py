"""The parity report: one static HTML page with its pictures inside, and the same pictures as files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray

from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_export.parity import ParityRun, Picture, failures

_BOTH, _ARTEFACT_ONLY, _REFERENCE_ONLY = (150, 150, 150), (255, 40, 40), (70, 110, 255)


def report_html(
    title: str,
    run: ParityRun,
    parity_frames: str,
    settings: Sequence[tuple[str, str]],
    threshold: float,
    sections: Sequence[str] = (),
) -> str:
    """The report as HTML that needs no other file.

    Args:
        title: name of what was exported.
        run: the comparison.
        parity_frames: what it was measured on.
        settings: rows of the table of settings.
        threshold: of the masks.
        sections: HTML that formats add, see `rendered`.
    """
    summaries = list(run.summaries.values())
    return rendered(
        "report.html.j2",
        title=title,
        failures=failures(run.summaries),
        parity_frames=parity_frames,
        phantoms="phantom" in parity_frames,
        settings=settings,
        summaries=run.summaries,
        frames=summaries[0].frames,
        frames_with_cells=summaries[0].frames_with_cells,
        pictures={engine: [_row(picture, threshold) for picture in kept] for engine, kept in run.pictures.items()},
        figures=run.figures,
        sections=[Markup(section) for section in sections],
    )


def rendered(template: str, **values: Any) -> str:
    """A template of this package, filled in; a part of the report where it is no whole page."""
    environment = Environment(
        loader=PackageLoader("breastseg_export", ""), autoescape=select_autoescape(["j2"]), undefined=StrictUndefined
    )
    return environment.get_template(template).render(**values)


def write_pictures(run: ParityRun, folder: Path, threshold: float) -> None:
    """Write the worst frames of every artefact as PNG files: frame, reference, artefact, difference.

    Raises:
        OutputError: the folder cannot be written.
    """
    for number, kept in enumerate(run.pictures.values(), start=1):
        for picture in kept:
            place = folder / f"artefact-{number}" / picture.figures.name
            make_folder(place)
            for name, image in _images(picture, threshold).items():
                write_whole(place / f"{name}.png", png_bytes(image))


def difference(reference: NDArray[Any], artefact: NDArray[Any]) -> NDArray[np.uint8]:
    """Two masks (H, W) as (H, W, 3) RGB: both grey, only the artefact red, only the reference blue, neither black."""
    picture = np.zeros((*reference.shape, 3), np.uint8)
    picture[reference & artefact] = _BOTH
    picture[artefact & ~reference] = _ARTEFACT_ONLY
    picture[reference & ~artefact] = _REFERENCE_ONLY
    return picture


def _images(picture: Picture, threshold: float) -> dict[str, NDArray[np.uint8]]:
    return {
        "frame": _stretched(picture.frame)[0],
        "reference": _grey(picture.reference),
        "artefact": _grey(picture.artefact),
        "difference": difference(picture.reference >= threshold, picture.artefact >= threshold),
    }


def _row(picture: Picture, threshold: float) -> dict[str, Any]:
    uris = {name: _data_uri(image) for name, image in _images(picture, threshold).items()}
    factor = _stretched(picture.frame)[1]
    return {"figures": picture.figures, "stretch": f", brightened {factor:.1f} x" if factor > 1 else "", **uris}


def _stretched(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A dark frame brightened for the eye, at most 8 times, and by how much; the model never sees this."""
    factor = float(np.clip(255 / max(1.0, float(np.percentile(frame, 99.9))), 1, 8))
    return np.clip(frame * factor, 0, 255).astype(np.uint8), factor


def _grey(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(255 * np.nan_to_num(probability)).astype(np.uint8)


def _data_uri(image: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")
