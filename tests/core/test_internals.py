"""Internals of ExecuTorch that llmx relies on; these fail when they move."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmx import native


def test_quantized_embedding_operators() -> None:
    """Used by ``llmx.quantize.embedding``."""
    from llmx.quantize.embedding import quantized_operators

    operators = quantized_operators()
    for name in ("embedding_2bit", "embedding_4bit", "embedding_byte"):
        assert {"dtype", "dtype_out"} <= set(getattr(operators, name).overloads())


def test_the_even_element_is_in_the_high_nibble_and_shifted_by_eight() -> None:
    """The layout that ``llmx.quantize.embedding`` packs."""
    from llmx.quantize.embedding import quantized_operators

    packed = torch.tensor([[0x9F]], dtype=torch.uint8)
    scale = torch.ones(1, 1)
    values = quantized_operators().embedding_4bit.dtype(
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


def test_bindings_of_the_runtime(tmp_path: Path) -> None:
    """Used by ``llmx.native``."""
    module = native.bindings()
    assert module._is_available("XnnpackBackend")
    assert not module._is_available("NoSuchBackend")
    assert {"Minimal", "InternalConsistency"} <= set(dir(module.Verification))
    (tmp_path / "empty.pte").write_bytes(bytes(64))
    with pytest.raises(RuntimeError):
        native.load_program(tmp_path / "empty.pte")


def test_the_runtime_comes_without_the_exporter() -> None:
    """What makes ``llmx.native`` worth having: the exporter takes seconds to import."""
    code = (
        "import sys; from llmx import native; native.register_operators(); import torch;"
        "torch.ops.llama.custom_sdpa; sys.exit('executorch.exir' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_named_data_may_wait_in_a_file(tmp_path: Path) -> None:
    """Made by ``llmx.lower.payload``."""
    from executorch.exir._serialize._cord import Cord, FileBackedData
    from executorch.exir._serialize._named_data_store import NamedDataStore

    path = tmp_path / "data"
    path.write_bytes(b"weights")
    store = NamedDataStore()
    store.add_named_data("key", FileBackedData(str(path), cleanup=True), alignment=16)
    output = store.get_named_data_store_output()
    with (tmp_path / "program").open("wb") as file:
        Cord(output.buffers[output.pte_data["key"].buffer_index]).write_to_file(file)
    assert (tmp_path / "program").read_bytes() == b"weights"
    del store, output
    assert not path.exists()
