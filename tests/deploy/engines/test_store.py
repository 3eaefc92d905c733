"""Where an engine comes from, and what is never loaded."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from breastseg_deploy.artefacts import EngineEntry
from breastseg_deploy.bundle import ENGINE, ENGINES, NETWORK_FP16, Bundle
from breastseg_deploy.engines.build import BuiltEngine
from breastseg_deploy.engines.flavour import FLAVOURS, FlavourName
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import Engine, EngineKey
from breastseg_deploy.engines.store import obtain_engine as obtain_engine_on
from breastseg_deploy.errors import BackendError, BundleError, MachineError, OutputError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Artefact, FileEntry
from breastseg_deploy.verdicts import PrivateFolder

rtx = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'breastseg-deploy[tensorrt-rtx]'"
)

REQUEST = EngineRequest(FLAVOURS["tensorrt-rtx"], "8.6")
ONE_OF_TWO = Path(__file__).with_name("one_of_two.py")


def obtain_engine(bundle: Bundle, request: EngineRequest, *rest: Any, **more: Any) -> Engine:
    """On this machine."""
    return obtain_engine_on(bundle, request, Machine(), *rest, **more)


class Builder:
    """Stands for `build_engine` where the subject is the cache; counts its calls."""

    def __init__(self, plan: bytes = b"a plan", timings: bytes | None = None) -> None:
        self.plan, self.timings = plan, timings
        self.given: list[tuple[Any, ...]] = []

    def __call__(self, *given: Any) -> BuiltEngine:
        self.given.append(given)
        return BuiltEngine(self.plan, {"CONVOLUTION": {"HALF": 1}}, 0.5, self.timings)


def never(*_: Any) -> BuiltEngine:
    raise AssertionError("nothing was to be built")


def ship(bundle: Bundle, plan: bytes, **change: str) -> Bundle:
    """The bundle with an engine in it, tied to what the request asks for unless told otherwise."""
    key = replace(EngineKey.of_request(bundle.manifest.files[NETWORK_FP16].sha256, REQUEST), **change)
    entry = EngineEntry(
        **{field.name: getattr(key, field.name) for field in fields(key)},
        file=key.bundle_file,
        layer_types={},
        build_seconds=1.0,
        verified=False,
        verification="not run on a GPU",
    )
    (bundle.path / ENGINES).mkdir(exist_ok=True)
    (bundle.path / entry.file).write_bytes(plan)
    file = FileEntry(bytes=len(plan), sha256=hashlib.sha256(plan).hexdigest())
    files = {**bundle.manifest.files, entry.file: file}
    engine = Artefact(
        role=ENGINE,
        files=(entry.file,),
        inputs=(),
        outputs=(),
        limits=None,
        parity=(),
        details=entry.model_dump(mode="json"),
    )
    manifest = bundle.manifest.model_copy(update={"artefacts": (*bundle.manifest.artefacts, engine), "files": files})
    return Bundle(bundle.path, manifest)


def plan_file(cache: Path) -> Path:
    (found,) = cache.glob("*.plan")
    return found


def refusal(call: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_engine_is_built_once_and_then_comes_from_the_cache(bundle: Bundle) -> None:
    builder = Builder()
    first = obtain_engine(bundle, REQUEST, build=builder)
    again = obtain_engine(bundle, REQUEST, build=never)
    assert (first.origin, again.origin) == ("built", "cache")
    assert first.plan == again.plan == b"a plan"
    assert first.sha256 == again.sha256 == hashlib.sha256(b"a plan").hexdigest()
    assert len(builder.given) == 1


def test_a_real_engine_goes_through_the_cache_whole(bundle: Bundle) -> None:
    told: list[str] = []
    built = obtain_engine(bundle, REQUEST, told.append)
    assert any("2 convolutions, 1 FLOAT, 1 HALF" in words for words in told)
    assert obtain_engine(bundle, REQUEST, build=never).plan == built.plan


def test_the_builder_gets_the_bundles_network_and_its_islands(bundle: Bundle) -> None:
    builder = Builder()
    obtain_engine(bundle, REQUEST, build=builder)
    network, request, islands, _, timings = builder.given[0]
    assert network == (bundle.path / NETWORK_FP16).read_bytes()
    assert (request, islands, timings) == (REQUEST, ("stem",), None)


def test_timings_of_a_build_help_the_next(bundle: Bundle) -> None:
    obtain_engine(bundle, REQUEST, build=Builder(timings=b"timings"))
    later = Builder()
    obtain_engine(bundle, replace(REQUEST, max_batch=4), build=later)
    assert later.given[0][-1] == b"timings"


@pytest.mark.parametrize(
    "change",
    [
        {"network_sha256": "0" * 64},
        {"flavour": "tensorrt"},
        {"version": "1.0"},
        {"compute_capability": "8.9"},
        {"precision": "bf16"},
        {"min_batch": 2},
        {"max_batch": 4},
        {"workspace_bytes": 4 << 30},
        {"gpu": "NVIDIA H200"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_an_engine_is_tied_to_makes_it_another(change: dict[str, Any]) -> None:
    key = EngineKey("1" * 64, "tensorrt-rtx", "1.7", "8.6", "fp16", 1, 8, 1 << 30, "")
    assert {field.name for field in fields(key)} >= set(change)
    assert replace(key, **change).digest != key.digest


def test_an_engine_of_the_bundle_is_named_by_what_it_is_tied_to() -> None:
    key = EngineKey("1" * 64, "tensorrt-rtx", "1.7.1.116", "8.6", "fp16", 1, 8, 1 << 30, "")
    assert key.bundle_file == "engines/tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-w1024.plan"
    h200 = replace(key, flavour="tensorrt", version="11.4.0.106", compute_capability="9.0", gpu="NVIDIA H200 NVL")
    assert h200.bundle_file == "engines/tensorrt-11.4.0.106-sm90-nvidia-h200-nvl-fp16-b1-8-w1024.plan"


@pytest.mark.parametrize(("flavour", "gpu"), [("tensorrt", "NVIDIA H200"), ("tensorrt-rtx", "")])
def test_an_engine_of_tensorrt_alone_is_tied_to_the_model_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, flavour: FlavourName, gpu: str
) -> None:
    """An H100 and an H200 share compute capability 9.0, and TensorRT warns of plans of the other one."""
    vendor = ModuleType("vendor")
    vars(vendor).update(__version__="11.4")
    monkeypatch.setitem(sys.modules, FLAVOURS[flavour].module, vendor)
    request = EngineRequest(FLAVOURS[flavour], "9.0", gpu="NVIDIA H200")
    assert EngineKey.of_request("1" * 64, request).gpu == gpu


def test_the_key_holds_all_that_was_asked_for() -> None:
    request = EngineRequest(FLAVOURS["tensorrt-rtx"], "8.9", min_batch=2, max_batch=4, workspace_bytes=123 << 20)
    assert EngineKey.of_request("1" * 64, request) == EngineKey(
        "1" * 64, "tensorrt-rtx", rtx.__version__, "8.9", "fp16", 2, 4, 123 << 20, ""
    )


# of the bundle


def test_the_bundles_own_engine_is_taken_where_it_fits(bundle: Bundle, cache: Path) -> None:
    engine = obtain_engine(ship(bundle, b"shipped"), REQUEST, build=never)
    assert (engine.origin, engine.plan) == ("bundle", b"shipped")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "1.6.0"}, "tensorrt-rtx 1.6.0, compute capability 8.6"),
        ({"compute_capability": "8.9"}, "compute capability 8.9, fp16"),
        ({"network_sha256": "0" * 64}, "the bundle holds engines for"),
    ],
    ids=["another TensorRT", "another GPU", "another network"],
)
def test_a_stale_or_foreign_engine_is_named_and_one_is_built(
    bundle: Bundle, change: dict[str, str], words: str
) -> None:
    told: list[str] = []
    engine = obtain_engine(ship(bundle, b"shipped", **change), REQUEST, told.append, Builder())
    assert (engine.origin, engine.plan) == ("built", b"a plan")
    assert words in told[0]
    assert f"this machine needs one for: tensorrt-rtx {rtx.__version__}, compute capability 8.6" in told[0]


def test_an_altered_engine_of_the_bundle_is_refused(bundle: Bundle) -> None:
    shipped = ship(bundle, b"shipped")
    (bundle.path / shipped.manifest.artefacts_of(ENGINE)[0].files[0]).write_bytes(b"altered")
    said = refusal(lambda: obtain_engine(shipped, REQUEST, build=never), BundleError)
    assert "was altered: its SHA-256 is not the one in the manifest" in said


def test_a_bundle_without_the_float16_network_is_refused(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"files": {}, "artefacts": (), "precision": "fp32"})
    said = refusal(lambda: obtain_engine(Bundle(bundle.path, manifest), REQUEST, build=never), BundleError)
    assert said.endswith(f"holds no {NETWORK_FP16}, and engines are made of it; export it again with --precision fp16")


def test_an_engine_of_the_bundle_that_would_not_load_is_passed_over_for_one_that_is_built_and_kept(
    bundle: Bundle,
) -> None:
    shipped, told = ship(bundle, b"shipped"), list[str]()
    refused = {obtain_engine(shipped, REQUEST, build=never).sha256}
    built = obtain_engine(shipped, REQUEST, told.append, Builder(), refused)
    again = obtain_engine(shipped, REQUEST, told.append, never, refused)
    assert [(engine.origin, engine.plan) for engine in (built, again)] == [("built", b"a plan"), ("cache", b"a plan")]
    assert told == []  # it is no foreign one


# of the cache


def test_an_engine_of_the_cache_that_would_not_load_is_replaced(bundle: Bundle, cache: Path) -> None:
    refused = {obtain_engine(bundle, REQUEST, build=Builder()).sha256}
    rebuilt = obtain_engine(bundle, REQUEST, build=Builder(b"another plan"), refused=refused)
    assert (rebuilt.origin, rebuilt.plan) == ("built", b"another plan")
    assert plan_file(cache).read_bytes() == b"another plan"


def test_an_altered_plan_is_refused(bundle: Bundle, cache: Path) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    plan_file(cache).write_bytes(b"A plan")
    said = refusal(lambda: obtain_engine(bundle, REQUEST, build=never), BackendError)
    assert said.startswith(f"the engine {plan_file(cache)} was altered: its SHA-256 is not the one it was built with")


def test_a_truncated_engine_is_rebuilt_and_reported(bundle: Bundle, cache: Path) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    os.truncate(plan_file(cache), 3)
    told: list[str] = []
    engine = obtain_engine(bundle, REQUEST, told.append, Builder(b"another plan"))
    assert (engine.origin, engine.plan) == ("built", b"another plan")
    assert told[0].endswith("has 3 of 6 bytes; it is built again")
    assert plan_file(cache).read_bytes() == b"another plan"  # and the truncated one is gone


def test_a_missing_plan_is_rebuilt_and_reported(bundle: Bundle, cache: Path) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    plan_file(cache).unlink()
    told: list[str] = []
    assert obtain_engine(bundle, REQUEST, told.append, Builder()).origin == "built"
    assert told[0].endswith("is missing; it is built again")


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"sha256": "../../etc/passwd"}'])
def test_a_record_that_is_none_is_rebuilt_and_reported(bundle: Bundle, cache: Path, content: str) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    (record,) = cache.glob("*.json")
    record.write_text(content)
    told: list[str] = []
    assert obtain_engine(bundle, REQUEST, told.append, Builder()).origin == "built"
    assert "is no record of an engine for" in told[0]


def test_a_record_of_another_engine_is_not_believed(bundle: Bundle, cache: Path) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    (record,) = cache.glob("*.json")
    raw = json.loads(record.read_text())
    raw["key"]["compute_capability"] = "8.9"
    record.write_text(json.dumps(raw))
    assert obtain_engine(bundle, REQUEST, build=Builder()).origin == "built"


def test_a_record_cannot_name_a_file_elsewhere(bundle: Bundle, cache: Path, tmp_path: Path) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    (tmp_path / "elsewhere.plan").write_bytes(b"a plan")
    (record,) = cache.glob("*.json")
    raw = json.loads(record.read_text())
    record.write_text(json.dumps({**raw, "sha256": "../elsewhere"}))
    assert obtain_engine(bundle, REQUEST, build=Builder(b"built")).plan == b"built"


@pytest.mark.parametrize("name", ["*.plan", "*.json"])
def test_a_file_that_others_may_write_to_is_refused(bundle: Bundle, cache: Path, name: str) -> None:
    obtain_engine(bundle, REQUEST, build=Builder())
    (file,) = cache.glob(name)
    file.chmod(0o666)
    said = refusal(lambda: obtain_engine(bundle, REQUEST, build=never), MachineError)
    assert f"others may write to {file} (mode 0666), so nothing in it is trusted" in said


def test_a_cache_that_others_may_write_to_is_refused_before_anything_is_built(bundle: Bundle, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert "others may write to" in refusal(lambda: obtain_engine(bundle, REQUEST, build=never), MachineError)


def test_a_failed_build_leaves_no_record_and_the_next_one_builds(bundle: Bundle, cache: Path) -> None:
    def fails(*_: Any) -> BuiltEngine:
        raise BackendError("no")

    assert refusal(lambda: obtain_engine(bundle, REQUEST, build=fails), BackendError) == "no"
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert obtain_engine(bundle, REQUEST, build=Builder()).origin == "built"


def test_a_cache_without_room_leaves_no_record(bundle: Bundle, cache: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1][1]))  # a full disk, as far as a test may make one
        refusal(lambda: obtain_engine(bundle, REQUEST, build=Builder(b"plan" * 1000)), OutputError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert not list(cache.glob("*.json"))


# two at once


def test_two_processes_that_build_at_once_make_one_engine(bundle: Bundle, tmp_path: Path) -> None:
    builds, start = tmp_path / "builds", tmp_path / "start"
    command = [sys.executable, str(ONE_OF_TWO), str(bundle.path), str(builds), str(start)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start.touch()
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert builds.read_text() == "built\n"
    origins, hashes = zip(*(out.split() for out, _ in told), strict=True)
    assert sorted(origins) == ["built", "cache"]
    assert len(set(hashes)) == 1
    waited = told[origins.index("cache")][1]
    assert "another process builds this engine already; waiting for it" in waited


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from breastseg_deploy.verdicts import PrivateFolder\n"
        "with PrivateFolder(Path(sys.argv[1])).locked('a.lock', lambda: None):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waited: list[str] = []

    def kill_it() -> None:
        waited.append("told")
        holder.kill()
        holder.communicate()

    with folder.locked("a.lock", kill_it):
        pass
    assert waited == ["told"]
