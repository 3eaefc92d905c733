from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import MB, NO_GPU_ROW, agreement, growth, results, row

from breastseg_benchmark.budgets import Budget, judge, read_budgets
from breastseg_benchmark.results import Growth, Memory, Verdict
from breastseg_benchmark.tables import verdict_text, verdicts_text
from breastseg_deploy.errors import ArgumentError

SHIPPED = Path(__file__).resolve().parents[2] / "benchmarks" / "budgets.toml"


def budget(**fields: Any) -> Budget:
    return Budget(**({"name": "a budget", "of": "cpu"} | fields))


def verdict(of_results: Any, **fields: Any) -> Verdict:
    (found,) = judge(of_results, [budget(**fields)])
    return found


def test_a_budget_that_is_kept_has_passed() -> None:
    found = verdict(results(), figure="frames_per_s", at_least=10)
    assert (found.status, found.measured, found.of) == ("passed", "10.00 frames/s", "onnxruntime")


def test_a_missed_budget_says_the_figure_and_the_budget() -> None:
    found = verdict(results(), figure="frames_per_s", at_least=28)
    assert found.status == "missed"
    assert verdict_text(found) == "a budget (onnxruntime): 10.00 frames/s, budget >= 28 frames/s: MISSED"


@pytest.mark.parametrize(("figure", "bound"), [("worst_dice", 0.9999), ("mean_dice_with_cells", 0.9999)])
def test_a_dice_under_its_limit_is_missed(figure: str, bound: float) -> None:
    found = verdict(results(row("onnxruntime", agreement=agreement(worst=0.9))), figure=figure, at_least=bound)
    assert found.status == "missed"


def test_without_a_gpu_its_rows_are_not_run_and_never_passed() -> None:
    for figure, bound in (("frames_per_s", {"at_least": 28}), ("gpu_process_gb", {"at_most": 4.2})):
        found = verdict(results(), of="gpu", figure=figure, **bound)
        assert (found.status, found.reason, found.measured) == ("not run", "no GPU", "")
        assert verdict_text(found) == "a budget (gpu): not run: no GPU"


def test_int8_is_held_to_budgets_of_its_own() -> None:
    rows = row("onnxruntime"), row("openvino-int8", by_name_only=True, agreement=agreement(worst=0.98))
    (found,) = judge(results(*rows), [budget(figure="worst_dice", at_least=0.9999)])
    assert (found.of, found.status) == ("onnxruntime", "passed")
    found = verdict(results(*rows), of="openvino-int8", figure="worst_dice", at_least=0.99)
    assert found.status == "missed"


def test_int8_is_held_to_the_memory_of_all_backends() -> None:
    heavy = row("openvino-int8", by_name_only=True, memory=Memory(resident_peak_bytes=5000 * MB))
    found = judge(results(row("onnxruntime"), heavy), [budget(of="cpu", figure="resident_peak_gb", at_most=4.2)])
    assert {one.of: one.status for one in found} == {"onnxruntime": "passed", "openvino-int8": "missed"}


def test_every_backend_on_a_gpu_is_held_to_the_budget() -> None:
    slow = row("onnxruntime-cuda", on_gpu=True)
    fast = row("tensorrt", on_gpu=True, memory=Memory(resident_peak_bytes=1, gpu_process_bytes=1500 * MB))
    found = judge(results(fast, slow), [budget(of="gpu", figure="gpu_process_gb", at_most=4.2)])
    assert [(one.of, one.status) for one in found] == [("tensorrt", "passed"), ("onnxruntime-cuda", "not run")]
    assert found[1].reason == "the driver does not say"


def test_a_backend_that_failed_is_not_run_with_its_reason() -> None:
    broken = row("tensorrt", on_gpu=True).model_copy(update={"not_run": "its process died: signal 9"})
    found = verdict(results(broken), of="gpu", figure="frames_per_s", at_least=28)
    assert (found.status, found.reason) == ("not run", "tensorrt: its process died: signal 9")


def test_the_ratio_to_the_papers_pipeline_is_held() -> None:
    assert verdict(results(), figure="ratio_to_paper", at_most=0.4).status == "passed"  # median of 1/2 and 1/4
    assert verdict(results(), figure="ratio_to_paper", at_most=0.37).status == "missed"


def test_without_the_papers_pipeline_the_ratio_is_not_run() -> None:
    alone = results(row("onnxruntime", ratio_to_paper=None))
    found = verdict(alone, figure="ratio_to_paper", at_most=0.4)
    assert found.reason == "the paper's pipeline: no part of this run"


