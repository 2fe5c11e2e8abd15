"""The simplest YAML of the older tool: no KV cache, no quantization, no backend; it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from llmx import Artifact
from tests.e2e.conftest import llmx

pytestmark = pytest.mark.e2e
DIM, KV_DIM, HIDDEN, VOCAB, LAYERS = 64, 32, 128, 49152, 2


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"tok_embeddings": (VOCAB, DIM), "output": (VOCAB, DIM)}
    for at in range(LAYERS):
        shapes |= {
            f"layers.{at}.attention.wq": (DIM, DIM),
            f"layers.{at}.attention.wk": (KV_DIM, DIM),
            f"layers.{at}.attention.wv": (KV_DIM, DIM),
            f"layers.{at}.attention.wo": (DIM, DIM),
            f"layers.{at}.feed_forward.w1": (HIDDEN, DIM),
            f"layers.{at}.feed_forward.w2": (DIM, HIDDEN),
            f"layers.{at}.feed_forward.w3": (HIDDEN, DIM),
        }
    norms = [
        "norm",
        *(f"layers.{at}.{n}_norm" for at in range(LAYERS) for n in ("attention", "ffn")),
    ]
    random = {f"{name}.weight": torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    return random | {f"{name}.weight": torch.ones(DIM) for name in norms}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, smollm2_export: Any) -> Artifact:
    folder = tmp_path_factory.mktemp("basic")
    torch.save(tensors(), folder / "consolidated.00.pth")
    params = {"dim": DIM, "hidden_dim": HIDDEN, "n_heads": 4, "n_kv_heads": 2, "n_layers": LAYERS}
    params |= {"vocab_size": VOCAB, "norm_eps": 1e-5, "rope_theta": 500000.0}
    (folder / "params.json").write_text(json.dumps({**params, "use_scaled_rope": False}))
    (folder / "config.yaml").write_text(
        "base:\n"
        "  model_class: llama3_2\n"
        f"  checkpoint: {folder}/consolidated.00.pth\n"
        f"  params: {folder}/params.json\n"
        f"  tokenizer_path: {smollm2_export[0]}/tokenizer.json\n"
        '  metadata: \'{"get_bos_id":1, "get_eos_ids":[2, 0]}\'\n'
    )
    done = llmx("export", "--config", str(folder / "config.yaml"), "-o", str(folder / "out"))
    assert done.returncode == 0, done.stderr
    return Artifact.open(folder / "out")


def test_it_is_plain_fp32(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest["delegation"]["subgraphs"] == 0
    assert manifest["weights"]["quantized_layers"] == 0
    assert manifest["config"]["model"]["use_kv_cache"] is False
    assert manifest["config"]["export"]["max_context_length"] == 128
    assert manifest["model"]["eos_ids"] is not None


def test_the_runner_generates_with_it(artifact: Artifact) -> None:
    arguments = ("--raw", "--prompt", "Hello there", "--max-new-tokens", "5", "--json")
    done = llmx("run", str(artifact.folder), *arguments)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["generated_tokens"] == 5
    assert answer["text"]
