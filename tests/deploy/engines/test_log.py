"""TensorRT's complaints belong to whoever called it, though it has one logger for the whole process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from breastseg_deploy.engines.log import first_error, heard, logger


class Vendor:
    """A TensorRT module as far as its logger goes."""

    class ILogger:
        INTERNAL_ERROR, ERROR, VERBOSE = (SimpleNamespace(name=name) for name in ("INTERNAL_ERROR", "ERROR", "VERBOSE"))


@pytest.fixture
def complain() -> Any:
    trt: Any = Vendor()
    made: Any = logger(trt)
    return lambda what: made.log(Vendor.ILogger.ERROR, f"Error Code 1:\n  {what}")


def test_the_first_complaint_of_a_block_is_told_in_one_line(complain: Any) -> None:
    with heard():
        complain("out of memory")
        complain("a consequence")
        assert first_error() == "Error Code 1: out of memory"
    with heard():
        assert first_error() == "TensorRT gave no reason"


def test_a_block_within_a_block_hears_its_own(complain: Any) -> None:
    with heard():
        complain("outer")
        with heard():
            complain("inner")
            assert first_error() == "Error Code 1: inner"
        assert first_error() == "Error Code 1: outer"


def test_engines_in_several_threads_do_not_hear_each_other(complain: Any) -> None:
    both = threading.Barrier(2, timeout=20)

    @heard()
    def load(name: str) -> str:
        both.wait()
        complain(name)
        both.wait()
        return first_error()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(load, ("one", "two"))) == ["Error Code 1: one", "Error Code 1: two"]


def test_a_thread_of_the_builder_is_heard_by_the_block_that_waits_for_it(complain: Any) -> None:
    with heard():
        builders = threading.Thread(target=complain, args=("no kernel",))
        builders.start()
        builders.join()
        assert first_error() == "Error Code 1: no kernel"
