"""Fleets: every input once, none twice, none missing, whatever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from fleet_jobs import Reverse

from breastseg_deploy.errors import ArgumentError, MachineError
from breastseg_deploy.fleet.ledger import DEATHS, LEDGER, Ledger
from breastseg_deploy.fleet.processes import work_in_processes
from breastseg_deploy.fleet.task import Task, parse_part, part_of
from breastseg_deploy.fleet.worker import CLAIMS, work_through

RETRIES = 1


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def make_tasks(folder: Path, count: int) -> list[Task]:
    tasks = []
    for number in range(count):
        path = folder / f"slide-{number:03d}.bin"
        path.write_bytes(random.Random(number).randbytes(200))
        tasks.append(Task(path.stem, path))
    return tasks


def states(output: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for line in (output / LEDGER).read_text().splitlines()]
    return {line["name"]: (line["state"], line["reason"]) for line in lines}


def assert_all_done(tasks: list[Task], output: Path) -> None:
    for task in tasks:
        assert (output / f"{task.name}.out").read_bytes() == task.path.read_bytes()[::-1]


def test_every_input_is_done_once_and_has_one_line_in_the_compact_ledger(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 5), Reverse(output)

    work_through(tasks, job, output, RETRIES)
    Ledger(output).compact()

    assert_all_done(tasks, output)
    assert [job.times(task.name, "begun") for task in tasks] == [1] * 5
    assert states(output) == {task.name: ("done", "") for task in tasks}
    assert len((output / LEDGER).read_text().splitlines()) == 5


def test_what_is_done_is_not_done_again(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 3), Reverse(output)
    work_through(tasks, job, output, RETRIES)
    Ledger(output).compact()

    work_through(tasks, job, output, RETRIES)

    assert [job.times(task.name, "begun") for task in tasks] == [1] * 3


def test_an_input_that_changed_or_another_job_is_done_anew(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 2), Reverse(output)
    work_through(tasks, job, output, RETRIES)
    tasks[0].path.write_bytes(b"another content")

    work_through(tasks, job, output, RETRIES)
    assert [job.times(task.name, "begun") for task in tasks] == [2, 1]
    assert_all_done(tasks, output)

    work_through(tasks, Reverse(output, key="reverse 2"), output, RETRIES)
    assert [job.times(task.name, "begun") for task in tasks] == [3, 2]


def test_an_input_that_fails_is_tried_again_and_then_set_aside_with_its_reason(tmp_path: Path, output: Path) -> None:
    tasks = make_tasks(tmp_path, 4)
    job = Reverse(output, fails=("slide-001",), fails_once=("slide-002",))

    work_through(tasks, job, output, retries=2)

    assert job.times("slide-001", "begun") == 3
    assert job.times("slide-002", "begun") == 2
    told = states(output)
    assert told["slide-001"][0] == "set aside"
    assert "slide-001.bin is damaged" in told["slide-001"][1]
    assert told["slide-002"] == ("done", "")


def test_an_error_that_nobody_expected_is_the_inputs_and_not_a_death_of_its_worker(
    tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = make_tasks(tmp_path, 3)
    job = Reverse(output, surprises=("slide-001",))

    work_through(tasks, job, output, retries=1)

    assert job.times("slide-001", "begun") == 2
    assert states(output)["slide-001"] == (
        "set aside",
        "an error that nobody expected, ZeroDivisionError: by nothing; the worker's log has the details",
    )
    assert "Traceback" in caplog.text
    assert_all_done([tasks[0], tasks[2]], output)


def test_an_input_whose_worker_always_dies_is_set_aside_and_the_rest_is_done(tmp_path: Path, output: Path) -> None:
    tasks = make_tasks(tmp_path, 3)
    job = Reverse(output, kills=("slide-000",))

    work_in_processes(tasks, job, output, workers=1, retries=RETRIES)

    state, reason = states(output)["slide-000"]
    assert state == "set aside"
    assert reason.startswith(f"{DEATHS} workers ended on it without an error: ")
    assert_all_done(tasks[1:], output)


def test_workers_that_cannot_open_the_job_end_the_fleet_with_a_sentence(
    tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = Reverse(output, refuses=("worker 0", "worker 1"))
    with pytest.raises(MachineError, match="no worker could begin, for the reason that stands above"):
        work_in_processes(make_tasks(tmp_path, 2), job, output, workers=2, retries=RETRIES)

    assert capfd.readouterr().err.count("the engine is not installed") == 2


def test_a_worker_that_cannot_begin_leaves_the_work_to_the_others(tmp_path: Path, output: Path) -> None:
    tasks = make_tasks(tmp_path, 6)
    work_in_processes(tasks, Reverse(output, takes_s=0.3, refuses=("worker 0",)), output, workers=2, retries=RETRIES)
    assert_all_done(tasks, output)


def test_two_fleets_in_one_folder_share_the_work(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 12), Reverse(output, takes_s=0.05)
    spawn = multiprocessing.get_context("spawn")
    fleets = [spawn.Process(target=work_in_processes, args=(tasks, job, output, 2, RETRIES)) for _ in range(2)]

    for fleet in fleets:
        fleet.start()
    for fleet in fleets:
        fleet.join(60)

    assert [fleet.exitcode for fleet in fleets] == [0, 0]
    assert_all_done(tasks, output)
    assert [job.times(task.name, "ended") for task in tasks] == [1] * 12


def test_kills_of_workers_and_driver_leave_nothing_twice_and_nothing_missing(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 30), Reverse(output, takes_s=0.03)
    spawn, chance = multiprocessing.get_context("spawn"), random.Random(7)
    ends = time.monotonic() + 90

    def driver() -> multiprocessing.process.BaseProcess:
        process = spawn.Process(target=work_in_processes, args=(tasks, job, output, 3, RETRIES))
        process.start()
        return process

    fleet = driver()
    for turn in range(6):
        time.sleep(chance.uniform(0.3, 1.0))
        victims = _children(fleet.pid) if turn % 3 else [fleet.pid]
        if victims:
            _kill(chance.choice(victims))
        if not turn % 3:
            fleet.join(10)
            fleet = driver()
    fleet.join(max(0.0, ends - time.monotonic()))

    assert fleet.exitcode == 0
    assert_all_done(tasks, output)
    lines = [json.loads(line) for line in (output / LEDGER).read_text().splitlines()]
    assert sorted(line["name"] for line in lines if line["state"] == "done") == [task.name for task in tasks]
    assert not [line for line in lines if line["state"] == "set aside"]


def test_a_line_that_was_cut_off_by_a_kill_does_not_harm_the_next_one(tmp_path: Path, output: Path) -> None:
    tasks, job = make_tasks(tmp_path, 2), Reverse(output)
    (output / LEDGER).write_text('{"name": "slide-000", "sta')

    work_through(tasks, job, output, RETRIES)

    ledger = Ledger(output)
    assert all(ledger.settled(task, job.key) for task in tasks)


def test_claims_stay_in_a_hidden_folder(tmp_path: Path, output: Path) -> None:
    work_through(make_tasks(tmp_path, 1), Reverse(output), output, RETRIES)
    assert {one.name for one in output.iterdir() if not one.name.startswith(".")} == {LEDGER, "slide-000.out"}
    assert (output / CLAIMS).is_dir()


def test_parts_hold_every_input_once() -> None:
    everything = list(range(10))
    parts = [part_of(everything, number, 3) for number in (1, 2, 3)]
    assert sorted(one for part in parts for one in part) == everything
    assert {len(part) for part in parts} == {3, 4}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/3", "1/", "-1/3", "1/0"])
def test_a_part_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="a part is"):
        parse_part(text)


def _children(pid: int | None) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(pid: int | None) -> None:
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
