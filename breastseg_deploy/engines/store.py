"""Engines by what they are tied to: from the bundle, from this machine's private cache, or built now."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from breastseg_deploy.artefacts import EngineEntry, HalfPrecision, details_of
from breastseg_deploy.bundle import ENGINE, ENGINES, FP16, NETWORK_FP16, Bundle
from breastseg_deploy.engines.build import BuiltEngine, Say, build_engine
from breastseg_deploy.engines.flavour import load, version
from breastseg_deploy.engines.network import TypeHistogram
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.errors import BackendError, BundleError
from breastseg_deploy.machine import Machine
from breastseg_deploy.verdicts import PrivateFolder

Origin = Literal["bundle", "cache", "built"]
Build = Callable[[bytes, EngineRequest, tuple[str, ...], Say, bytes | None], BuiltEngine]


@dataclass(frozen=True)
class EngineKey:
    """All that an engine is tied to: where one of these differs, it is another engine."""

    network_sha256: str
    flavour: str
    version: str
    compute_capability: str
    precision: str
    min_batch: int
    max_batch: int
    workspace_bytes: int
    gpu: str

    @classmethod
    def of_request(cls, network_sha256: str, request: EngineRequest) -> EngineKey:
        """The key of the engine that this machine's TensorRT makes of a network.

        Raises:
            MachineError: the flavour is not installed.
        """
        return cls(
            network_sha256,
            request.flavour.name,
            version(load(request.flavour)),
            request.compute_capability,
            request.precision,
            request.min_batch,
            request.max_batch,
            request.workspace_bytes,
            "" if request.flavour.builds_for_other_gpus else request.gpu,
        )

    @classmethod
    def of_entry(cls, entry: EngineEntry) -> EngineKey:
        """The key of an engine of a bundle."""
        return cls(**entry.model_dump(include=set(cls.__dataclass_fields__)))

    @property
    def digest(self) -> str:
        """A short name for the key, the same on every machine."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def timed_on(self) -> str:
        """A short name for what timings of kernels are tied to."""
        words = json.dumps([self.flavour, self.version, self.compute_capability, self.gpu])
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    @property
    def bundle_file(self) -> str:
        """The engine's name inside a bundle, e.g. "engines/tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-w1024.plan".

        One of TensorRT names its GPU after the capability, e.g. "sm90-nvidia-h200"; w is the workspace in MiB.
        """
        model = "-" + re.sub("[^a-z0-9]+", "-", self.gpu.lower()).strip("-") if self.gpu else ""
        gpu = f"sm{self.compute_capability.replace('.', '')}{model}"
        batches = f"b{self.min_batch}-{self.max_batch}"
        workspace = f"w{self.workspace_bytes >> 20}"
        return f"{ENGINES}/{self.flavour}-{self.version}-{gpu}-{self.precision}-{batches}-{workspace}.plan"

    def __str__(self) -> str:
        gpu = f" of {self.gpu}" if self.gpu else ""
        return (
            f"{self.flavour} {self.version}, compute capability {self.compute_capability}{gpu}, {self.precision}, "
            f"batches of {self.min_batch} to {self.max_batch}, workspace {self.workspace_bytes >> 20} MiB"
        )


@dataclass(frozen=True)
class Engine:
    """A plan whose SHA-256 was checked, ready to be deserialised.

    Attributes:
        plan: native code.
        key: what it is tied to.
        sha256: of the plan.
        origin: where it came from.
    """

    plan: bytes
    key: EngineKey
    sha256: str
    origin: Origin


