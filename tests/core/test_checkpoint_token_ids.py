"""Every token at which generation must stop is found, in whichever file it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmx.checkpoint import TokenIds, open_checkpoint, read_token_ids
from llmx.errors import CheckpointError

PUBLISHED = TokenIds(bos=1000, eos=(1001, 1002))


def ids_of(folder: Path, **files: Any) -> TokenIds:
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_token_ids(open_checkpoint(str(folder)), PUBLISHED)


def test_published_ids_are_used_when_no_file_says_anything(tmp_path: Path) -> None:
    assert ids_of(tmp_path) == PUBLISHED


@pytest.mark.parametrize(("value", "eos"), [(5, (5,)), ([5, 6], (5, 6))])
def test_generation_config_may_name_one_or_several(
    tmp_path: Path, value: Any, eos: tuple[int, ...]
) -> None:
    found = ids_of(tmp_path, generation_config={"bos_token_id": 3, "eos_token_id": value})
    assert found == TokenIds(bos=3, eos=eos)


def test_files_that_name_different_ends_are_united(tmp_path: Path) -> None:
    found = ids_of(
        tmp_path,
        generation_config={"eos_token_id": [5, 6]},
        config={"eos_token_id": 7, "bos_token_id": 2},
        tokenizer_config={"eos_token": "<end>", "eot_token": {"content": "<turn>"}},
        tokenizer={
            "added_tokens": [
                {"id": 6, "content": "<end>"},
                {"id": 9, "content": "<turn>"},
                {"id": 10, "content": "<unrelated>"},
            ]
        },
    )
    assert found == TokenIds(bos=2, eos=(5, 6, 7, 9))


def test_a_spelled_out_token_is_resolved_by_the_tokenizer(tmp_path: Path) -> None:
    found = ids_of(
        tmp_path,
        special_tokens_map={"bos_token": {"content": "<s>"}, "eos_token": "</s>"},
        tokenizer={"added_tokens": [{"id": 0, "content": "<s>"}, {"id": 4, "content": "</s>"}]},
    )
    assert found == TokenIds(bos=0, eos=(4,))


def test_only_what_is_absent_is_filled_in(tmp_path: Path) -> None:
    assert ids_of(tmp_path, config={"eos_token_id": 7}) == TokenIds(bos=1000, eos=(7,))
    assert ids_of(tmp_path, config={"eos_token_id": None}) == PUBLISHED


def test_a_bos_of_zero_is_an_id(tmp_path: Path) -> None:
    assert ids_of(tmp_path, config={"bos_token_id": 0}).bos == 0


@pytest.mark.parametrize("value", ["</s>", [1, "x"], -1, True, 1.5])
def test_what_is_not_an_id_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id is"):
        ids_of(tmp_path, generation_config={"eos_token_id": value})
