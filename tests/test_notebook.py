"""The notebook of docs: it runs from its first cell to its last, and its stored outputs are what that gives."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

PLACE = Path(__file__).resolve().parents[1] / "docs" / "notebook" / "training_to_report.ipynb"
LONGEST_CELL_S = 1800
"""Of a machine with much other work: on two idle cores the whole notebook takes a small part of it."""


@pytest.fixture(scope="module")
def stored() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    return nbformat.read(PLACE, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[list[str]]:
    """What kinds of output a cell has: the name of a stream, whose parts count once, or the forms of a value."""
    kinds = (sorted(one["data"]) if "data" in one else [one.get("name", "error")] for one in cell.outputs)
    return [kind for kind, _ in groupby(kinds)]


def test_the_stored_outputs_were_made_in_order_and_name_no_place_of_the_machine_that_made_them(stored: Any) -> None:
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    outputs = [one for cell in code(stored) for one in cell.outputs]
    text = "\n".join(str(one.get("text") or one.get("data", {}).get("text/plain")) for one in outputs)
    assert re.findall(r"/(?:home|root|tmp|usr|opt|work|Users|var)/\S*", text) == []
    assert "Traceback" not in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own modules
def test_it_runs_from_its_first_cell_to_its_last_and_shows_what_is_stored(stored: Any, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(PLACE, as_version=4)
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None

    nbclient.NotebookClient(
        notebook, timeout=LONGEST_CELL_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    assert [shown(cell) for cell in code(notebook)] == [shown(cell) for cell in code(stored)]
