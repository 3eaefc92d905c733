"""Processes that are started together end together, and with a reason."""

from __future__ import annotations

import os
import signal
import time

import pytest
from torch import distributed

from breastseg_deploy.errors import TrainingError
from breastseg_train.run.processes import Place, place, run_in_processes


def second_fails_while_the_first_waits() -> None:
    distributed.init_process_group("gloo")
    if place().rank == 1:
        raise TrainingError("the second process says why")
    distributed.barrier()


def second_is_killed() -> None:
    distributed.init_process_group("gloo")
    if place().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_the_error_of_one_process_ends_the_others() -> None:
    with pytest.raises(TrainingError, match="the second process says why"):
        run_in_processes(second_fails_while_the_first_waits, 2)


def test_a_killed_process_ends_the_others_and_is_named() -> None:
    with pytest.raises(TrainingError, match="process 1 of the run ended with signal SIGKILL"):
        run_in_processes(second_is_killed, 2, grace_seconds=0.1)


def where() -> Place:
    return place()


def test_each_process_knows_its_place_and_the_first_answers() -> None:
    assert place() == Place(0, 1, 1)
    assert run_in_processes(where, 2) == Place(0, 2, 2)
