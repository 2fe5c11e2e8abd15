"""A program that is written is not held on to: its payloads have weights in them."""

from __future__ import annotations

import gc
from pathlib import Path

from executorch.exir.lowered_backend_module import LoweredBackendModule

from llmx.testing.tiny import export_anew, tiny_job


def lowered_modules() -> set[int]:
    gc.collect()
    return {id(each) for each in gc.get_objects() if isinstance(each, LoweredBackendModule)}


def test_nothing_of_a_lowered_program_stays_in_memory(tmp_path: Path) -> None:
    before = lowered_modules()
    export_anew(tiny_job("smollm2", tmp_path, {}, backend="xnnpack"))
    assert lowered_modules() <= before
