"""The list of components in a bundle: valid CycloneDX, complete, and the same for the same export."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from breastseg_deploy.bundle import MODEL, SBOM, Bundle
from breastseg_export.sbom import SERVES, sbom_json

FILES = {"model.onnx": "0" * 64}
MOMENT = "2023-11-14T22:13:20+00:00"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom_json("demo", MOMENT, FILES, ()))
    return found


def components(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {component["name"]: component for component in made["components"]}


def test_the_bundle_holds_a_valid_list_that_its_manifest_seals(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    content = bundle.read(SBOM).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    described = json.loads(content)["metadata"]["component"]
    assert described["type"] == "machine-learning-model"
    assert described["name"] == bundle.manifest.name
    hashes = {file["name"]: file["hashes"][0]["content"] for file in described["components"]}
    assert hashes[MODEL] == bundle.manifest.files[MODEL].sha256


def test_versions_are_those_that_the_manifest_states(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    listed = components(json.loads(bundle.read(SBOM)))
    built_with = {name: at for name, at in bundle.manifest.built_with.items() if name != "python"}
    assert {name: listed[name]["version"] for name in built_with} == built_with


@pytest.mark.parametrize(
    ("name", "scope", "used_by"),
    [
        ("numpy", "required", "export, runtime"),
        ("onnxruntime", "optional", "export, runtime"),
        ("openvino", "optional", "runtime"),
        ("cryptography", "optional", "runtime"),
        ("torch", "excluded", "export"),
    ],
)
def test_a_component_says_what_needs_it(made: dict[str, Any], name: str, scope: str, used_by: str) -> None:
    found = components(made)[name]
    assert found["scope"] == scope
    assert found["version"] == version(name)
    assert found["properties"] == [{"name": "breastseg:used-by", "value": used_by}]


def test_the_tests_own_tools_are_not_listed(made: dict[str, Any]) -> None:
    assert not {"pytest", "mypy", "ruff", "lightning"} & components(made).keys()


def test_what_is_not_installed_is_listed_with_the_versions_that_are_allowed(made: dict[str, Any]) -> None:
    found = components(made)["tensorrt-cu13"]
    if "version" in found:
        pytest.skip("TensorRT is installed here")
    assert {"name": "breastseg:allowed-versions", "value": ">=10.16"} in found["properties"]


def test_what_an_export_used_besides_is_listed_with_all_that_it_needs() -> None:
    listed = components(json.loads(sbom_json("demo", MOMENT, FILES, ("nncf",))))
    assert listed["nncf"]["scope"] == "excluded"
    assert "networkx" in listed


def test_every_component_is_reached_from_the_bundle(made: dict[str, Any]) -> None:
    needs = {one["ref"]: one.get("dependsOn", []) for one in made["dependencies"]}
    reached, waiting = set(), ["bundle"]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += needs.get(one, [])
    assert reached - {"bundle"} == {component["bom-ref"] for component in made["components"]}


def test_the_same_export_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    first = sbom_json("demo", MOMENT, FILES, ())
    assert sbom_json("demo", MOMENT, FILES, ()) == first
    other = json.loads(sbom_json("demo", MOMENT, {"model.onnx": "1" * 64}, ()))
    assert other["serialNumber"] != json.loads(first)["serialNumber"]


def test_the_extras_that_serve_are_those_of_the_backends() -> None:
    from breastseg_deploy.backends.registry import BACKENDS

    assert {extra for record in BACKENDS.values() for extra in record.extras.split(",")} <= set(SERVES)
