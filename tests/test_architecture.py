"""docs/architecture.md is held to the tree: its map, and what the packages use of the runtime."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
MAPPED = (".py", ".cu", ".j2", ".safetensors", ".html", ".mjs", ".hpp", ".cpp")
PACKAGES = [
    "breastseg_deploy",
    "train/breastseg_train",
    "export/breastseg_export",
    "benchmarks/breastseg_benchmark",
    "benchmarks/peers",
]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_has_one_line_for_each_file_and_no_other(package: str) -> None:
    section = TEXT.partition(f"\n### {package}\n")[2].partition("\n### ")[0]
    listed = re.findall(r"^\| `(\S+)` \| \S", section, re.MULTILINE)
    found = (path for path in (ROOT / package).rglob("*") if path.suffix in MAPPED and path.name != "__init__.py")
    assert sorted(listed) == sorted(path.relative_to(ROOT / package).as_posix() for path in found)


def test_the_other_packages_use_of_the_runtime_what_the_page_lists_and_no_more() -> None:
    paragraph = TEXT.partition("holds this list:\n")[2].partition("\n\n")[0]
    used = set()
    for package in PACKAGES[1:4]:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("breastseg_deploy"):
                    used |= {_module(str(node.module), alias.name) for alias in node.names}
    assert set(re.findall(r"`(\S+?)`", paragraph)) == used


def _module(module: str, name: str) -> str:
    """The module behind `from module import name`, without the package."""
    place = ROOT.joinpath(*module.split("."), f"{name}.py")
    return (f"{module}.{name}" if place.exists() else module).removeprefix("breastseg_deploy.")
