"""The main job on real weights: export SmolLM2-135M-Instruct with the default recipe and use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmx import Artifact
from tests.e2e.conftest import Export, llmx

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def artifact(smollm2_export: Export) -> Artifact:
    return Artifact.open(smollm2_export[0])


def run_json(artifact: Artifact, *arguments: str) -> dict[str, Any]:
    done = llmx("run", str(artifact.folder), "--json", "--temperature", "0", *arguments)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_it_answers_a_question_and_stops(artifact: Artifact) -> None:
    answer = run_json(artifact, "--prompt", "What is the capital of France?")
    assert "Paris" in answer["text"]
    assert answer["stop_reason"] == "end"
    assert "<|" not in answer["text"]


def test_it_completes_text(artifact: Artifact) -> None:
    answer = run_json(
        artifact, "--raw", "--prompt", "Once upon a time, there was a", "--max-new-tokens", "12"
    )
    assert answer["stop_reason"] == "max_new_tokens"
    assert len(answer["text"].split()) > 4


def test_everything_is_quantized_and_small(artifact: Artifact) -> None:
    weights = artifact.manifest["weights"]
    assert weights["quantized_layers"] == weights["layers"] == 30 * 7 + 2
    formats = {
        (each["bits"], each["group"]) for each in weights["modules"] if each["kind"] != "other"
    }
    assert formats == {(4, 32), (8, 576)}
    # 106.2 M weights at 4 bits and a scale for 32, and 28.3 M of the one table at 8 bits.
    assert artifact.program.stat().st_size < 89e6
    (head,) = [each for each in weights["modules"] if each["shares"]]
    assert (head["name"], head["shares"]) == ("head", "embedding")


def test_memory_is_bounded_by_the_program_and_as_expected(artifact: Artifact) -> None:
    peak = max(each["peak_bytes"] for each in artifact.manifest["stages"])
    assert peak <= artifact.program.stat().st_size + 1e9
    assert peak <= artifact.manifest["predicted_peak_bytes"]


def test_it_passes_its_verification(artifact: Artifact, smollm2_gguf: Path) -> None:
    done = llmx("verify", str(artifact.folder), "--json", "--reference", str(smollm2_gguf))
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert [each["name"] for each in checks if not each["passed"]] == []


def test_facts_come_from_the_checkpoint(artifact: Artifact) -> None:
    model = artifact.manifest["model"]
    assert model["parameter_count"] == 134_515_008
    assert model["bos_id"] == 1
    assert 2 in model["eos_ids"]
    assert artifact.chat_template is not None
    assert artifact.manifest["config"]["export"]["max_context_length"] == 2048
    (digest,) = artifact.manifest["source"]["files"].values()
    assert len(digest) == 64


def test_the_summary_says_what_matters(smollm2_export: Export) -> None:
    folder, done = smollm2_export
    for words in (
        f"{folder}/model.pte",
        "bits each",
        "212 of 212 layers quantized",
        "nodes left to portable kernels",
        "peak memory",
        f"llmx chat {folder}",
    ):
        assert words in done.stdout
    for stage in ("load and quantize", "torch.export", "lower", "emit program", "check"):
        assert stage in done.stderr
    for noise in ("Warning", "Failed to load", "cpuinfo", "No temp allocator"):
        assert noise not in done.stderr


def test_the_runtimes_tokenizer_agrees_with_the_reference(artifact: Artifact) -> None:
    from pytorch_tokenizers import CppHFTokenizer
    from tokenizers import Tokenizer

    assert artifact.tokenizer is not None
    reference = Tokenizer.from_file(str(artifact.tokenizer))
    runtime = CppHFTokenizer()
    runtime.load(str(artifact.tokenizer))
    for text in ("Hello, world!", "3.14159 is π", "naïve café", "你好,世界", "🦙🦙", "a\n\n  b\tc"):
        assert list(runtime.encode(text, 0, 0)) == reference.encode(text).ids
