"""``llmx eval`` scores the shipped program; its figures are those of other implementations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llmx.artifact import Artifact
from llmx.cli import invoke
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.testing.tiny import export_anew, tiny_job

from .conftest import CONTEXT

TEXT = "The cat sat on the mat, and the dog lay by the door; neither of them spoke. " * 4


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    """The same model in transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint).eval()


def ids(artifact: Artifact, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(artifact.tokenizer)).encode(text).ids)


def evaluate(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert invoke(["eval", *map(str, words), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


@torch.no_grad()
def test_perplexity_is_that_of_transformers(
    exact: Artifact, theirs: Any, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, exact.folder, "--text", text)
    tokens = ids(exact, TEXT)
    losses = []
    for start in range(0, len(tokens), CONTEXT):
        window = torch.tensor([tokens[start : start + CONTEXT]])
        logits = theirs(window).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none"))
    expected = math.exp(float(torch.cat(losses).mean()))
    assert found["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert found["tokens"] == sum(map(len, losses))
    assert found["agreement"] is None


def test_an_exact_program_agrees_and_a_quantized_one_less(
    exact: Artifact,
    quantized: Artifact,
    checkpoint: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = [
        evaluate(
            capsys, each.folder, "--text", text, "--reference", checkpoint, "--limit", 90
        )["agreement"]
        for each in (exact, quantized)
    ]  # fmt: skip
    assert scores[0]["divergence"] < 1e-6
    assert scores[0]["top1"] == 1
    assert scores[1]["divergence"] > 1e-3
    assert scores[1]["top1"] < 1
    assert scores[0]["perplexity"] == scores[1]["perplexity"]


def test_a_table_is_shown(
    exact: Artifact, text: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--text", str(text), "--reference", str(checkpoint), "--limit", "20", "--quiet"]
    assert invoke(["eval", str(exact.folder), *words]) == 0
    shown = capsys.readouterr().out
    for word in ("perplexity", "KL divergence", "top-1 agreement", "100.0%", "19 tokens"):
        assert word in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a --text FILE"),
        (["--text", "{empty}"], "too short"),
        (["--text", "/nowhere/text.txt"], "cannot be read"),
        (["--task", "x", "--reference", "y"], "of a --text"),
    ],
    ids=["nothing", "empty", "missing", "reference of tasks"],
)
def test_what_cannot_be_scored_is_refused(
    words: list[str],
    message: str,
    exact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    given = [word.format(empty=empty) for word in words]
    assert invoke(["eval", str(exact.folder), *given, "--quiet"]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of one's own: which of three words comes next, and what is said next."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    documents = [
        {"question": question, "choices": ["red", "green", "blue"], "answer": 1, "target": "x"}
        for question in ("The sky is", "Grass is", "A ball is")
    ]
    data = folder / "data.json"
    data.write_text("\n".join(map(json.dumps, documents)))
    common = f"""dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
    (folder / "colours.yaml").write_text(
        f"""task: colours
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
{common}"""
    )
    (folder / "talk.yaml").write_text(
        f"""task: talk
output_type: generate_until
doc_to_target: target
generation_kwargs: {{until: ["."], max_gen_toks: 5}}
metric_list: [{{metric: exact_match}}]
{common}"""
    )
    return folder


@torch.no_grad()
def test_tasks_of_lm_eval_are_answered_as_transformers_would(
    exact: Artifact,
    theirs: Any,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    words = ["--task", "colours", "--task", "talk", "--task-folder", tasks]
    found = evaluate(capsys, exact.folder, *words)

    def likelihood(question: str, answer: str) -> float:
        context, whole = ids(exact, question), ids(exact, f"{question} {answer}")
        logs = theirs(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(float(logs[at - 1, whole[at]]) for at in range(len(context), len(whole)))

    right = [
        max(("red", "green", "blue"), key=lambda word: likelihood(question, word)) == "green"
        for question in ("The sky is", "Grass is", "A ball is")
    ]
    assert found["colours"]["acc,none"] == pytest.approx(sum(right) / 3)
    assert found["talk"]["exact_match,none"] == 0


def test_texts_are_read_anew_where_caches_cannot_go_back(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from llmx.score.harness_model import _Reader

    lengths = {"max_seq_length": 4, "max_context_length": 64}
    window = {"local_global_attention": [8], "use_sdpa_with_kv_cache": True}
    job = tiny_job("smollm2", tmp_path, {}, backend=None, qmode=None, **lengths, **window)
    program = export_anew(job).program
    info = read_program(program)
    assert not info.rewinds
    text = torch.randint(128, (48,), generator=torch.Generator().manual_seed(0)).tolist()
    other = [*text[:20], *reversed(text[20:30])]
    readers = [_Reader(FedProgram(program), rewinds=each) for each in (info.rewinds, True)]
    for reader in readers:
        reader.logits(text)
    again, gone_back = (reader.logits(other) for reader in readers)
    fresh = _Reader(FedProgram(program), rewinds=False).logits(other)
    torch.testing.assert_close(again, fresh)
    assert not torch.allclose(gone_back, fresh)


def test_an_unknown_task_is_refused(
    exact: Artifact, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    words = ["--task", "nonsense", "--task-folder", str(tasks), "--quiet"]
    assert invoke(["eval", str(exact.folder), *words]) == 2
    assert "no task nonsense" in capsys.readouterr().err
