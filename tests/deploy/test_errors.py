"""The error tree and the exit codes that stand for it."""

from __future__ import annotations

import argparse
import inspect
import json

import pytest

import breastseg_deploy
from breastseg_deploy import errors
from breastseg_deploy.cli.command import Command, run_command
from breastseg_deploy.errors import BreastsegError, MachineError, ParityError

TREE = [thing for thing in vars(errors).values() if inspect.isclass(thing)]


def test_every_error_belongs_to_the_one_tree() -> None:
    assert len(TREE) >= 9
    assert all(issubclass(error, BreastsegError) for error in TREE)


def test_the_whole_tree_is_shown_by_the_package() -> None:
    assert {error.__name__ for error in TREE} <= set(breastseg_deploy.__all__)


@pytest.mark.parametrize("error", TREE)
def test_exit_code_is_3_for_parity_4_for_the_machine_and_1_otherwise(error: type[BreastsegError]) -> None:
    assert error.exit_code == {ParityError: 3, MachineError: 4}.get(error, 1)


def test_too_little_memory_is_one_sentence_and_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(_: argparse.Namespace) -> int:
        raise MemoryError

    command = Command("ask for everything", lambda parser: None, greedy)
    assert run_command(command, argparse.Namespace()) == MachineError.exit_code
    assert capsys.readouterr().err == "error: this machine has too little memory for that; use smaller frames\n"


def test_what_the_operating_system_refuses_is_the_json_object_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(_: argparse.Namespace) -> int:
        raise OSError(36, "File name too long", "a")

    command = Command("open a file", lambda parser: None, refused)
    assert run_command(command, argparse.Namespace(json=True)) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["kind"] == "OSError"
    assert answer["error"].startswith("the operating system refused: [Errno 36] File name too long")
    assert said.err == f"error: {answer['error']}\n"
