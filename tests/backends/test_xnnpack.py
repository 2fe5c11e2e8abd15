"""XNNPACK: programs compute what the eager model computes, however they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmx import ConfigError, ExportJob
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod

FLOAT = {"qmode": None, "embedding_quantize": None}
TWO_PASSES = {"backend.xnnpack.dynamic_quant_first": True}
MODES = {
    "fp32": (FLOAT, 1e-4),
    "fp32, plain attention": ({**FLOAT, "use_sdpa_with_kv_cache": False}, 1e-4),
    "8da4w": ({}, 0.1),
    "8da4w, two passes": (TWO_PASSES, 0.1),
    "fp16": ({**FLOAT, "dtype_override": "fp16"}, 0.02),
    "bf16": ({**FLOAT, "dtype_override": "bf16", "backend.xnnpack.enable_bf16": True}, 0.2),
    "bf16, no backend": ({**FLOAT, "dtype_override": "bf16", "backend": None}, 0.2),
    "fp32, full logits": ({**FLOAT, "generate_full_logits": True}, 1e-4),
}


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES.keys())
def pair(
    request: pytest.FixtureRequest, tiny_export: Any, eager: Any
) -> tuple[ProgramMethod, Any, float]:
    options, tolerance = request.param
    artifact = tiny_export(**options)
    return ProgramMethod(artifact.program), eager(artifact), tolerance


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    difference = (actual.float() - expected.float()).abs().max() / expected.float().std()
    assert float(difference) <= tolerance


def _outside(delegation: dict[str, Any]) -> dict[str, int]:
    rows = delegation["operators"]
    return {row["operator"]: row["other"] for row in rows if row["operator"] != "getitem"}


TOKENS = torch.randint(128, (1, 64), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
@pytest.mark.parametrize(
    "pieces",
    [
        ((0, 30),),
        ((0, 1),),
        ((0, 64),),
        tuple((at, at + 1) for at in range(10)),
        ((0, 20), (20, 37), (37, 38), (38, 39), (39, 64)),
    ],
    ids=["prefill", "one token", "whole context", "token by token", "chunks, then decoding"],
)
def test_program_equals_eager(pair: Any, pieces: tuple[tuple[int, int], ...]) -> None:
    program, model, tolerance = pair
    for start, end in pieces:
        inputs = TOKENS[:, start:end], torch.tensor([start])
        assert_same(program(*inputs), model(*inputs), tolerance)


@torch.no_grad()
def test_chunks_equal_one_prefill(pair: Any) -> None:
    program, _, tolerance = pair
    whole = program(TOKENS[:, :40], torch.tensor([0]))
    program(TOKENS[:, :25], torch.tensor([0]))
    last = program(TOKENS[:, 25:40], torch.tensor([25]))
    whole, last = (each[:, -1] if each.dim() == 3 else each for each in (whole, last))
    assert_same(last, whole, tolerance)


def test_past_the_context_is_an_error(pair: Any) -> None:
    from llmx import LlmxError

    program, _, _ = pair
    with pytest.raises(LlmxError):
        program(TOKENS[:, :10], torch.tensor([60]))


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

    def test_the_backend_took_most_of_it(self, tiny_export: Any) -> None:
        delegation = tiny_export().manifest["delegation"]
        assert delegation["subgraphs"] > 0
        assert delegation["delegated_nodes"] > delegation["other_nodes"]
        linears = next(
            each for each in delegation["operators"] if each["operator"] == "aten_linear_default"
        )
        assert linears["other"] == 0

    def test_only_attention_cuts_the_subgraphs(self, tiny_export: Any) -> None:
        # Each layer is cut where queries and keys are rotated and where they attend.
        layers, angles, head = 2, 1, 1
        assert tiny_export().manifest["delegation"]["subgraphs"] == 2 * layers + angles + head

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


@torch.no_grad()
def test_static_shape_decodes_token_by_token(tiny_export: Any, eager: Any) -> None:
    artifact = tiny_export(enable_dynamic_shape=False, **FLOAT)
    program, model = ProgramMethod(artifact.program), eager(artifact)
    for at in range(5):
        inputs = TOKENS[:, at : at + 1], torch.tensor([at])
        assert_same(program(*inputs), model(*inputs), 1e-4)


class TestRefusals:
    def job(self, **options: Any) -> ExportJob:
        return ExportJob.create("smollm2", random_weights=True, **options)

    def check(self, job: ExportJob) -> None:
        load("smollm2", "xnnpack").backend.check(job=job)

    @pytest.mark.parametrize("dtype", ["fp16", "bf16"])
    def test_quantized_weights_with_narrow_activations(self, dtype: str) -> None:
        with pytest.raises(ConfigError, match="no 8da4w kernels"):
            self.check(self.job(dtype_override=dtype))

    def test_bf16_without_its_option(self) -> None:
        with pytest.raises(ConfigError, match="bf16") as raised:
            self.check(self.job(dtype_override="bf16", qmode=None))
        assert "enable_bf16" in str(raised.value.remedy)
        self.check(
            self.job(dtype_override="bf16", qmode=None, **{"backend.xnnpack.enable_bf16": True})
        )
