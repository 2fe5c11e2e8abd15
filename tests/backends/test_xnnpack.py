"""XNNPACK: programs compute what the eager model computes, however they are called."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from llmx import LlmxError
from llmx.pte import read_contents
from llmx.pte.contents import NAMED
from llmx.run.runtime import ProgramMethod
from llmx.testing import BackendConformance
from llmx.testing.backends import Lowered

FLOAT = {"qmode": None, "embedding_quantize": None}
BF16 = {**FLOAT, "dtype_override": "bf16"}
ENABLED = {"backend.xnnpack.enable_bf16": True}
TWO_PASSES = {"backend.xnnpack.dynamic_quant_first": True}
TOKENS = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(5))


class TestXnnpack(BackendConformance):
    backend = "xnnpack"
    exports = MappingProxyType(
        {
            "8da4w": {},
            "8da4w, two passes": TWO_PASSES,
            "fp32": FLOAT,
            "fp32, single tokens": {**FLOAT, "enable_dynamic_shape": False},
            "fp32, full logits": {**FLOAT, "generate_full_logits": True},
        }
    )
    tolerance = MappingProxyType({"8da4w": 0.1, "8da4w, two passes": 0.1})
    refusals = MappingProxyType(
        {
            "8da4w, fp16": ({"dtype_override": "fp16"}, "no 8da4w kernels"),
            "8da4w, bf16": ({"dtype_override": "bf16"}, "no 8da4w kernels"),
            "bf16 without its option": (BF16, "bf16"),
        }
    )

    @torch.no_grad()
    def test_chunks_equal_one_prefill(self, llmx_lowered: Lowered) -> None:
        if llmx_lowered.name == "fp32, single tokens":
            pytest.skip("a call has one token")
        program = llmx_lowered.program()
        whole = program(TOKENS, torch.tensor([0]))
        program(TOKENS[:, :25], torch.tensor([0]))
        last = program(TOKENS[:, 25:], torch.tensor([25]))
        whole, last = (each[:, -1] if each.dim() == 3 else each for each in (whole, last))
        difference = (last.float() - whole.float()).abs().max() / whole.float().std()
        assert float(difference) <= llmx_lowered.tolerance

    def test_past_the_context_is_an_error(self, llmx_lowered: Lowered) -> None:
        with pytest.raises(LlmxError):
            llmx_lowered.program()(TOKENS[:, :10], torch.tensor([60]))


class TestNarrowFloats(TestXnnpack):
    # Norms are computed in fp32: their casts and means are left to ExecuTorch's kernels.
    delegated = 0.35
    exports = MappingProxyType(
        {"fp16": {**FLOAT, "dtype_override": "fp16"}, "bf16": {**BF16, **ENABLED}}
    )
    tolerance = MappingProxyType({"fp16": 0.02, "bf16": 0.2})
    refusals = MappingProxyType({})


class TestPlainAttention(TestXnnpack):
    # Masks and the cache's rows are left to ExecuTorch's kernels.
    delegated = 0.2
    exports = MappingProxyType({"fp32": {**FLOAT, "use_sdpa_with_kv_cache": False}})
    refusals = MappingProxyType({})


def _outside(delegation: dict[str, Any]) -> dict[str, int]:
    rows = delegation["operators"]
    return {row["operator"]: row["other"] for row in rows if row["operator"] != "getitem"}


@torch.no_grad()
def test_bf16_without_a_backend(tiny_export: Any, eager: Any) -> None:
    artifact = tiny_export(**BF16, backend=None)
    inputs = TOKENS[:, :8], torch.tensor([0])
    expected, actual = eager(artifact)(*inputs).float(), ProgramMethod(artifact.program)(*inputs)
    assert float((actual.float() - expected).abs().max() / expected.std()) <= 0.2


class TestArtifact:
    def test_every_layer_is_quantized_by_default(self, tiny_export: Any) -> None:
        weights = tiny_export().manifest["weights"]
        assert weights["quantized_layers"] == weights["layers"] == 2 * 7 + 2
        assert weights["bits_per_weight"] < 5.5

    def test_metadata_methods(self, tiny_export: Any) -> None:
        artifact = tiny_export(metadata='{"get_bos_id": 7, "extra": [1, 2]}')
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(artifact.program)
        values = {
            name: program.load_method(name).execute([])
            for name in program.method_names
            if name != "forward"
        }
        assert values.pop("get_eos_ids") == [2, 0]
        assert values.pop("extra") == [1, 2]
        assert values == {
            "get_bos_id": [7],
            "get_max_seq_len": [64],
            "get_max_context_len": [64],
            "get_n_layers": [2],
            "get_vocab_size": [128],
            "use_kv_cache": [True],
            "use_sdpa_with_kv_cache": [True],
            "enable_dynamic_shape": [True],
        }

    def test_no_product_is_left(self, tiny_export: Any) -> None:
        delegation = tiny_export().manifest["delegation"]
        linears = next(
            each for each in delegation["operators"] if each["operator"] == "aten_linear_default"
        )
        assert linears["other"] == 0

    def test_only_attention_cuts_the_subgraphs(self, tiny_export: Any) -> None:
        # Each layer is cut where it attends, the last one also where its last token is taken.
        layers, angles, last, head = 2, 1, 1, 1
        found = tiny_export().manifest["delegation"]["subgraphs"]
        assert found == (layers + 1) + angles + last + head

    def test_the_head_is_loaded_before_the_layers(self, tiny_export: Any) -> None:
        contents = read_contents(tiny_export().program)
        (forward,) = contents.methods
        named = {each.name: each.bytes for each in contents.segments if each.kind == NAMED}
        sizes = [sum(named[key] for key in each.named) for each in forward.delegates]
        assert sizes[1] == max(sizes)
        assert sizes[1:] == sorted(sizes[1:], reverse=True)

    def test_two_passes_delegate_as_much_in_more_subgraphs(self, tiny_export: Any) -> None:
        one, two = (tiny_export(**each).manifest["delegation"] for each in ({}, TWO_PASSES))
        assert two["subgraphs"] > one["subgraphs"]
        # What cuts a subgraph in two is computed as before, by XNNPACK or not.
        assert _outside(two) == _outside(one)

    def test_the_stored_job_gives_the_same_bytes(self, tiny_export: Any, tmp_path: Path) -> None:
        from llmx import export
        from llmx.config import load_job

        first = tiny_export()
        job = load_job(
            config=first.folder / "llmx.json", settings={"export.output_dir": str(tmp_path / "b")}
        ).job
        again = export(job)
        assert again.manifest["program"]["sha256"] == first.manifest["program"]["sha256"]

    def test_checks_were_made_and_passed(self, tiny_export: Any) -> None:
        checks = tiny_export().manifest["checks"]
        names = {each["name"] for each in checks}
        assert {"prefill equals eager", "second turn equals a fresh prefill"} <= names
        assert "the runner follows the program" in names
        assert all(each["passed"] and each["figure"] <= each["bound"] for each in checks)

    def test_the_manifest_is_json_with_known_keys(self, tiny_export: Any) -> None:
        manifest = json.loads((tiny_export().folder / "llmx.json").read_text())
        assert {"format", "family", "config", "program", "weights", "delegation"} <= set(manifest)
        assert manifest["source"]["random_weights"] is True
