"""Several processes that train one model: who this one is, and how they are started where nobody else started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from breastseg_deploy.errors import BreastsegError, TrainingError

GRACE_SECONDS = 5.0


class LostProcessError(TrainingError):
    """Another process of the run ended; what that one says is the reason."""


class Place(NamedTuple):
    """Where this process stands among those that train together; alone, it is the first of one.

    Attributes:
        rank: 0 for the first, which writes the run folder and prints.
        processes: number of processes, on all machines.
        processes_here: number of them on this machine.
    """

    rank: int = 0
    processes: int = 1
    processes_here: int = 1


def place() -> Place:
    """The place that torchrun, or `run_in_processes`, wrote into the environment."""
    rank, processes, processes_here = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1))
    )
    return Place(rank, processes, processes_here)


def run_in_processes(
    function: Callable[..., Any], count: int, *arguments: Any, grace_seconds: float = GRACE_SECONDS
) -> Any:
    """Call a function in `count` new processes, each in its `place`; what the first returns.

    Args:
        function: at the top of a module.
        count: processes on this machine; they share its processor threads.
        arguments: for the function; they must pickle.
        grace_seconds: how long the others may take to notice that one process failed, before they are ended.

    Raises:
        BreastsegError: what a process raised; the others are ended.
        TrainingError: a process ended silently, such as one killed for its memory.
    """
    context = multiprocessing.get_context("spawn")
    work, port = pickle.dumps((function, arguments)), _free_port()
    processes: list[BaseProcess] = []
    answers: list[Connection] = []
    try:
        for rank in range(count):
            answer, end = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_process, args=(rank, count, port, end, work))
            process.start()
            end.close()
            processes.append(process)
            answers.append(answer)
        # Each exit code is read once a round: one that comes up between two looks at it would never be waited for.
        while None in (codes := [process.exitcode for process in processes]) and not any(codes):
            wait([process.sentinel for process, code in zip(processes, codes, strict=True) if code is None])
        waiting = _still_running(processes, grace_seconds)
    finally:
        for process in processes:
            process.kill()  # does nothing to one that ended; the run folder is written whole or not at all
            process.join()
    outcomes = [
        LostProcessError(f"process {rank} of the run waited for another that had ended")
        if process in waiting
        else _outcome(rank, process, answer)
        for rank, (process, answer) in enumerate(zip(processes, answers, strict=True))
    ]
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failures:
        raise min(failures, key=lambda failure: isinstance(failure, LostProcessError))
    return outcomes[0]


def _process(rank: int, count: int, port: int, end: Connection, work: bytes) -> None:
    """What runs in a new process. `work` stays bytes until Ctrl-C is its parent's alone: unpickling imports torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    function, arguments = pickle.loads(work)

    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        answer = pickle.dumps(function(*arguments))  # send() would only lend the memory of tensors
        end.send_bytes(answer)
    except BreastsegError as err:
        end.send_bytes(pickle.dumps(err))
        raise SystemExit(err.exit_code) from err
    except RuntimeError as err:
        if not tells_of_a_lost_process(err):
            raise
        end.send_bytes(pickle.dumps(LostProcessError("another process of the run ended, and says why")))
        raise SystemExit(LostProcessError.exit_code) from err


def tells_of_a_lost_process(err: RuntimeError) -> bool:
    """Whether an error of torch.distributed says no more than that another process no longer answers."""
    return "gloo" in str(err) or any(kind.__name__ == "DistError" for kind in type(err).__mro__)


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _still_running(processes: list[BaseProcess], seconds: float) -> list[BaseProcess]:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process for process in processes if process.exitcode is None]


def _outcome(rank: int, process: BaseProcess, answer: Connection) -> Any:
    """What a process returned, or the error it ended with."""
    try:
        return pickle.loads(answer.recv_bytes())
    except EOFError:
        code = process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return TrainingError(
            f"process {rank} of the run ended with {how} and no reason (SIGKILL is often too little memory); what it "
            "printed may say more, and the run goes on from its last whole epoch with --resume"
        )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
