"""Licences: docs/licences.md lists all that the extras bring, and none of it is under the GPL or the AGPL."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "licences.md").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCANNER = ("cpu", "openvino", "gpu", "tensorrt", "tensorrt-rtx", "slides", "czi", "signing")
WORKSHOP = ("train", "weights", "export", "int8", "benchmark", "peers")
COPYLEFT_LIBRARY = re.compile(
    r"lib(gomp|gfortran|quadmath|avcodec|avdevice|avfilter|avformat|avutil|swresample|swscale)\b"
)
INSTALLED: dict[str, Distribution] = {canonicalize_name(found.name): found for found in distributions()}


def required(extras: Collection[str]) -> dict[str, Distribution | None]:
    """All distributions that the project with these extras needs here; None where one is not installed."""
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        waiting += [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    found: dict[str, Distribution | None] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        if name == PROJECT["name"]:
            waiting += [Requirement(line) for extra in wanted for line in PROJECT["optional-dependencies"][extra]]
            continue
        found[name] = installed = INSTALLED.get(name)
        needs = map(Requirement, (installed.requires or ()) if installed else ())
        waiting += [need for need in needs if applies(need, wanted)]
    return found


def applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def statements(distribution: Distribution) -> list[str]:
    """What the metadata say of the licence, the newest field first; a whole text in a field of one line is none."""
    metadata = distribution.metadata
    one_line = [metadata[field] for field in ("License-Expression", "License") if metadata[field]]
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")]
    said = [line for line in one_line if "\n" not in line.strip()] + classifiers
    return [re.sub(r"^(License :: )?(OSI Approved :: )?", "", line.strip()) for line in said]


def forbidden(statement: str) -> bool:
    """Whether a statement asks for the GPL or the AGPL; the LGPL is another licence, and of a choice one is taken."""
    if choice := re.search(r"\(([^()]+) OR ([^()]+)\)", statement):
        return all(forbidden(statement.replace(choice.group(), taken)) for taken in choice.groups())
    without_lesser = re.sub(r"LGPL|(Library or )?Lesser General Public", "", statement)
    return re.search(r"GPL|Affero|General Public", without_lesser) is not None


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading of docs/licences.md, by their first cell."""
    section = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def everything() -> dict[str, Distribution | None]:
    return required(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(("heading", "extras"), [("On the scanner", SCANNER), ("In the workshop", WORKSHOP)])
def test_every_distribution_that_an_extra_brings_is_listed(heading: str, extras: tuple[str, ...]) -> None:
    listed = set(table("On the scanner")) | set(table(heading))
    assert set(required(extras)) - listed == set()


def test_every_direct_dependency_is_listed_and_no_extra_is_forgotten() -> None:
    listed = {name for heading in ("On the scanner", "In the workshop", "Tools") for name in table(heading)}
    lines = [line for extra in PROJECT["optional-dependencies"].values() for line in extra] + PROJECT["dependencies"]
    direct = {canonicalize_name(Requirement(line).name) for line in lines} - {PROJECT["name"]}
    assert direct - listed == set()
    assert set(PROJECT["optional-dependencies"]) == {*SCANNER, *WORKSHOP, "dev"}


@pytest.mark.parametrize("heading", ["On the scanner", "In the workshop", "Tools"])
def test_a_listed_licence_is_the_one_that_the_installed_metadata_state(heading: str) -> None:
    listed = {name: cells[0] for name, cells in table(heading).items() if name in INSTALLED}
    assert listed
    assert listed == {name: next(iter(statements(INSTALLED[name])), "none stated") for name in listed}


def test_nothing_that_is_needed_is_under_the_gpl_or_the_agpl() -> None:
    installed = [found for found in everything().values() if found is not None]
    assert len(installed) > 80
    assert {found.name: said for found in installed for said in statements(found) if forbidden(said)} == {}


@pytest.mark.parametrize(
    ("field", "refused"),
    [
        ("License-Expression: AGPL-3.0-or-later", True),
        ("License-Expression: MIT AND GPL-2.0-only", True),
        ("License: GPLv3", True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("License-Expression: LGPL-2.1-or-later", False),
        ("License-Expression: MIT AND (BSD-3-Clause OR GPL-2.0-only)", False),
        ("License-Expression: (AGPL-3.0-only OR GPL-2.0-only) AND MIT", True),
        ("License: MPL-2.0 AND MIT", False),
    ],
)
def test_the_gpl_is_found_in_whatever_field_it_stands(tmp_path: Path, field: str, refused: bool) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up\nVersion: 1\n{field}\n")
    (said,) = statements(Distribution.at(tmp_path))
    assert forbidden(said) is refused


def test_every_copyleft_library_inside_a_wheel_is_listed() -> None:
    """Wheels carry compilers' run-time libraries and FFmpeg beside code of another licence."""
    found = {
        (name, library.group())
        for name, distribution in everything().items()
        for file in (distribution.files or () if distribution else ())
        if (library := COPYLEFT_LIBRARY.match(file.name)) and ".so" in file.name
    }
    listed = {
        (name, library) for library, cells in table("Libraries inside wheels").items() for name in cells[1].split(", ")
    }
    assert found - listed == set()


def test_a_distribution_under_the_lgpl_is_named_as_such() -> None:
    lesser = {
        name
        for name, found in everything().items()
        if found is not None and any("LGPL" in said or "Lesser General" in said for said in statements(found))
    }
    named = {name for cells in table("Libraries inside wheels").values() for name in cells[1].split(", ")}
    assert lesser - named == set()
