"""Programs that read and say only some tokens answer as the whole model does among those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx import Artifact, ExportJob
from llmx.checkpoint import TokenIds
from llmx.config import ModelOptions
from llmx.errors import ConfigError, LlmxError
from llmx.lower.vocabulary import read_vocabulary
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod
from llmx.run.sampling import Sampling
from llmx.run.tokens import TokenGenerator

VOCABULARY = 128
KEPT = [2, 0, 1, *range(40, 90), 120]  # as an own tokenizer would number them, not sorted
OTHERS = sorted(set(range(VOCABULARY)) - set(KEPT))
PORTABLE = {"backend": None, "model.use_kv_cache": True}
BOTH = ("input", "output")


@pytest.fixture(scope="module")
def prune_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "token_map.json"
    path.write_text(json.dumps({str(new): old for new, old in enumerate(KEPT)}))
    return path


@pytest.fixture(scope="module")
def pruned(tiny_export: Any, prune_map: Path) -> Any:
    def export(*sides: str, **options: Any) -> Artifact:
        maps = {f"model.{side}_prune_map": str(prune_map) for side in sides}
        artifact: Artifact = tiny_export(**maps, **options)
        return artifact

    return export


@pytest.fixture(scope="module")
def small(pruned: Any) -> Artifact:
    artifact: Artifact = pruned(*BOTH, **PORTABLE)
    return artifact


@pytest.fixture(scope="module")
def whole(tiny_export: Any) -> Artifact:
    artifact: Artifact = tiny_export(**PORTABLE)
    return artifact


def logits(artifact: Artifact, tokens: list[int]) -> Tensor:
    return ProgramMethod(artifact.program)(torch.tensor([tokens]), torch.tensor([0]))[0]


def test_what_is_kept_has_the_whole_models_logits(small: Artifact, whole: Artifact) -> None:
    found, expected = logits(small, KEPT[3:20]), logits(whole, KEPT[3:20])
    assert found.shape == (VOCABULARY,)
    torch.testing.assert_close(found[KEPT], expected[KEPT], atol=1e-5, rtol=1e-4)
    assert bool(found[OTHERS].isneginf().all())


def test_both_tables_are_as_small_as_the_map(small: Artifact) -> None:
    rows = {each["name"]: each["elements"] for each in small.manifest["weights"]["modules"]}
    assert rows["embedding"] == rows["head"] == len(KEPT) * 64


def test_a_token_that_is_not_kept_is_an_error_from_which_the_process_recovers(
    small: Artifact,
) -> None:
    method = ProgramMethod(small.program)
    with pytest.raises(LlmxError):
        method(torch.tensor([[KEPT[0], OTHERS[0]]]), torch.tensor([0]))
    assert bool(method(torch.tensor([KEPT[:2]]), torch.tensor([0]))[0, KEPT].isfinite().all())


def test_quantized_tables_of_a_model_of_repeated_layers_refuse_it_too(pruned: Any) -> None:
    artifact = pruned(*BOTH, embedding_quantize="4,32", config={"num_hidden_layers": 4})
    with pytest.raises(LlmxError):
        ProgramMethod(artifact.program)(torch.tensor([[OTHERS[0]]]), torch.tensor([0]))
    assert bool(logits(artifact, KEPT[:3])[KEPT].isfinite().all())


def test_answers_are_made_of_what_is_kept(small: Artifact) -> None:
    generator = TokenGenerator(read_program(small.program))
    said: list[int] = []
    for seed in range(20):
        run = generator.generate(
            KEPT[3:9],
            max_new_tokens=30,
            sampling=Sampling(temperature=2.0, seed=seed),
            on_token=lambda token: False,
            interrupt=Interrupt(),
        )
        said += run.tokens
    assert len(set(said)) > 20
    assert set(said) <= set(KEPT)


def test_a_tied_head_can_be_pruned_alone(pruned: Any, whole: Artifact) -> None:
    artifact = pruned("output", **PORTABLE)
    found, expected = logits(artifact, OTHERS[:9]), logits(whole, OTHERS[:9])
    torch.testing.assert_close(found[KEPT], expected[KEPT], atol=1e-5, rtol=1e-4)
    assert bool(found[OTHERS].isneginf().all())
    assert "model.output_prune_map keeps 54 of 128 tokens" in artifact.manifest["notes"]


SPECIAL = TokenIds(bos=1, eos=(2,))


def vocabulary(tmp_path: Path, content: Any, *sides: str) -> Any:
    path = tmp_path / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    options: dict[str, Any] = {f"{side}_prune_map": str(path) for side in sides or BOTH}
    return read_vocabulary(ModelOptions(**options), size=8, special=SPECIAL)


def test_a_list_says_the_same_as_a_map(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, [2, 1, 5]).inputs == (2, 1, 5)
    assert vocabulary(tmp_path, {"1": 1, "0": 2, "2": 5}).outputs == (2, 1, 5)


@pytest.mark.parametrize(
    ("content", "sides", "message"),
    [
        ("{", BOTH, "map.json cannot be read"),
        ({}, BOTH, "does not map new token ids from 0 on"),
        ({"0": 1, "2": 2}, BOTH, "does not map new token ids from 0 on"),
        ([1, 2, "3"], BOTH, "does not map new token ids from 0 on"),
        ([1, 2, 8], BOTH, "has token 8; the model has 8 tokens"),
        ([1, 2, 2], BOTH, "has token 2 more than once"),
        ([1, 3], ["output"], "leaves out token 2, so the model could not end a text"),
        ([2, 3], BOTH, "leaves out token 1, so no text could begin"),
        ([1, 2], ["input"], "leaves out token 0, 3, 4 and 3 more, so the model would say what"),
    ],
)
def test_maps_that_cannot_work_are_refused(
    tmp_path: Path, content: Any, sides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        vocabulary(tmp_path, content, *sides)


def test_a_file_that_is_not_there_is_named() -> None:
    options = ModelOptions(input_prune_map="nowhere.json")
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read: No such file"):
        read_vocabulary(options, size=8, special=SPECIAL)


def test_one_quantized_table_needs_one_map(pruned: Any) -> None:
    shared = {"model.use_shared_embedding": True, "embedding_quantize": "8,0"}
    with pytest.raises(ConfigError, match="embedding and head are different tables"):
        pruned("output", **shared)


def test_the_job_is_an_ordinary_one(prune_map: Path) -> None:
    job = ExportJob.create("smollm2", **{"model.output_prune_map": str(prune_map)})
    assert job.to_dict()["model"]["output_prune_map"] == str(prune_map)
