"""A run that nobody measured: figures chosen so that each test can see where they go."""

from __future__ import annotations

from typing import Any

from breastseg_benchmark.results import (
    Agreement,
    BatchPoint,
    BundleFacts,
    Distribution,
    Growth,
    Memory,
    MemoryGrowth,
    Ratio,
    Results,
    Row,
    SizePoint,
)

MB = 1_000_000
NO_GPU_ROW = Row(name="tensorrt", kind="backend", on_gpu=True, not_run="no GPU (no NVIDIA driver on this machine)")


def agreement(worst: float = 1.0) -> Agreement:
    return Agreement(
        frames=5,
        frames_with_cells=2,
        mean_dice=0.9999,
        worst_dice=worst,
        mean_dice_with_cells=0.9998,
        worst_dice_with_cells=worst,
        mean_dice_without_cells=1.0,
    )


def row(name: str, kind: Any = "backend", **fields: Any) -> Row:
    made: dict[str, Any] = {
        "open_s": 0.5,
        "first_frame_s": 0.2,
        "latency": Distribution.of([0.1, 0.1, 0.1, 0.2]),
        "stages_s": {"contract": 0.001, "network": 0.098, "check": 0.001, "total": 0.1},
        "agreement": agreement(),
        "memory": Memory(resident_peak_bytes=500 * MB),
        "ratio_to_paper": Ratio.of([1.0, 1.0], [2.0, 4.0]),
        "ratio_to_runtime": Ratio.of([1.0, 1.0], [1.0, 1.0]),
    }
    return Row(name=name, kind=kind, **(made | fields))


def results(*rows: Row, **fields: Any) -> Results:
    made: dict[str, Any] = {
        "made_at": "2026-11-23T12:00:00+00:00",
        "command": "breastseg benchmark bundle <&>",
        "environment": {"processor": "a processor, 2 cores for this process"},
        "bundle": BundleFacts(
            name="demo", encoder="efficientnet-b0", precision="fp32", size_px=(512, 512), built_at="2026-11-22"
        ),
        "frames": "2 phantoms",
        "rounds": 4,
        "short": False,
        "runtime": "onnxruntime",
        "rows": rows or (NO_GPU_ROW, row("onnxruntime"), row("the paper's pipeline", "paper", stages_s={})),
        "decode": Distribution.of([0.02]),
        "growth": growth(),
    }
    return Results(**(made | fields))


def growth(growth_bytes: int = 0) -> Growth:
    batches = [BatchPoint(batch=n, latency=Distribution.of([0.1 * n]), resident_peak_bytes=n * MB) for n in (1, 2, 4)]
    sizes = [
        SizePoint(size_px=(side, side), latency=Distribution.of([side / 1000]), resident_peak_bytes=side * MB)
        for side in (256, 512)
    ]
    memory = MemoryGrowth(frames=16, resident_bytes=tuple(range(1, 10)), growth_bytes=growth_bytes)
    return Growth(backend="onnxruntime", batches=tuple(batches), sizes=tuple(sizes), memory=memory)