class _Record(BaseModel):
    """What the cache knows of an engine; the plan itself is named after its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: EngineKey
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # it names a file
    bytes: int
    layer_types: TypeHistogram
    build_seconds: float
    built_at: str

    @property
    def plan_name(self) -> str:
        return f"{self.sha256}.plan"


def obtain_engine(
    bundle: Bundle,
    request: EngineRequest,
    machine: Machine,
    say: Say = lambda _: None,
    build: Build = build_engine,
    refused: Collection[str] = (),
) -> Engine:
    """The engine of a bundle for a request: from the bundle, else from the cache, else built and put into the cache.

    Two processes that ask at the same time make one engine: the second waits for the first. An engine of the bundle
    that is tied to something else (another TensorRT, another GPU) is named to `say` before one is built in its place.

    Args:
        bundle: opened, so checked.
        request: for this machine's GPU.
        machine: in whose cache folder engines are kept.
        say: told what happens, in sentences.
        build: makes the engine where there is none.
        refused: SHA-256 of plans that fit and would not load here; they are passed over.

    Raises:
        BundleError: the bundle holds no float16 network, or a file of it was altered.
        MachineError: the flavour is not installed; the cache belongs to another user or others may write to it.
        BackendError: the build failed; a plan in the cache was altered.
        OutputError: the cache cannot be written.
    """
    network, half = bundle.manifest.files.get(NETWORK_FP16), details_of(bundle.manifest, FP16, HalfPrecision)
    if network is None or not half:
        raise BundleError(
            f"{bundle.path} holds no {NETWORK_FP16}, and engines are made of it; export it again with --precision fp16"
        )
    key = EngineKey.of_request(network.sha256, request)
    # The bundle's engine was hashed with the bundle; the cache is trusted where its folder is this user's alone.
    shipped = _from_bundle(bundle, key, say, refused)
    if shipped is not None:
        return shipped
    folder = PrivateFolder.open(machine.cache)
    kept = _from_cache(folder, key, say, refused)
    if kept is not None:
        return kept
    # One lock for each key: another model's build on another GPU is not waited for.
    waiting = partial(say, "another process builds this engine already; waiting for it")
    with folder.locked(f"{key.digest}.lock", waiting):
        kept = _from_cache(folder, key, lambda _: None, refused)  # another process may have been faster
        if kept is not None:
            return kept
        timings = f"{key.timed_on}.timings"
        content = bundle.read(NETWORK_FP16)
        built = build(content, request, half[0].fp32_islands, say, folder.read(timings))
        if built.timing_cache is not None:
            folder.write(timings, built.timing_cache)
        return _keep(folder, key, built)


def _from_bundle(bundle: Bundle, key: EngineKey, say: Say, refused: Collection[str]) -> Engine | None:
    """The bundle's own engine for a key; those for something else are named."""
    same_flavour = [
        entry
        for entry in details_of(bundle.manifest, ENGINE, EngineEntry)
        if entry.flavour == key.flavour and bundle.manifest.files[entry.file].sha256 not in refused
    ]
    for entry in same_flavour:
        if EngineKey.of_entry(entry) == key:
            return Engine(bundle.read(entry.file), key, bundle.manifest.files[entry.file].sha256, "bundle")
    if same_flavour:
        others = "; ".join(str(EngineKey.of_entry(entry)) for entry in same_flavour)
        say(f"the bundle holds engines for: {others}; this machine needs one for: {key}")
    return None


def _from_cache(folder: PrivateFolder, key: EngineKey, say: Say, refused: Collection[str]) -> Engine | None:
    """The engine that the cache holds for a key; a damaged one is named, and None.

    Raises:
        MachineError: a file of the cache is not this user's alone.
        BackendError: a plan has its right size and another hash: somebody altered it.
    """
    record = _record(folder, key, say)
    if record is None or record.sha256 in refused:
        return None
    plan = folder.read(record.plan_name)
    place = folder.path / record.plan_name
    if plan is None or len(plan) != record.bytes:
        found = "is missing" if plan is None else f"has {len(plan):,} of {record.bytes:,} bytes"
        say(f"the engine {place} {found}; it is built again")
        return None
    if hashlib.sha256(plan).hexdigest() != record.sha256:
        raise BackendError(
            f"the engine {place} was altered: its SHA-256 is not the one it was built with, and it was not loaded; "
            "find out who wrote to the cache, then remove the file, and it will be built again"
        )
    return Engine(plan, key, record.sha256, "cache")


def _record(folder: PrivateFolder, key: EngineKey, say: Say) -> _Record | None:
    name = f"{key.digest}.json"
    content = folder.read(name)
    if content is None:
        return None
    try:
        record = _Record.model_validate_json(content)
    except ValidationError:
        record = None
    if record is None or record.key != key:
        say(f"{folder.path / name} is no record of an engine for {key}; the engine is built again")
        return None
    return record


def _keep(folder: PrivateFolder, key: EngineKey, built: BuiltEngine) -> Engine:
    """Put an engine into the cache: the plan first, so that no record ever names a plan that is not there."""
    sha256 = hashlib.sha256(built.plan).hexdigest()
    record = _Record(
        key=key,
        sha256=sha256,
        bytes=len(built.plan),
        layer_types=built.type_histogram,
        build_seconds=built.seconds,
        built_at=_now(),
    )
    # The old plan goes last: until the new record stands, the old one names it.
    before = _record(folder, key, lambda _: None)
    folder.write(record.plan_name, built.plan)
    folder.write(f"{key.digest}.json", record.model_dump_json(indent=2).encode())
    if before is not None and before.sha256 != sha256:
        folder.remove(before.plan_name)
    return Engine(built.plan, key, sha256, "built")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
