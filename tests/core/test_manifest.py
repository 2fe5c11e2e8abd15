"""What an artifact records for the people who run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmx.checkpoint import open_checkpoint
from llmx.report.manifest import describe_sampling, describe_special_tokens


def checkpoint(folder: Path, **files: Any) -> Any:
    save_file({"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return open_checkpoint(str(folder))


def test_sampling_is_what_the_authors_say(tmp_path: Path) -> None:
    made = checkpoint(
        tmp_path,
        generation_config={
            "do_sample": True,
            "temperature": 0.6,
            "top_k": 20,
            "eos_token_id": 2,
        },
    )
    assert describe_sampling(made) == {"do_sample": True, "temperature": 0.6, "top_k": 20}


def test_special_tokens_may_be_text_or_objects(tmp_path: Path) -> None:
    made = checkpoint(
        tmp_path, tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    )
    assert describe_special_tokens(made) == {"bos_token": "<s>", "eos_token": "</s>"}


def test_what_nobody_says_is_null(tmp_path: Path) -> None:
    for made in (checkpoint(tmp_path), None):
        assert describe_sampling(made) is None
        assert describe_special_tokens(made) is None
