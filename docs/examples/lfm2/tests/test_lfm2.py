"""LFM2 computes what transformers computes, in eager mode and as programs of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from llmx_example_lfm2 import SIZES, params_from_hf

from llmx import Artifact, CheckpointError
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod
from llmx.testing import FamilyConformance
from llmx.testing.conformance import Case
from llmx.testing.eager import logits
from llmx.testing.program import CALL, export_tiny, program_logits
from llmx.testing.reference import VOCABULARY, hf_fields

TOKENS = torch.randint(VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(0))
# As the file of LFM2-350M says it.
OLDER = {
    "model_type": "lfm2", "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 8, "block_ff_dim": 6656, "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True, "vocab_size": 65536,
    "max_position_embeddings": 128000, "norm_eps": 1e-5, "rope_theta": 1e6, "conv_L_cache": 3,
    "conv_bias": False, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "tie_embedding": True,
}  # fmt: skip


class TestLfm2(FamilyConformance):
    family = "lfm2"
    model_type = "lfm2"
    published_counts: ClassVar = {"350m": 354_483_968, "700m": 742_489_344, "1.2b": 1_170_340_608}

    @classmethod
    def config(cls, params: Any) -> dict[str, Any]:
        fields = hf_fields(params)
        del fields["rms_norm_eps"]
        return {
            **fields,
            "norm_eps": params.norm_eps,
            "conv_L_cache": params.conv_length,
            "conv_bias": params.conv_bias,
            # Adjusted to the width that is wanted.
            "intermediate_size": params.hidden_dim * 3 // 2,
            "block_multiple_of": 32,
            "layer_types": ["full_attention" if each else "conv" for each in params.attending],
        }

    @classmethod
    def shrink(cls, params: Any, n_layers: int) -> Any:
        attending = tuple(layer % 2 == 1 for layer in range(n_layers))
        return attrs.evolve(super().shrink(params, n_layers), attending=attending)


class Biased(TestLfm2):
    """Biases, and convolutions of other lengths, which no published size has."""

    @classmethod
    def shrink(cls, params: Any, n_layers: int) -> Any:
        tiny = super().shrink(params, n_layers)
        return attrs.evolve(tiny, conv_bias=True, conv_length=5, tied_embeddings=False)


def test_biases_and_longer_convolutions_equal_the_reference(tmp_path: Path) -> None:
    kit = Biased()
    case = kit.make_case("350m", tmp_path)
    loaded = kit.load(case, max_context_length=30)
    actual = logits(loaded.model, TOKENS, [1, 2, 20, 7])
    torch.testing.assert_close(actual, case.expected(TOKENS), atol=1e-4, rtol=1e-4)
    assert loaded.params == case.tiny


# Configurations


def test_an_older_configuration_gives_the_published_size() -> None:
    assert params_from_hf(OLDER) == SIZES["350m"].params


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"block_ff_dim": 10240}, 6912),
        ({"block_ff_dim": 10240, "block_ffn_dim_multiplier": 1.3}, 8960),
        ({"block_ff_dim": 10752, "block_auto_adjust_ff_dim": False}, 10752),
    ],
)
def test_the_width_is_adjusted_as_transformers_does(fields: dict[str, Any], width: int) -> None:
    from transformers import AutoConfig
    from transformers.models.lfm2.modeling_lfm2 import Lfm2MLP

    config = {**OLDER, **fields}
    with torch.device("meta"):
        block = Lfm2MLP(AutoConfig.for_model(**config))
    assert block.w1.out_features == width
    assert params_from_hf(config).hidden_dim == width


def test_an_unknown_kind_of_layer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="mamba"):
        params_from_hf({**OLDER, "layer_types": ["conv"] * 15 + ["mamba"]})


# Programs


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A convolution and an attention layer."""
    return TestLfm2.make_case("350m", tmp_path_factory.mktemp("checkpoint"), n_layers=2)


def export(case: Case, folder: Path, *more: str) -> Artifact:
    return export_tiny("lfm2", case.folder, folder, *more)


def test_a_program_of_single_tokens_equals_the_reference(case: Case, tmp_path: Path) -> None:
    made = export(case, tmp_path / "out", "--backend", "none", "model.enable_dynamic_shape=false")
    assert not read_program(made.program).rewinds  # what follows is read anew
    ends, actual = program_logits(made.program, TOKENS, pieces=[1] * 30)
    torch.testing.assert_close(actual, case.expected(TOKENS)[ends], atol=1e-3, rtol=1e-3)


def test_a_program_without_caches_equals_the_reference(case: Case, tmp_path: Path) -> None:
    made = export(case, tmp_path / "out", "--backend", "none", "model.use_kv_cache=false")
    method = ProgramMethod(made.program)
    for length in (1, CALL):
        text = TOKENS[:, :length]
        expected = case.expected(text)[-1]
        torch.testing.assert_close(method(text)[0], expected, atol=1e-3, rtol=1e-3)
    assert made.manifest["model"]["kv_cache_bytes"] == 0


def test_every_linear_layer_is_quantized(case: Case, tmp_path: Path) -> None:
    made = export(case, tmp_path / "out", "--quantize", "8da4w")
    modules = {each["name"]: each for each in made.manifest["weights"]["modules"]}
    linears = {name for name, each in modules.items() if each["kind"] == "linear"}
    assert {"layers.0.conv.in_proj", "layers.0.conv.out_proj"} <= linears
    assert all(modules[name]["bits"] == 4 for name in linears - {"head"})
    assert modules["layers.0.conv.conv"]["bits"] == 32
    assert made.manifest["checks"]
    assert all(each["passed"] for each in made.manifest["checks"])


def test_layers_are_repeated_where_their_kinds_are(tmp_path: Path) -> None:
    # Five of seven are lowered: a convolution, and twice attention and another one.
    case = TestLfm2.make_case("350m", tmp_path / "checkpoint", n_layers=7)
    made = export(case, tmp_path / "out", "--backend", "none")
    assert "repeat layers" in [each["name"] for each in made.manifest["stages"]]
    assert not [each for each in made.manifest["notes"] if "each layer" in each]
    ends, actual = program_logits(made.program, TOKENS, pieces=[1, 9, *[1] * 6, CALL])
    torch.testing.assert_close(actual, case.expected(TOKENS)[ends], atol=1e-3, rtol=1e-3)
