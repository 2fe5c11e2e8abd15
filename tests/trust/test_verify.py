"""``llmx verify`` passes what is right, and finds what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmx.artifact import Artifact
from llmx.cli import invoke
from llmx.errors import CheckpointError
from llmx.lower.capture import capture, example_inputs
from llmx.lower.program import default_program_config, finish, lower
from llmx.pte.constants import overwrite_constants
from llmx.run.feeding import FedProgram
from llmx.verify.consistency import check_consistency
from llmx.verify.corpus import corpus
from llmx.verify.verifier import verify

from .conftest import CONTEXT, EOS, FAMILY, save_tiny

Copier = Callable[[Artifact], Artifact]


def failures(path: Path, reference: str | None = None) -> set[str]:
    return {each.name for each in verify(path, reference=reference) if each.passed is False}


@pytest.mark.parametrize("kind", ["exact", "quantized"])
def test_a_good_export_passes_every_check(
    kind: str,
    copied: Copier,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    artifact = copied(request.getfixturevalue(kind))
    capsys.readouterr()  # what the export said
    assert invoke(["verify", str(artifact.folder), "--json", "--quiet"]) == 0
    outcome: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert outcome["passed"]
    found = {each["name"]: each for each in outcome["checks"]}
    assert [name for name, each in found.items() if not each["passed"]] == []
    for name in (
        "are the files that were exported",
        "loads in ExecuTorch's runner",
        "token by token equals prefill",
        "prefill in chunks equals one prefill",
        "second turn equals a fresh prefill",
        "a new text is not disturbed by older ones",
        "the runner follows the program",
        *(f"stops at end token {token}" for token in EOS),
        "a prompt without room is refused",
        "ends where the context ends",
        "agrees with the checkpoint's own model",
        "agrees with the checkpoint's own model at the end of the context",
        "end tokens are the checkpoint's",
        "runtime tokenizer equals the checkpoint's",
    ):
        assert name in found
    bound = found["agrees with the checkpoint's own model"]["bound"]
    assert bound == (0.002 if kind == "exact" else 1.0)
    assert Artifact.open(artifact.folder).manifest["verification"] == outcome


def test_other_weights_are_found_out(
    exact: Artifact, copied: Copier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = copied(exact)
    other = save_tiny(tmp_path / "other", scale=1.1)
    assert invoke(["verify", str(artifact.folder), "--reference", str(other), "-q"]) == 1
    shown = capsys.readouterr().out
    assert "2 failed" in shown
    assert "FAILED" in shown
    record = Artifact.open(artifact.folder).manifest["verification"]
    assert record["passed"] is False
    assert {each["name"] for each in record["checks"] if each["passed"] is False} == {
        "agrees with the checkpoint's own model",
        "agrees with the checkpoint's own model at the end of the context",
    }


SLIDE = "agrees with the checkpoint's own model past the window"


def test_sinks_are_followed_as_they_slide(endless: Artifact) -> None:
    found = {each.name: each for each in verify(endless.folder)}
    assert all(each.passed for each in found.values())
    assert found[SLIDE].detail.endswith(f"up to token {CONTEXT}, with a window of 15")
    assert "past the window, calls of any length say the same" in found


def test_another_window_is_found_out(endless: Artifact, copied: Copier) -> None:
    """Until the first token leaves it, both windows say the same."""
    artifact = copied(endless)
    record = artifact.folder / "llmx.json"
    changed = record.read_text().replace('"3,12"', '"3,9"')
    assert changed != record.read_text()
    record.write_text(changed)
    assert SLIDE in failures(artifact.folder)


def test_a_long_context_is_checked_at_its_end(endless: Artifact, tmp_path: Path) -> None:
    """Filling it would take long; its last positions do not."""
    length = 1 << 20
    copy = Path(shutil.copytree(endless.folder, tmp_path / "copy"))
    record = json.loads((copy / "llmx.json").read_text())
    record["config"]["export"]["max_context_length"] = length
    (copy / "llmx.json").write_text(json.dumps(record))
    overwrite_constants(copy / "model.pte", "get_max_context_len", {0: length})
    found = {each.name: each for each in verify(copy)}
    full = found["ends where the context ends"]
    assert (full.passed, full.detail) == (None, f"filling {length} tokens takes too long")
    last = found["agrees with the checkpoint's own model at the end of the context"]
    assert last.passed
    assert last.detail == f"positions {length - 16} to {length - 1}, with nothing before them"


def test_changed_bytes_are_found_out(exact: Artifact, copied: Copier) -> None:
    artifact = copied(exact)
    content = bytearray(artifact.program.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 4000] = bytes(4000)
    artifact.program.write_bytes(content)
    found = failures(artifact.folder)
    assert {"are the files that were exported", "agrees with the checkpoint's own model"} <= found


def test_wrong_end_tokens_are_found_out(exact: Artifact, copied: Copier) -> None:
    artifact = copied(exact)
    overwrite_constants(artifact.program, "get_eos_ids", {0: 9})
    assert "end tokens are the checkpoint's" in failures(artifact.folder)


def test_another_tokenizer_is_found_out(exact: Artifact, copied: Copier) -> None:
    artifact = copied(exact)
    assert artifact.tokenizer is not None
    content = json.loads(artifact.tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    artifact.tokenizer.write_text(json.dumps(content))
    assert "runtime tokenizer equals the checkpoint's" in failures(artifact.folder)


def test_an_export_whose_tokenizer_the_runtime_applies_wrongly_is_marked(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runtime does not know that a token may stand for whole words only."""
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["added_tokens"][-1] |= {"content": "th", "single_word": True, "special": False}
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(content))
    folder = tmp_path / "out"
    words = ["--checkpoint", str(checkpoint), "--tokenizer", str(tokenizer), "-o", str(folder)]
    assert invoke(["export", FAMILY, *words, "--backend", "none", "-q"]) == 1
    assert "failed: runtime tokenizer equals the checkpoint's" in capsys.readouterr().out
    artifact = Artifact.open(folder)
    assert artifact.failed
    verification = artifact.manifest["verification"]
    (wrong,) = [each for each in verification["checks"] if not each["passed"]]
    assert wrong["name"] == "runtime tokenizer equals the checkpoint's"
    assert wrong["figure"] > 0
    assert "failed its verification" in (folder / "MODEL_CARD.md").read_text()


