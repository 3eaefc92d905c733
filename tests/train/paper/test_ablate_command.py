"""`breastseg ablate` from its arguments to its table."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_ablation import UNET

from breastseg_deploy.cli.command import Command, run_command
from breastseg_train.paper.ablate_command import COMMAND, ablate_command, chosen_configurations
from breastseg_train.run.configuration import PRESETS, TABLE_II, Configuration


def parsed(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def run(*arguments: object, command: Command = COMMAND) -> int:
    return run_command(command, parsed(*arguments))


def test_the_table_is_printed_and_one_json_object_on_request(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", data_root, "--output", tmp_path / "table", "--presets", "unet", "--seed", 3)
    small = ablate_command({"unet": UNET})
    assert run(*arguments, command=small) == 0
    assert capsys.readouterr().out == (tmp_path / "table" / "table.md").read_text()
    assert run(*arguments, "--json", command=small) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["seed"] == 3


def chosen(*arguments: object) -> list[Configuration]:
    return chosen_configurations(parsed("--data", "data", "--output", "table", *arguments))


def test_table_ii_is_what_is_run_by_default_and_the_arguments_reach_every_preset() -> None:
    asked = chosen("--small", "--epochs", 12, "--validate-every", 2)
    assert [configuration.preset for configuration in asked] == list(TABLE_II)
    for configuration in asked:
        small = PRESETS[configuration.preset].small()
        assert configuration == replace(small, epochs=12, validate_every_epochs=2)


def test_epochs_that_the_presets_interval_does_not_divide_are_validated_more_often(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = chosen("--small", "--epochs", 2)
    assert {(configuration.epochs, configuration.validate_every_epochs) for configuration in asked} == {(2, 2)}
    assert "paper: 2 epochs are no multiple of 4" in capsys.readouterr().err


def test_an_unknown_preset_is_named_before_anything_is_trained(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", data_root, "--output", tmp_path / "table", "--presets", "unet", "vnet") == 1
    assert "no preset 'vnet'" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()
