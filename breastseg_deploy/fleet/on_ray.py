"""A fleet on Ray: one opened bundle per actor; rows are paths, so that no pixel travels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import MachineError
from breastseg_deploy.extras import require
from breastseg_deploy.fleet.task import Job, Task
from breastseg_deploy.fleet.worker import Worker
from breastseg_deploy.progress import Progress

_LOCAL = "local"


class _Actor:
    """Settles one input per row."""

    def __init__(self, job: Job, folder: Path, retries: int) -> None:
        self._worker, self._open = Worker(job, folder, retries), ExitStack()
        self._do = self._open.enter_context(job.open())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = Task(row["name"], Path(row["path"]))
        for _ in range(row["attempts"]):
            if self._worker.attempt(task, self._do):
                return {"name": task.name, "settled": True}
        return {"name": task.name, "settled": False}  # another fleet works on it


def work_on_ray(
    tasks: Sequence[Task], job: Job, folder: Path, workers: int, retries: int, address: str = _LOCAL
) -> None:
    """Settle every input by a pool of actors; what other fleets hold is asked for again until it is settled.

    Args:
        tasks: the inputs; every node must see their paths, and `folder`, under the same names.
        job: what to do with each.
        folder: of the outputs.
        workers: actors.
        retries: see `worker.Worker`.
        address: of a Ray cluster, "auto" for the one of this machine, or "local" for one that starts and ends here.

    Raises:
        MachineError: Ray is not installed, or see `start_ray`.
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    start_ray(ray, address)
    try:
        data.DataContext.get_current().enable_progress_bars = False
        waiting = {task.name: task for task in tasks}
        with Progress("fleet on Ray", len(tasks), "inputs") as progress:
            while waiting:
                rows = [{"name": one.name, "path": str(one.path), "attempts": retries + 1} for one in waiting.values()]
                pool = data.ActorPoolStrategy(size=min(workers, len(rows)))
                answers = data.from_items(rows, override_num_blocks=len(rows)).map(
                    _Actor, fn_constructor_args=(job, folder, retries), compute=pool
                )
                for answer in answers.iter_rows():
                    if answer["settled"]:
                        waiting.pop(answer["name"])
                        progress.update()
    finally:
        ray.shutdown()


def start_ray(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one here.

    Args:
        ray: the module.
        address: see `work_on_ray`.

    Raises:
        MachineError: there is no cluster at that address, or Ray does not start here.
    """
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    except Exception as err:  # a bare Exception where Ray's own processes are too slow to start
        if address == _LOCAL:
            raise MachineError(
                f"Ray does not start here ({err}); start again when this machine has less to do"
            ) from err
        raise MachineError(f"no Ray cluster answers at {address} ({err}); start one with `ray start --head`") from err
