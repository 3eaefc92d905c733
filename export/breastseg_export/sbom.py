"""What is in a bundle and behind it: a CycloneDX list of the software that built it and of what serves it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from breastseg_deploy.extras import DISTRIBUTION

EXPORTS = "export"
SERVES = ("cpu", "openvino", "gpu", "tensorrt", "tensorrt-rtx", "signing")
"""Extras of which a machine that serves the bundle needs one engine's, and `signing` where it checks signatures."""

_ROOT = "bundle"


def sbom_json(name: str, built_at: str, files: Mapping[str, str], packages: Collection[str]) -> bytes:
    """The list of components of a bundle as CycloneDX 1.6 JSON.

    A component's scope says what for it is needed: "required" by every machine that serves the bundle, "optional" with
    one of the extras `SERVES`, "excluded" for the export alone. Versions are those that are installed where the bundle
    was exported; what is not installed there is listed with the versions that this project allows.

    Args:
        name: of the bundle, as its manifest states it.
        built_at: the manifest's moment in ISO 8601, the only time in the list.
        files: SHA-256 in hexadecimal of each artefact's files, by name.
        packages: that this export used besides those of the extra `export`.

    Returns:
        The same bytes for the same arguments in the same environment: the serial number is derived from the content.
    """
    base = _closure([Requirement(DISTRIBUTION)])
    served = _closure([Requirement(f"{DISTRIBUTION}[{','.join(SERVES)}]")])
    built = _closure([Requirement(f"{DISTRIBUTION}[{EXPORTS}]"), *map(Requirement, packages)])
    needs = {**built, **served}
    for one in built.keys() & served.keys():
        needs[one].needs |= built[one].needs
    components = {
        one: _component(one, need, exports=one in built, serves=one in served, always=one in base)
        for one, need in sorted(needs.items())
    }
    model = Component(name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=_ROOT)
    for file, sha256 in sorted(files.items()):
        hashed = HashType(alg=HashAlgorithm.SHA_256, content=sha256)
        model.components.add(Component(name=file, type=ComponentType.FILE, bom_ref=file, hashes=[hashed]))
    bom = Bom(components=components.values(), serial_number=_serial_number(name, built_at, files, needs))
    bom.metadata.component = model
    bom.metadata.timestamp = datetime.fromisoformat(built_at)
    bom.register_dependency(model, [components[canonicalize_name(one)] for one in (DISTRIBUTION, *sorted(packages))])
    for one, need in needs.items():
        bom.register_dependency(components[one], [components[other] for other in sorted(need.needs)])
    return JsonV1Dot6(bom).output_as_string(indent=2).encode()


@dataclass
class _Need:
    """A distribution that is needed: what of it is allowed, what is installed (None: nothing), what it needs itself."""

    allowed: str
    installed: Distribution | None
    needs: set[str]


def _closure(roots: Iterable[Requirement]) -> dict[str, _Need]:
    """All distributions that the roots need here, by name."""
    found: dict[str, _Need] = {}
    waiting, seen = [(root, "") for root in roots], set()
    while waiting:
        requirement, needed_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        need = found.setdefault(name, _Need(str(requirement.specifier), _installed(name), set()))
        if needed_by and needed_by != name:
            found[needed_by].needs.add(name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in (need.installed.requires if need.installed else None) or ():
            other = Requirement(text)
            if other.marker is None or any(other.marker.evaluate({"extra": e}) for e in (*requirement.extras, "")):
                waiting.append((other, name))
    return found


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _component(name: str, need: _Need, *, exports: bool, serves: bool, always: bool) -> Component:
    installed = need.installed
    version = installed.version if installed else None
    scope = ComponentScope.EXCLUDED
    if serves:
        scope = ComponentScope.REQUIRED if always else ComponentScope.OPTIONAL
    used = [use for use, is_so in (("export", exports), ("runtime", serves)) if is_so]
    properties = [Property(name="breastseg:used-by", value=", ".join(used))]
    if version is None:
        properties.append(Property(name="breastseg:allowed-versions", value=need.allowed or "any"))
    return Component(
        name=name,
        version=version,
        bom_ref=f"{name}@{version}" if version else name,
        scope=scope,
        purl=PackageURL("pypi", None, name, version),
        licenses=_licences(installed),
        properties=properties,
    )


def _licences(installed: Distribution | None) -> list[Any]:
    """The licence as the metadata state it in one line; none where they state a whole text, or nothing."""
    fields = ("License-Expression", "License")
    said = [installed.metadata[field] for field in fields if installed and installed.metadata[field]]
    lines = [line.strip() for line in said if "\n" not in line.strip() and line.strip() not in ("", "UNKNOWN")]
    return [LicenseFactory().make_from_string(lines[0])] if lines else []


def _serial_number(name: str, built_at: str, files: Mapping[str, str], needs: Mapping[str, _Need]) -> UUID:
    versions = [f"{need}=={one.installed.version if one.installed else '?'}" for need, one in sorted(needs.items())]
    content = "\n".join([name, built_at, *(f"{file} {sha256}" for file, sha256 in sorted(files.items())), *versions])
    return uuid5(NAMESPACE_URL, content)
