"""The eager decoder computes what Hugging Face's implementations compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from llmx.checkpoint import apply, hf_decoder_map, open_checkpoint, plan
from llmx.model.decoder import Decoder
from llmx.model.hf_config import decoder_params
from llmx.model.ops import BuildOptions, plain_ops
from llmx.quantize.load import load_weights
from llmx.quantize.rounding import largest_value

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 160,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA = transformers.LlamaConfig
CASES = {
    "multi-head, untied": (LLAMA, {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "grouped-query, tied": (LLAMA, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "multi-query": (LLAMA, {"num_key_value_heads": 1}),
    "attention and mlp biases": (LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "head_dim apart from dim": (LLAMA, {"head_dim": 32, "num_key_value_heads": 2}),
    "llama3 rope scaling": (LLAMA, {"rope_parameters": LLAMA3_ROPE}),
    "linear rope scaling": (
        LLAMA,
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
}


FULL, SLIDING = "full_attention", "sliding_attention"
WINDOWED = {
    "every layer": (transformers.MistralConfig, {"num_key_value_heads": 2}),
    "the last layers": (
        transformers.Qwen2Config,
        {"use_sliding_window": True, "max_window_layers": 1, "num_key_value_heads": 2},
    ),
    "layers by name": (
        transformers.Qwen3Config,
        {
            "use_sliding_window": True,
            "layer_types": [FULL, SLIDING, SLIDING],
            "head_dim": 16,
            "num_key_value_heads": 2,
        },
    ),
}


def build(folder: str, *, fused: bool = False, **build: Any) -> Decoder:
    checkpoint = open_checkpoint(folder)
    is_qwen = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}
    params = decoder_params(checkpoint.config, **is_qwen.get(checkpoint.config["model_type"], {}))
    options = BuildOptions(dtype=torch.float32, **{"max_context_length": 128, **build})
    ops = plain_ops(kv_cache=True, fused_attention=fused, int8_cache=False)
    with torch.device("meta"):
        model = Decoder(params, ops, options)
    tied = {"embedding.weight": "head.weight"} if params.tied_embeddings else {}
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if n not in tied.values()}
    steps = plan(hf_decoder_map(params), checkpoint, shapes)
    weights = apply(steps, checkpoint)
    records = load_weights(
        model, weights, {}, ops=ops, dtype=torch.float32, tied=tied, rounding=largest_value
    )
    for _ in records:
        pass
    return model.eval()


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request: pytest.FixtureRequest, tmp_path: Any) -> tuple[Any, str]:
    """A random Hugging Face model and the folder that it was saved to."""
    kind, changes = request.param
    torch.manual_seed(0)
    config = kind(**{**SMALL, **changes})
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in reference.named_parameters():
        if "norm" in name or name.endswith("bias"):
            # Fresh norms are 1 and biases 0: a swapped or forgotten one would not show.
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    reference.save_pretrained(tmp_path)
    return reference, str(tmp_path)


@torch.no_grad()
def test_logits_equal_the_reference(pair: tuple[Any, str]) -> None:
    reference, folder = pair
    model = build(folder, full_logits=True)
    tokens = torch.randint(160, (1, 100))
    torch.testing.assert_close(
        model(tokens, torch.tensor([0])), reference(tokens).logits, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_prefill_in_two_chunks_then_token_by_token_equals_the_reference(
    pair: tuple[Any, str],
) -> None:
    reference, folder = pair
    model = build(folder)
    tokens = torch.randint(160, (1, 40))
    expected = reference(tokens).logits[0]
    pieces = ((0, 20), (20, 33), *((at, at + 1) for at in range(33, 40)))
    for start, end in pieces:
        logits = model(tokens[:, start:end], torch.tensor([start]))
        torch.testing.assert_close(logits[0], expected[end - 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_fused_attention_equals_plain_attention() -> None:
    params = decoder_params({**SMALL, "num_key_value_heads": 2})
    options = BuildOptions(dtype=torch.float32, max_context_length=64)
    models = []
    for fused in (False, True):
        torch.manual_seed(1)
        model = Decoder(
            params, plain_ops(kv_cache=True, fused_attention=fused, int8_cache=False), options
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        models.append(model.eval())
    tokens = torch.randint(160, (1, 64))
    for start, end in ((0, 50), (50, 51), (51, 64)):
        plain, fused_logits = (m(tokens[:, start:end], torch.tensor([start])) for m in models)
        torch.testing.assert_close(plain, fused_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_a_cache_the_whole_sequence_is_the_input() -> None:
    params = decoder_params({**SMALL, "num_key_value_heads": 2})
    options = BuildOptions(dtype=torch.float32, max_context_length=64)
    torch.manual_seed(1)
    cached = Decoder(
        params, plain_ops(kv_cache=True, fused_attention=False, int8_cache=False), options
    ).eval()
    for parameter in cached.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    uncached = Decoder(
        params, plain_ops(kv_cache=False, fused_attention=False, int8_cache=False), options
    ).eval()
    uncached.load_state_dict(cached.state_dict(), strict=False)
    tokens = torch.randint(160, (1, 20))
    torch.testing.assert_close(uncached(tokens), cached(tokens, torch.tensor([0])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("final_logit_softcapping", 30.0),
        ("num_local_experts", 8),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("layer_types", ["full_attention", "linear_attention"]),
        ("rope_scaling", {"rope_type": "llama3", "low_freq_factor": 1.0}),
        (
            "rope_scaling",
            {"type": "longrope", "short_factor": [], "long_factor": [], "short_mscale": 1.1},
        ),
        ("rope_scaling", {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
    ],
)
def test_what_the_decoder_does_not_do_is_refused_by_name(field: str, value: Any) -> None:
    from llmx import CheckpointError

    with pytest.raises(CheckpointError, match=rf"yarn|factor|mscale|{field}"):
        decoder_params({**SMALL, field: value})


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"sliding_window": 64}, [64, 64, 64]),
        ({"sliding_window": None}, [None] * 3),
        ({"sliding_window": 64, "use_sliding_window": False}, [None] * 3),
        ({"sliding_window": 64, "max_window_layers": 2}, [None, None, 64]),
        ({"sliding_window": 64, "max_window_layers": 3}, [None] * 3),
        ({"sliding_window": 64, "layer_types": [FULL] * 3}, [None] * 3),
        ({"sliding_window": 64, "layer_types": [FULL, SLIDING, FULL]}, [None, 64, None]),
        ({"sliding_window": 512}, [None] * 3),
    ],
    ids=str,
)
def test_the_layers_that_have_a_window_are_the_configurations(
    fields: dict[str, Any], windows: list[int | None]
) -> None:
    params = decoder_params({**SMALL, **fields})
    assert [params.layer_window(layer) for layer in range(3)] == windows


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", WINDOWED.values(), ids=WINDOWED.keys())
@torch.no_grad()
def test_windows_equal_the_reference_past_the_window_and_across_chunks(
    kind: tuple[Any, dict[str, Any]], fused: bool, tmp_path: Any
) -> None:
    config, fields = kind
    torch.manual_seed(0)
    settings = config(**{**SMALL, "initializer_range": 0.1, **fields, "sliding_window": 20})
    reference = transformers.AutoModelForCausalLM.from_config(settings).eval()
    reference.save_pretrained(tmp_path)
    model = build(str(tmp_path), fused=fused, full_logits=True, longest_call=13)
    assert model.layers[-1].attention.core.layout.slots == 20 + 13 - 1
    tokens = torch.randint(160, (1, 100))
    expected = reference(tokens).logits[0]
    start = 0
    for length in (13, 13, 1, 1, 7, 13, 13, 2, 13, 13, 11):
        logits = model(tokens[:, start : start + length], torch.tensor([start]))[0]
        torch.testing.assert_close(logits, expected[start : start + length], atol=1e-4, rtol=1e-4)
        start += length
    assert start == 100


def test_a_missing_field_is_named() -> None:
    from llmx import CheckpointError

    config = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    with pytest.raises(CheckpointError, match="intermediate_size"):
        decoder_params(config)
