"""Portable kernels: programs without a delegate, the reference for the others."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from llmx.testing import BackendConformance


class TestPortable(BackendConformance):
    backend = "portable"
    exports = MappingProxyType({"plain": {"recipe": "plain"}, "small": {"recipe": "small"}})
    # One step of 8-bit activations, which a last bit of fp32 decides, is much more than that bit.
    tolerance = MappingProxyType({"small": 0.5})
    delegated = 0.0
    refusals = MappingProxyType({"codes": ({"qmode": "torchao:8da4w"}, "low-bit kernels")})


def test_nothing_is_delegated(tiny_export: Any) -> None:
    artifact = tiny_export(backend="portable", recipe="plain")
    assert artifact.manifest["delegation"]["subgraphs"] == 0


def test_plain_programs_need_no_operator_beyond_the_core_set(tiny_export: Any) -> None:
    content = tiny_export(backend="portable", recipe="plain").program.read_bytes()
    assert b"aten::mm" in content or b"aten::linear" in content
    assert b"llama::" not in content
    assert b"quantized_decomposed::" not in content
