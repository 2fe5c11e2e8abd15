"""XNNPACK: programs compute with a quantized checkpoint's own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import nn

from llmx import Artifact, ExportJob, export
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod
from llmx.testing.eager import load_eager

DIM, HIDDEN, HEADS, KV_HEADS, VOCAB, LAYERS, CONTEXT = 64, 128, 4, 2, 128, 4, 64
HEAD_DIM = DIM // HEADS
ATTENTION, FEED_FORWARD, EMBEDDING = Type.Q4_0, Type.Q4_1, Type.Q5_1


def write_gguf(path: Path) -> Path:
    """A random decoder whose parts are quantized in different ways, by gguf's own functions."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, count in {
        "embedding_length": DIM,
        "block_count": LAYERS,
        "feed_forward_length": HIDDEN,
        "context_length": CONTEXT,
        "vocab_size": VOCAB,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": HEAD_DIM,
    }.items():
        writer.add_uint32(f"llama.{key}", count)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    rng = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int, kind: Type) -> None:
        weight = rng.standard_normal((rows, columns), dtype=np.float32) * 0.1
        writer.add_tensor(f"{name}.weight", gguf.quantize(weight, kind), raw_dtype=kind)

    add("token_embd", VOCAB, DIM, EMBEDDING)
    writer.add_tensor("output_norm.weight", np.ones(DIM, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(DIM, np.float32))
        for name, rows in (("q", DIM), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            add(f"{block}.attn_{name}", rows, DIM, ATTENTION)
        add(f"{block}.attn_output", DIM, DIM, ATTENTION)
        for name in ("gate", "up"):
            add(f"{block}.ffn_{name}", HIDDEN, DIM, FEED_FORWARD)
        add(f"{block}.ffn_down", DIM, HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Artifact:
    job = ExportJob.create(
        "smollm2",
        checkpoint=str(checkpoint),
        output_dir=str(checkpoint.parent / "out"),
        qmode=None,
        embedding_quantize=None,
        **{"quantization.imported": "keep"},
    )
    return export(job)


def test_logits_are_those_of_the_expanded_weights(checkpoint: Path, artifact: Artifact) -> None:
    """The reference never saw the integers: floats as gguf expands them, int8 activations."""

    def rounded(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / 255
        zero = (-128 - low / scale).round()
        return ((((x / scale).round() + zero).clamp(-128, 127) - zero) * scale,)

    family = load("smollm2", None).family
    model = load_eager(family, checkpoint, max_context_length=CONTEXT).model
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "head":
            module.register_forward_pre_hook(rounded)
    program = ProgramMethod(artifact.program)
    tokens = torch.randint(VOCAB, (1, 30), generator=torch.Generator().manual_seed(2))
    for start, end in ((0, 20), (20, 21), (21, 30)):
        inputs = tokens[:, start:end], torch.tensor([start])
        with torch.no_grad():
            expected = model(*inputs)[:, -1]
        difference = (program(*inputs) - expected).square().mean().sqrt() / expected.std()
        # What is left is bf16 scales and what int8 activations make of it.
        assert float(difference) < 0.05


def test_every_layer_but_the_head_keeps_its_integers(artifact: Artifact) -> None:
    modules = {each["name"]: each for each in artifact.manifest["weights"]["modules"]}
    kept = {name for name, each in modules.items() if each["stored"] and not each["obstacle"]}
    assert len(kept) == 7 * LAYERS + 1
    assert modules["embedding"]["stored"] == "q5_1"
    assert modules["embedding"]["error"] < 1e-6
    assert modules["layers.1.attention.q_proj"]["stored"] == "q4_0"
    assert "5-bit codes in groups of 32" in modules["head"]["obstacle"]


def test_what_became_of_them_is_said(artifact: Artifact) -> None:
    notes = artifact.manifest["notes"]
    assert "16 layers kept as the checkpoint's q4_0" in notes
    assert any(note.startswith("1 layer of q5_1 expanded to 32-bit floats") for note in notes)


def test_all_of_it_is_delegated_and_repeats(artifact: Artifact) -> None:
    operators = artifact.manifest["delegation"]["operators"]
    linears = next(each for each in operators if each["operator"] == "aten_linear_default")
    assert linears["other"] == 0
    assert not any("lowered by itself" in note for note in artifact.manifest["notes"])
