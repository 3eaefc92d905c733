"""What was found out about engines on this machine: those that passed their self-test, those that would not load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from breastseg_deploy.engines.private import PrivateFolder, cache_place
from breastseg_deploy.engines.store import Engine
from breastseg_deploy.version import __version__


def self_test_passed(engine: Engine, device: str = "") -> bool:
    """Whether exactly this plan has passed its self-test on this machine, with this version of the toolkit.

    Args:
        engine: the engine.
        device: what the verdict depends on besides the plan, in words, e.g. the GPU's name and driver version; the same
            words must be given to `record_self_test`.

    Raises:
        MachineError: the cache belongs to another user, or others may write to it.
        OutputError: the cache cannot be made.
    """
    return _known(_self_test(engine, device))


def record_self_test(engine: Engine, figures: Mapping[str, float], device: str = "") -> None:
    """Keep that this plan has passed its self-test here.

    Args:
        engine: the engine.
        figures: what was measured, by name.
        device: see `self_test_passed`.

    Raises:
        MachineError: the cache belongs to another user, or others may write to it.
        OutputError: the cache cannot be written.
    """
    facts = {"sha256": engine.sha256, "figures": dict(figures), "tested_at": _now()}
    _record(_self_test(engine, device), engine, device, facts)


def rebuilding_is_vain(engine: Engine, device: str) -> bool:
    """Whether an engine like this one was built on this machine already and would not load on this device either.

    Args:
        engine: one that will not load.
        device: what loading depends on besides the plan, in words; the same must be given to `record_vain_build`.

    Raises:
        MachineError: the cache belongs to another user, or others may write to it.
        OutputError: the cache cannot be made.
    """
    return _known(_vain_build(engine, device))


def record_vain_build(engine: Engine, device: str) -> None:
    """Keep that an engine built just now will not load: no later process spends minutes on finding that out again.

    Raises:
        MachineError: the cache belongs to another user, or others may write to it.
        OutputError: the cache cannot be written.
    """
    _record(_vain_build(engine, device), engine, device, {"built_at": _now()})


def _self_test(engine: Engine, device: str) -> str:
    return _file("self-test", engine.sha256, device)


def _vain_build(engine: Engine, device: str) -> str:
    return _file("vain-build", engine.key.digest, device)


def _file(kind: str, subject: str, device: str) -> str:
    words = json.dumps([subject, __version__, device])
    return f"{kind}-{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


def _known(file: str) -> bool:
    return PrivateFolder.open(cache_place()).read(file) is not None


def _record(file: str, engine: Engine, device: str, facts: Mapping[str, Any]) -> None:
    verdict = {"engine": asdict(engine.key), "device": device, "toolkit": __version__, **facts}
    PrivateFolder.open(cache_place()).write(file, json.dumps(verdict, indent=2).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
