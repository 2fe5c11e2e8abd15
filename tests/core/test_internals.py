"""Internals of ExecuTorch that llmx relies on; these fail when they move."""

from __future__ import annotations

import inspect

import torch


def test_quantized_embedding_operators() -> None:
    """Used by ``llmx.quantize.embedding``."""
    from llmx.quantize.embedding import _operators

    operators = _operators()
    for name in ("embedding_2bit", "embedding_4bit", "embedding_byte"):
        assert {"dtype", "dtype_out"} <= set(getattr(operators, name).overloads())


def test_the_even_element_is_in_the_high_nibble_and_shifted_by_eight() -> None:
    """The layout that ``llmx.quantize.embedding`` packs."""
    from llmx.quantize.embedding import _operators

    packed = torch.tensor([[0x9F]], dtype=torch.uint8)
    scale = torch.ones(1, 1)
    values = _operators().embedding_4bit.dtype(
        packed, scale, None, -8, 7, torch.tensor([0]), dtype=torch.float32
    )
    assert values.tolist() == [[1.0, 7.0]]


def test_torchaos_tensor_of_integers() -> None:
    """Made by ``llmx.quantize.linear``."""
    from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as module

    names = ["qdata", "scale", "zero_point", "target_dtype", "block_size", "dtype"]
    found = list(inspect.signature(module.IntxUnpackedToInt8Tensor.__init__).parameters)
    assert found[1:] == [*names, "activation_quantization"]
    assert module.IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN


def test_custom_attention_operators() -> None:
    """Used by ``llmx.model.kv_cache``; what they compute is tested in test_decoder_parity.py."""
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401

    schema = torch.ops.llama.custom_sdpa.default._schema
    names = [each.name for each in schema.arguments]
    assert names[:7] == [
        "query", "key", "value", "start_pos", "attn_mask", "drpout_p", "is_causal",
    ]  # fmt: skip
    assert torch.ops.llama.update_cache.default._schema.arguments[1].is_write


def test_runner_bindings() -> None:
    """Used by ``llmx.run``."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    assert {"generate", "prefill", "stop", "reset"} <= set(dir(TextLLMRunner))
    config = GenerationConfig(echo=False, max_new_tokens=3, temperature=0.0, num_bos=0)
    assert config.max_new_tokens == 3
