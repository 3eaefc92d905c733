"""docs/quality.md: every requirement has an ID of its own and a test, and every named test exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = (ROOT / "docs" / "quality.md").read_text("utf-8").partition("\n## From requirement to test\n")[2]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line[:1] == "|"][2:]


@cache
def names_in(file: Path) -> frozenset[str]:
    """Names of the test functions in a file."""
    found = ast.walk(ast.parse(file.read_text("utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef))


def test_the_table_is_there_and_every_id_is_used_once() -> None:
    ids = [row[0] for row in ROWS]
    assert len(ids) > 30
    assert all(re.fullmatch(r"[A-Z]+[A-Z0-9]*-[1-9][0-9]*", one) for one in ids)
    assert [one for one, count in Counter(ids).items() if count > 1] == []


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_requirement_names_tests_and_they_exist(row: list[str]) -> None:
    _, requirement, cell = row
    named = re.findall(r"`([^`]+)::([^`]+)`", cell)
    assert requirement
    assert named
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert test in names_in(ROOT / file), f"{file} holds no {test}"
