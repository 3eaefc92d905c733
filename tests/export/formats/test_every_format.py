"""What every format of an export owes, whichever it is.

A new format is held to it by its line in `formats_for` alone; what it does beyond that has a test file of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.manifest import Artefact
from breastseg_export.parity import failures


@pytest.fixture(params=["demo_bundle", "gated_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def test_each_artefact_names_what_it_reads_and_answers_and_files_that_are_there(bundle: Bundle) -> None:
    for artefact in bundle.manifest.artefacts:
        assert artefact.inputs
        assert artefact.outputs
        assert artefact.files
        assert all((bundle.path / file).is_file() for file in artefact.files)


def test_each_figure_of_parity_keeps_to_its_limits(bundle: Bundle) -> None:
    compared: list[Artefact] = [artefact for artefact in bundle.manifest.artefacts if artefact.limits is not None]
    assert compared
    for artefact in compared:
        assert artefact.parity[0].limits == artefact.limits
        assert failures({f"{artefact.role} in {parity.engine}": parity for parity in artefact.parity}) == []


def test_report_and_inspect_say_what_each_artefact_says_of_itself(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bundle.path)]) == 0
    told, report = capsys.readouterr().out, Path(bundle.path, "report.html").read_text()
    for artefact in bundle.manifest.artefacts:
        for label, _ in artefact.facts:
            assert label in told
            assert label in report
