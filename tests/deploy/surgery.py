"""Alter a bundle and, where asked, its manifest, so that only the check under test can notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from breastseg_deploy.artefacts import SlideTiles, details_of
from breastseg_deploy.bundle import GATE, MANIFEST, MODEL, SLIDE, Bundle, Golden, file_entry, golden_bytes

Manifest = dict[str, Any]


def edit_manifest(bundle: Path, change: Callable[[Manifest], object]) -> None:
    """Apply `change` to the manifest's JSON."""
    raw = json.loads((bundle / MANIFEST).read_text())
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw))


def artefact(raw: Manifest, role: str) -> Manifest:
    """The artefact of that role in a manifest's JSON."""
    return next(one for one in raw["artefacts"] if one["role"] == role)


def put_sealed(bundle: Path, name: str, content: bytes) -> None:
    """Write a file of the bundle and its right size and hash into the manifest."""
    (bundle / name).write_bytes(content)
    entry = file_entry(bundle / name).model_dump()
    edit_manifest(bundle, lambda raw: raw["files"].update({name: entry}))


def alter_golden(bundle: Path, number: int = 0, **arrays: NDArray[Any]) -> str:
    """Replace arrays of a golden, with the right hash; returns its name."""
    golden: Golden = Bundle.open(bundle).goldens()[number]
    put_sealed(bundle, golden.name, golden_bytes(replace(golden, **arrays)))
    return golden.name


def alter_golden_tile(bundle: Path, **arrays: NDArray[Any]) -> None:
    """Replace arrays of the slide artefact's golden, with the right hash."""
    opened = Bundle.open(bundle)
    (tiles,) = details_of(opened.manifest, SLIDE, SlideTiles)
    golden = opened.slide_golden(tiles.golden_px)
    put_sealed(bundle, golden.name, golden_bytes(replace(golden, **arrays)))


def put_constant_model(
    bundle: Path, shape: list[Any], values: Any, element: int = TensorProto.FLOAT, *, name: str = MODEL
) -> None:
    """Put a graph into the bundle that answers every batch with `values` spread to `shape`; "N" is the batch's size."""
    given = TensorProto.UINT8 if name == MODEL else TensorProto.FLOAT
    sides = {f"side{n}": side for n, side in enumerate(shape) if side != "N"}
    spread = ["count" if side == "N" else f"side{n}" for n, side in enumerate(shape)]
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["given"], ["count"], start=0, end=1),
            helper.make_node("Concat", spread, ["spread"], axis=0),
            helper.make_node("Expand", ["value", "spread"], ["answer"]),
        ],
        "constant",
        [helper.make_tensor_value_info("given", given, ["N", "a", "b", "c"])],
        [helper.make_tensor_value_info("answer", element, [f"d{n}" for n in range(len(shape))])],
        [
            numpy_helper.from_array(np.asarray(values, helper.tensor_dtype_to_np_dtype(element)), "value"),
            *(numpy_helper.from_array(np.array([side], np.int64), side_name) for side_name, side in sides.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    put_sealed(bundle, name, model.SerializeToString())


def set_gate(bundle: Path, **fields: Any) -> None:
    edit_manifest(bundle, lambda raw: artefact(raw, GATE)["details"].update(fields))


def skip_everything(bundle: Path) -> None:
    """A threshold that no frame reaches, in a manifest that agrees with itself."""
    set_gate(bundle, threshold=1e6, golden_skipped=[True] * 3)
