"""Quantized weights in programs: each mode computes what its eager model does, and is small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmx import Artifact, ConfigError, ExportJob
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod

SHARED = {"use_shared_embedding": True}
CONFIG = {"vocab_size": 640, "num_hidden_layers": 1}
BIASES = {"attention_bias": True}
MODES: dict[str, dict[str, Any]] = {
    "8da8w": {"qmode": "8da8w", "embedding_quantize": "8,0", "use_hqq": False, **SHARED},
    "int8": {"qmode": "int8", "embedding_quantize": "2,32", "config": BIASES},
    "8da4w": {"embedding_quantize": "4,32", **SHARED},
    "8da4w, rounded in groups of 64": {
        "qmode": "8da4w",
        "group_size": 64,
        "use_hqq": False,
        "embedding_quantize": "8,32",
        "expand_rope_table": True,
    },
    "8da4w, no backend": {
        "qmode": "8da4w",
        "embedding_quantize": "2,32",
        "backend": None,
        "config": BIASES,
    },
    "4w, no backend": {"qmode": "4w", "embedding_quantize": "4,32", "backend": None, **SHARED},
}
TOKENS = torch.randint(128, (1, 30), generator=torch.Generator().manual_seed(5))


@frozen
class Exported:
    artifact: Artifact
    model: torch.nn.Module
    options: dict[str, Any]

    @property
    def shared(self) -> bool:
        return "use_shared_embedding" in self.options

    @property
    def content(self) -> bytes:
        return self.artifact.program.read_bytes()


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES.keys())
def exported(request: pytest.FixtureRequest, tiny_export: Any, eager: Any) -> Exported:
    options = dict(request.param)
    config = {**CONFIG, **options.pop("config", {})}
    artifact = tiny_export(config=config, **options)
    return Exported(artifact, eager(artifact), request.param)


@torch.no_grad()
def test_a_program_computes_what_its_eager_model_does(exported: Exported) -> None:
    program = ProgramMethod(exported.artifact.program)
    rounded_inputs = exported.artifact.manifest["config"]["quantization"]["qmode"].startswith("8da")
    for start, end in ((0, 20), (20, 21), (21, 30)):
        inputs = TOKENS[:, start:end], torch.tensor([start])
        expected = exported.model(*inputs)
        difference = (program(*inputs) - expected).square().mean().sqrt() / expected.std()
        assert float(difference) <= (0.1 if rounded_inputs else 1e-4)


def test_every_linear_and_embedding_is_quantized(exported: Exported) -> None:
    weights = exported.artifact.manifest["weights"]
    assert weights["quantized_layers"] == weights["layers"] == 7 + 2
    assert exported.artifact.manifest["notes"] == []


def test_no_linear_is_left_to_other_kernels(exported: Exported) -> None:
    manifest = exported.artifact.manifest
    if manifest["delegation"]["subgraphs"]:
        counts = {each["operator"]: each for each in manifest["delegation"]["operators"]}
        assert counts["aten_linear_default"]["other"] == 0


def test_the_file_holds_what_the_account_says_and_the_program_around_it(exported: Exported) -> None:
    stored = exported.artifact.manifest["weights"]["stored_bytes"]
    assert stored < len(exported.content) < stored + 120_000


def test_a_shared_table_is_in_the_file_once(exported: Exported) -> None:
    if not exported.shared:
        pytest.skip("a table of its own")
    table = exported.model.embedding.weight.numpy().tobytes()
    assert exported.content.count(table) == 1
    modules = {each["name"]: each for each in exported.artifact.manifest["weights"]["modules"]}
    assert modules["head"]["shares"] == "embedding"


def test_a_head_of_its_own_is_another_table(exported: Exported) -> None:
    modules = {each["name"]: each for each in exported.artifact.manifest["weights"]["modules"]}
    if not exported.shared:
        assert modules["head"]["shares"] is None
        assert modules["head"]["stored_bytes"] > 640 * 64 * modules["head"]["bits"] // 8


class TestRefusals:
    def check(self, backend: str | None = "xnnpack", **options: Any) -> None:
        job = ExportJob.create("smollm2", random_weights=True, backend=backend, **options)
        load("smollm2", backend).backend.check(job=job)

    @pytest.mark.parametrize(
        ("options", "message", "remedy"),
        [
            ({"qmode": "4w"}, "no kernels for .*4w", "activations in 8 bits"),
            ({"qmode": "torchao:8da4w"}, "no kernels for .*torchao:8da4w", "use 8da4w"),
            ({"qmode": "8da8w", "group_size": 32}, "one scale per row", "leave"),
            ({"qmode": "int8", "group_size": 64}, "one scale per row", "leave"),
            ({"embedding_quantize": "torchao:4,32"}, "no kernels for .*torchao", "4,32"),
            ({"embedding_quantize": "8,32", **SHARED}, "cannot use such a table", "8,0 or 4,32"),
            ({"embedding_quantize": "4,16", **SHARED}, "cannot use such a table", "8,0 or 4,32"),
            ({"embedding_quantize": "2,32", **SHARED}, "cannot use such a table", "8,0 or 4,32"),
        ],
    )
    def test_what_xnnpack_has_no_kernels_for(
        self, options: dict[str, Any], message: str, remedy: str
    ) -> None:
        with pytest.raises(ConfigError, match=message) as raised:
            self.check(**options)
        assert remedy in str(raised.value.remedy)

    @pytest.mark.parametrize(
        "options", [{"qmode": "torchao:fpa4w"}, {"embedding_quantize": "torchao:3,32"}]
    )
    def test_low_bit_kernels_need_a_backend(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="for a backend with low-bit kernels"):
            self.check(backend=None, **options)

    def test_a_table_that_the_checkpoint_does_not_tie(self, tiny_export: Any) -> None:
        untied = {"tie_word_embeddings": False}
        with pytest.raises(ConfigError, match="embedding and head are different tables"):
            tiny_export(config=untied, embedding_quantize="8,0", **SHARED)


def test_the_stock_runner_loads_a_table_that_is_stored_once(
    tiny_export: Any, tmp_path: Path
) -> None:
    """It maps the file's segments itself, unlike the runtime of the tests above."""
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    artifact = tiny_export(config=CONFIG, **MODES["8da4w"])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: at for at, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pieces: list[str] = []
    runner = TextLLMRunner(str(artifact.program), str(tmp_path / "tokenizer.json"))
    runner.generate("hello", GenerationConfig(max_new_tokens=4, temperature=0.0), pieces.append)
    assert pieces