def test_the_short_form_holds_nobody_to_seconds() -> None:
    short = results(short=True)
    assert verdict(short, figure="frames_per_s", at_least=28).reason == "short form: ratios only"
    assert verdict(short, figure="ratio_to_paper", at_most=0.4).status == "passed"


def test_the_short_form_has_a_bound_of_its_own_where_one_is_given() -> None:
    fields: dict[str, Any] = {"figure": "ratio_to_paper", "at_most": 0.2, "short": 0.5}
    assert verdict(results(), **fields).status == "missed"
    found = verdict(results(short=True), **fields)
    assert (found.status, found.bound) == ("passed", "<= 0.5 x")


def test_a_budget_for_another_frame_size_is_not_run() -> None:
    found = verdict(results(), figure="frames_per_s", at_least=1, size_px=(256, 256))
    assert found.reason == "the bundle is for 512 x 512, the budget for 256 x 256"


@pytest.mark.parametrize(("grown", "status"), [(0, "passed"), (17 * MB, "missed")])
def test_growth_of_memory_is_held(grown: int, status: str) -> None:
    found = verdict(results(growth=growth(grown)), figure="memory_growth_mb", at_most=16)
    assert found.status == status


def test_growth_that_was_not_measured_is_not_run() -> None:
    assert verdict(results(growth=None), figure="memory_growth_mb", at_most=16).status == "not run"


def test_growth_that_failed_says_why() -> None:
    failed = Growth(backend="onnxruntime", not_run="its process died: signal 9")
    found = verdict(results(growth=failed), figure="memory_growth_mb", at_most=16)
    assert (found.status, found.reason) == ("not run", "its process died: signal 9")


def test_a_single_operation_is_held_by_name() -> None:
    fields: dict[str, Any] = {"of": "edge channel", "figure": "times_as_fast_as_filter2d", "at_least": 3}
    measured = results(extra={"edge channel": {"times_as_fast_as_filter2d": 2.5}})
    assert verdict(measured, **fields).status == "missed"
    assert verdict(results(), **fields).reason == "no edge channel was measured"


def test_a_name_that_took_no_part_is_not_run() -> None:
    assert verdict(results(), of="openvino", figure="mean_dice", at_least=1).reason == "no openvino in this run"


def test_the_verdict_table_has_a_line_for_each_verdict() -> None:
    found = judge(
        results(NO_GPU_ROW, row("onnxruntime")),
        [
            budget(name="frame rate", of="gpu", figure="frames_per_s", at_least=28),
            budget(name="memory", figure="resident_peak_gb", at_most=0.4),
            budget(name="masks", figure="worst_dice", at_least=0.9999),
        ],
    )
    assert verdicts_text(found).splitlines() == [
        "budget               of           bound  measured  verdict",
        "frame rate          gpu  >= 28 frames/s         -  not run: no GPU",
        "memory      onnxruntime       <= 0.4 GB   0.50 GB  MISSED",
        "masks       onnxruntime       >= 0.9999  1.000000  passed",
    ]


def test_the_shipped_budgets_hold_the_papers_figures() -> None:
    shipped = {one.name: one for one in read_budgets(SHIPPED)}
    rate, memory = shipped["the paper's frame rate on a GPU"], shipped["the paper's memory on a GPU"]
    assert (rate.figure, rate.at_least, rate.size_px) == ("frames_per_s", 28.0, (512, 512))
    assert (memory.figure, memory.at_most, memory.size_px) == ("gpu_process_gb", 4.2, (512, 512))
    assert {one.status for one in judge(results(), list(shipped.values()))} <= {"passed", "missed", "not run"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budget = 3", "valid"),
        ('[[budget]]\nname = "a"\nof = "cpu"\nfigure = "mean_dice"', "either at_least or at_most"),
        ('[[budget]]\nname = "a"\nof = "cpu"\nfigure = "mean_dice"\nat_least = 1\nat_most = 2', "either at_least"),
        ('[[budget]]\nname = "a"\nof = "cpu"\nfigure = "mean_dice"\nat_leats = 1', "at_leats"),
        ("[[budget", "TOML"),
    ],
)
def test_a_budget_file_that_is_wrong_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    place = tmp_path / "budgets.toml"
    place.write_text(text)
    with pytest.raises(ArgumentError, match=said) as caught:
        read_budgets(place)
    assert "must be a TOML file" in str(caught.value)


def test_a_missing_budget_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="No such file"):
        read_budgets(tmp_path / "none.toml")
