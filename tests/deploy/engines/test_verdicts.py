"""What is kept of engines that passed their self-test, and of those that would not load."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from breastseg_deploy.engines.store import Engine, EngineKey
from breastseg_deploy.engines.verdicts import (
    rebuilding_is_vain,
    record_self_test,
    record_vain_build,
    self_test_passed,
)
from breastseg_deploy.errors import MachineError


def engine(plan: bytes = b"a plan") -> Engine:
    key = EngineKey("1" * 64, "tensorrt-rtx", "1.7", "8.6", "fp16", 1, 1, 8)
    return Engine(plan, key, hashlib.sha256(plan).hexdigest(), "built")


def test_no_engine_has_passed_before_it_was_tested() -> None:
    assert not self_test_passed(engine())


def test_a_verdict_holds_for_exactly_this_plan_and_device() -> None:
    record_self_test(engine(), {"worst_dice": 0.999}, "GPU A, driver 580")
    assert self_test_passed(engine(), "GPU A, driver 580")
    assert not self_test_passed(engine(), "GPU A, driver 590")
    assert not self_test_passed(engine())
    assert not self_test_passed(engine(b"another plan"), "GPU A, driver 580")


def test_a_verdict_of_another_version_of_the_toolkit_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    record_self_test(engine(), {})
    monkeypatch.setattr("breastseg_deploy.engines.verdicts.__version__", "99")
    assert not self_test_passed(engine())


def test_a_verdict_keeps_its_figures(cache: Path) -> None:
    record_self_test(engine(), {"worst_dice": 0.5}, "GPU A")
    (verdict,) = cache.glob("self-test-*.json")
    raw = json.loads(verdict.read_text())
    assert (raw["figures"], raw["device"], raw["sha256"]) == ({"worst_dice": 0.5}, "GPU A", engine().sha256)


def test_a_verdict_that_others_could_have_written_is_refused(cache: Path) -> None:
    record_self_test(engine(), {})
    (verdict,) = cache.glob("self-test-*.json")
    verdict.chmod(0o666)
    with pytest.raises(MachineError, match="others may write to"):
        self_test_passed(engine())


def test_no_build_is_vain_before_one_was_tried() -> None:
    assert not rebuilding_is_vain(engine(), "GPU A, driver 580")


def test_a_vain_build_holds_for_every_plan_of_its_key_on_that_device() -> None:
    record_vain_build(engine(), "GPU A, driver 580")
    assert rebuilding_is_vain(engine(b"another plan"), "GPU A, driver 580")
    assert not rebuilding_is_vain(engine(), "GPU A, driver 590")
    other = replace(engine(), key=replace(engine().key, version="1.8"))
    assert not rebuilding_is_vain(other, "GPU A, driver 580")
    assert not self_test_passed(engine(), "GPU A, driver 580")
