"""bfloat16 by OpenVINO: asked for by name, islands in float32 for sure, and no processor that would only imitate it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from surgery import alter_golden, artefact, edit_manifest

from breastseg_deploy import BackendError, BundleError, Machine, MachineError, ParityError, Segmenter
from breastseg_deploy.artefacts import Bf16Precision, details_of
from breastseg_deploy.backends.openvino import BF16_SETTINGS, OpenVinoCpu, check_openvino_bf16, open_openvino_bf16
from breastseg_deploy.backends.openvino_islands import check_bfloat16, convolution_precisions, with_islands
from breastseg_deploy.backends.openvino_library import SETTINGS, load_openvino
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import BF16, MODEL, Bundle
from breastseg_deploy.machine import Processor, this_processor
from breastseg_deploy.metrics import dice
from breastseg_deploy.phantom import phantom_frame

SIZE = (128, 128)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """This one with a cache of the test's own; skipped where its processor cannot multiply in bfloat16."""
    found = Machine(cache=tmp_path / "cache")
    if not found.processor.bfloat16:
        pytest.skip(f"{found.processor.name} does not multiply in bfloat16")
    return found


def islands(bundle: Bundle) -> tuple[str, ...]:
    (found,) = details_of(bundle.manifest, BF16, Bf16Precision)
    return found.fp32_islands


def compiled(bundle: Bundle, marked: tuple[str, ...], settings: dict[str, Any] = BF16_SETTINGS) -> Any:
    ov = load_openvino()
    core = ov.Core()
    network = core.read_model(bundle.read(MODEL))
    network.reshape([1, *SIZE, 3])
    return core.compile_model(with_islands(ov, core, network, marked), "CPU", settings)


def test_masks_keep_to_the_limits_and_are_not_those_of_float32(bundle: Bundle, machine: Machine) -> None:
    with (
        Segmenter.open(bundle.path, "openvino-bf16", machine=machine) as reduced,
        Segmenter.open(bundle.path, "openvino", machine=machine) as full,
    ):
        assert (reduced.artefact, reduced.backend_reason) == (BF16, "openvino-bf16: asked for by name")
        pairs = [(reduced(frame), full(frame)) for frame in (phantom_frame(n, SIZE).frame for n in range(40, 44))]
        assert min(result.dice for result in reduced.self_test()) >= 0.99
    assert min(dice(one.mask, other.mask) for one, other in pairs) >= 0.99
    assert max(np.abs(one.probability - other.probability).max() for one, other in pairs) > 1e-4


def test_islands_compute_in_float32_and_all_else_in_bfloat16(bundle: Bundle, machine: Machine) -> None:
    marked = islands(bundle)
    precisions = convolution_precisions(compiled(bundle, marked))
    own = {name: kind for name, kind in precisions.items() if "preprocessing" not in name}
    assert {name for name, kind in own.items() if kind == "f32"} == set(marked) & own.keys()
    assert set(own.values()) == {"f32", "bf16"}


def test_an_island_that_openvino_does_not_keep_is_refused(bundle: Bundle, machine: Machine) -> None:
    marked = islands(bundle)
    with pytest.raises(
        BackendError, match=r"OpenVINO computes \d+ convolutions in bf16 that must stay in float32, the"
    ):
        check_bfloat16(compiled(bundle, ()), marked)


def test_a_network_of_which_nothing_is_bfloat16_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="computes no convolution in bfloat16 here; use openvino"):
        check_bfloat16(compiled(bundle, (), SETTINGS), ())


def test_an_island_that_the_model_does_not_know_is_refused(bundle: Bundle, bundle_copy: Path, machine: Machine) -> None:
    edit_manifest(bundle_copy, lambda raw: artefact(raw, BF16)["details"].update(fp32_islands=["node_of_another"]))
    with pytest.raises(
        BundleError, match=r"names the float32 island 'node_of_another', and model\.onnx has no such node"
    ):
        open_openvino_bf16(Bundle.open(bundle_copy), machine)


def test_the_title_says_how_many_convolutions_are_bfloat16(bundle: Bundle, machine: Machine) -> None:
    backend = OpenVinoCpu(bundle, BF16)
    assert re.search(r"13\d of 136 convolutions in bfloat16$", backend.title)  # all but the islands
    backend.close()


@pytest.mark.parametrize("native", [False, None])
def test_a_processor_without_bfloat16_is_named_and_refused(
    bundle: Bundle, machine: Machine, native: bool | None
) -> None:
    without = Machine(processor=Processor("Old CPU", 4, bfloat16=native))
    if native is None:  # the system does not say: OpenVINO does, and this processor has it
        assert check_openvino_bf16(without).endswith(", bfloat16")
        return
    with pytest.raises(
        MachineError, match=r"needs a processor with AVX512_BF16 or AMX, and Old CPU has neither; use o"
    ):
        Segmenter.open(bundle.path, "openvino-bf16", machine=without)


@pytest.mark.parametrize(
    ("flags", "bfloat16"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f avx512_vnni", False), (None, None)],
)
def test_the_processor_says_by_its_flags_whether_it_multiplies_in_bfloat16(
    tmp_path: Path, flags: str | None, bfloat16: bool | None
) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("model name\t: CPU\n" + (f"flags\t\t: {flags}\n" if flags else ""))
    assert this_processor(told).bfloat16 is bfloat16


def test_auto_never_takes_it(bundle: Bundle, machine: Machine) -> None:
    found = choose(bundle, machine=machine)
    found.backend.close()
    assert found.name in ("openvino", "onnxruntime")
    assert "openvino-bf16" not in found.reason


def test_a_golden_that_misses_the_limit_is_refused(bundle_copy: Path, machine: Machine) -> None:
    whole = Bundle.open(bundle_copy)
    probability = np.float32(1) - whole.goldens()[0].probability
    alter_golden(bundle_copy, probability=probability, mask=(probability >= whole.manifest.threshold).astype(np.uint8))
    with pytest.raises(
        ParityError, match=r"has Dice .* convolutions in bfloat16.*, the limit is 0.99; do not use its bf16"
    ):
        open_openvino_bf16(Bundle.open(bundle_copy), machine)


def test_a_verdict_depends_on_the_islands(bundle: Bundle, machine: Machine) -> None:
    open_openvino_bf16(bundle, machine).close()
    (verdict,) = machine.cache.iterdir()
    depends_on = json.loads(verdict.read_text())["depends_on"]
    assert depends_on["islands"] == " ".join(islands(bundle))
    assert "'INFERENCE_PRECISION_HINT': 'bf16'" in depends_on["engine"]


def test_a_bundle_that_names_no_islands_says_so(bundle: Bundle, machine: Machine) -> None:
    artefacts = tuple(one for one in bundle.manifest.artefacts if one.role != BF16)
    older = replace(bundle, manifest=bundle.manifest.model_copy(update={"artefacts": artefacts}))
    with pytest.raises(BundleError, match=r"holds no bf16 artefact .*; export it again with --precision fp16 or int8"):
        open_openvino_bf16(older, machine)