def test_without_the_checkpoint_the_rest_is_checked(exact: Artifact, copied: Copier) -> None:
    artifact = copied(exact)
    text = (artifact.folder / "llmx.json").read_text()
    assert artifact.manifest["source"]["checkpoint"] in text
    moved = text.replace(artifact.manifest["source"]["checkpoint"], "/nowhere")
    (artifact.folder / "llmx.json").write_text(moved)
    found = verify(artifact.folder)
    skipped = {each.name: each.detail for each in found if each.passed is None}
    assert set(skipped) == {"agrees with the checkpoint's own model"}
    assert "--reference" in skipped["agrees with the checkpoint's own model"]
    with pytest.raises(CheckpointError):
        verify(artifact.folder, reference="/nowhere")


def test_a_program_alone_is_held_against_a_named_checkpoint(
    exact: Artifact, checkpoint: Path
) -> None:
    found = verify(exact.program, reference=str(checkpoint), family=FAMILY)
    assert [each.name for each in found if each.passed is False] == []
    assert "agrees with the checkpoint's own model" in {each.name for each in found}


class Forgetless(nn.Module):
    """What it says depends on how often it was called since it was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))
        self.table = nn.Embedding(300, 300)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.table((tokens[:, -1] + self.calls + input_pos) % 300)


def test_a_program_that_remembers_too_much_is_found_out(tmp_path: Path) -> None:
    inputs = example_inputs(kv_cache=True, dynamic=True, max_seq_length=32)
    edge = lower(capture(Forgetless().eval(), *inputs), [], [], {})
    path = tmp_path / "model.pte"
    path.write_bytes(finish(edge, default_program_config()).buffer)
    found = list(check_consistency(FedProgram(path), list(range(30)), bound=0.5))
    assert all(each.passed is False for each in found)
    assert len(found) == 4


def test_the_corpus_covers_scripts_spaces_and_code() -> None:
    text = "\n".join(corpus())
    for piece in ("ß", "京", "ب", "갈", "🦙", "\t", "\n\n", "\r\n", "def ", "0123"):
        assert piece in text
    assert len(corpus()) >= 40
