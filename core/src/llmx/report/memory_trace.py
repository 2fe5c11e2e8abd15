"""A memory plan as a trace that chrome://tracing and Perfetto open: a step is a microsecond."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from llmx.report.memory_plan import MemoryPlan, PlannedTensor

CURVE = 0
"""The process that shows the sum; buffers are counted from 1."""


def write_memory_trace(plan: MemoryPlan, path: Path) -> None:
    """Write one row of bars per place in time, each as long as its tensor lives, and the sum.

    Format: "Trace Event Format", https://chromium.googlesource.com/catapult
    """
    content = {"traceEvents": list(_events(plan)), "displayTimeUnit": "ms"}
    path.write_text(json.dumps(content), encoding="utf-8")


def _events(plan: MemoryPlan) -> Iterator[dict[str, Any]]:
    yield _name(CURVE, "bytes in use")
    for step, live in enumerate(plan.live_bytes()):
        yield {"ph": "C", "pid": CURVE, "name": "live", "ts": step, "args": {"bytes": live}}
    for buffer in sorted({each.buffer for each in plan.tensors}):
        yield _name(buffer, f"buffer {buffer}")
    free: dict[int, list[int]] = {}
    for each in sorted(plan.tensors, key=lambda tensor: tensor.first):
        lanes = free.setdefault(each.buffer, [])
        lane = next((at for at, until in enumerate(lanes) if until < each.first), len(lanes))
        lanes[lane : lane + 1] = [each.last]
        yield _bar(each, lane)


def _bar(tensor: PlannedTensor, lane: int) -> dict[str, Any]:
    told = attrs.asdict(tensor)
    return {
        "ph": "X",
        "cat": tensor.operator,
        "name": tensor.name,
        "pid": tensor.buffer,
        "tid": lane,
        "ts": tensor.first,
        "dur": tensor.last - tensor.first + 1,
        "args": {key: told[key] for key in ("bytes", "offset", "layer", "module", "source")},
    }


def _name(process: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
