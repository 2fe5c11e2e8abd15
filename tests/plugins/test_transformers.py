"""The general family: many architectures by transformers' own code, and reasons where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmx.cli import invoke
from llmx.detect import detect_family
from llmx.errors import CheckpointError
from llmx.lower.template import template_of
from llmx.model.ops import BuildOptions, plain_ops
from llmx.plugins import load
from llmx.testing.eager import load_eager, logits
from llmx.testing.program import CALL, export_tiny, program_logits
from llmx.testing.reference import random_model, save_checkpoint
from llmx_plugin_transformers.listed import causal_models

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 320, "max_position_embeddings": 256,
}  # fmt: skip
WIDE_HEADS = {"head_dim": 32}
WINDOW = {"sliding_window": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "first_k_dense_replace": 1, "num_key_value_heads": 4, "n_group": 2,
    "topk_group": 1, "n_routed_experts": 4,
}  # fmt: skip
MULTIPLIERS = {
    "embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "codegen": {**GPT, "rotary_dim": 8},
    "cohere": {},
    "cohere2": {**WINDOW, "num_hidden_layers": 4},
    "deepseek_v3": {**EXPERTS, **LATENT},
    "exaone4": WINDOW,
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma": WIDE_HEADS,
    "gemma2": {**WIDE_HEADS, **WINDOW},
    "gemma3_text": {**WIDE_HEADS, **WINDOW, "num_hidden_layers": 7},
    "glm4": {"head_dim": 16},
    "gpt2": GPT,
    "gpt_neox": {},
    "granite": MULTIPLIERS,
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": WINDOW,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {},
    "olmo2": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi": {},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "smollm3": {"num_hidden_layers": 5},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
}


def saved(model_type: str, folder: Path, **fields: Any) -> Any:
    """A random model in ``folder``, as on the hub."""
    model = random_model(model_type, {**SHAPE, **fields})
    save_checkpoint(model, folder, eos=[257], bos=256)
    return model


def tokens(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(SHAPE["vocab_size"], (1, length), generator=generator)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logits_equal_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    reference = saved(model_type, tmp_path, **ARCHITECTURES[model_type])
    family = load("transformers", None).family
    loaded = load_eager(family, tmp_path, max_context_length=128, longest_call=14)
    text = tokens(100)
    # Three times round the ring of a window of 16.
    actual = logits(loaded.model, text, [14, 9, *[1] * 20, *[14] * 4, 1])
    with torch.no_grad():
        expected = reference(text).logits[0]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    # Only a tied head may be stored and not be read.
    assert set(loaded.checkpoint.tensors) - loaded.used <= {"lm_head.weight"}
    biases = [each for name, each in reference.named_buffers() if name.endswith("correction_bias")]
    count = sum(each.numel() for each in [*reference.parameters(), *biases])
    assert loaded.params.parameter_count == count


@pytest.mark.parametrize("model_type", ["falcon", "qwen3_moe"])
def test_a_program_computes_what_transformers_computes(model_type: str, tmp_path: Path) -> None:
    fields = {**ARCHITECTURES[model_type], "num_hidden_layers": 2}
    reference = saved(model_type, tmp_path / "checkpoint", **fields)
    artifact = export_tiny("transformers", tmp_path / "checkpoint", tmp_path / "program")
    text = tokens(45)
    ends, actual = program_logits(artifact.program, text, pieces=[CALL, 9, *[1] * 7, CALL, 1])
    with torch.no_grad():
        expected = reference(text).logits[0][ends]
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)


def test_without_a_family_it_stands_in_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("mistral", tmp_path / "checkpoint", **WINDOW, num_hidden_layers=5)
    words = ["export", "--checkpoint", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "out")]
    assert invoke([*words, "--max-context-length", "64", "--debug"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "(model_type 'mistral'): transformers stands in for a family that was made for" in shown
    manifest = json.loads((tmp_path / "out/llmx.json").read_text(encoding="utf-8"))
    assert manifest["family"] == "transformers"
    # By default quantized, its layers lowered once and repeated.
    assert {each["bits"] for each in manifest["weights"]["modules"]} >= {4}
    assert not [each for each in manifest["notes"] if "each layer is lowered by itself" in each]


def test_a_family_that_was_made_for_a_checkpoint_comes_first(tmp_path: Path) -> None:
    saved("qwen3", tmp_path)
    assert detect_family(str(tmp_path), None, None) == "qwen3"


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("mamba", {}, r"layer 0 \(MambaBlock: .*MambaMixer\) takes neither attention nor a cache"),
        ("t5", {}, "has no causal language model 't5'"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("gpt_oss", {"num_local_experts": 4}, r"experts \(GptOssExperts\) has weights stacked"),
        ("recurrent_gemma", {}, r"layer 0 \(.*RecurrentGemmaRecurrentBlock.*\) does not attend"),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "Lfm2ShortConv"),
        ("gemma3", {"vision_config": {}}, "more than text"),
        ("mistral", {"hidden_size": "wide"}, "refuses the configuration"),
    ],
)
def test_what_cannot_work_names_the_part_in_the_way(
    model_type: str, fields: dict[str, Any], reason: str
) -> None:
    config = {**SHAPE, **fields, "model_type": model_type}
    with pytest.raises(CheckpointError, match=reason) as caught:
        load("transformers", None).family.params_from_hf(config=config)
    assert caught.value.remedy


def test_layers_that_differ_in_a_setting_alone_are_not_repeated() -> None:
    # Every fourth layer of SmolLM3 goes without rotary positions, which no shape shows.
    family = load("transformers", None).family
    config = {**SHAPE, "model_type": "smollm3", "num_hidden_layers": 16, "pad_token_id": None}
    params = family.params_from_hf(config=config)
    ops = plain_ops(kv_cache=True, fused_attention=False, int8_cache=False)
    build = BuildOptions(dtype=torch.float32, max_context_length=64)
    with torch.device("meta"):
        model = family.build_model(params=params, ops=ops, build=build)
    template = template_of(model)
    assert template is not None
    kinds = [template.kinds[layer] for layer in template.chosen]
    assert len(set(kinds)) == 2
    assert len(kinds) < 16


def test_the_list_of_models_is_transformers_own() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_models() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
