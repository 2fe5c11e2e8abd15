"""Checkpoints in safetensors: one file, shards with an index, and everything wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmx.checkpoint import open_checkpoint, source_hashes
from llmx.errors import CheckpointError

NAMES = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def tensor(name: str) -> torch.Tensor:
    return torch.arange(6, dtype=torch.float32).reshape(2, 3) + NAMES.index(name)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    files = {name: f"model-{i}-of-3.safetensors" for i, name in enumerate(NAMES, start=1)}
    for name, file in files.items():
        save_file({name: tensor(name)}, tmp_path / file)
    index = {"metadata": {}, "weight_map": files}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "x", "hidden_size": 3}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    return tmp_path


def test_a_sharded_folder_reads_as_one_checkpoint(sharded: Path) -> None:
    checkpoint = open_checkpoint(str(sharded))
    assert checkpoint.layout == "hf"
    assert set(checkpoint.tensors) == set(NAMES)
    assert checkpoint.tensors[NAMES[0]].shape == (2, 3)
    assert checkpoint.tensors[NAMES[0]].dtype == "f32"
    assert checkpoint.config["hidden_size"] == 3
    assert checkpoint.generation_config == {"eos_token_id": 7}
    assert checkpoint.tokenizer_config == {}
    assert [path.name for path in checkpoint.files] == sorted(
        f"model-{i}-of-3.safetensors" for i in (1, 2, 3)
    )
    for name in NAMES:
        torch.testing.assert_close(checkpoint.read(name), tensor(name))


def test_a_single_file_finds_the_config_beside_it(tmp_path: Path) -> None:
    save_file({NAMES[0]: tensor(NAMES[0]).bfloat16()}, tmp_path / "weights")
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    checkpoint = open_checkpoint(str(tmp_path / "weights"))
    assert checkpoint.config == {"hidden_size": 3}
    assert checkpoint.tensors[NAMES[0]].dtype == "bf16"
    assert checkpoint.read(NAMES[0]).dtype == torch.bfloat16


def test_several_files_without_an_index_are_joined(tmp_path: Path) -> None:
    save_file({NAMES[0]: tensor(NAMES[0])}, tmp_path / "a.safetensors")
    save_file({NAMES[1]: tensor(NAMES[1])}, tmp_path / "b.safetensors")
    assert set(open_checkpoint(str(tmp_path)).tensors) == set(NAMES[:2])


def test_model_safetensors_is_preferred_to_other_files_beside_it(tmp_path: Path) -> None:
    save_file({NAMES[0]: tensor(NAMES[0])}, tmp_path / "model.safetensors")
    save_file({"other": tensor(NAMES[1])}, tmp_path / "consolidated.safetensors")
    assert set(open_checkpoint(str(tmp_path)).tensors) == {NAMES[0]}


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for file in ("a.safetensors", "b.safetensors"):
        save_file({NAMES[0]: tensor(NAMES[0])}, tmp_path / file)
    with pytest.raises(CheckpointError, match=r"embed_tokens.*both a\.safetensors and b\."):
        open_checkpoint(str(tmp_path))


def test_a_truncated_file_is_found_before_anything_is_read(sharded: Path) -> None:
    shard = sharded / "model-2-of-3.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model-2-of-3\.safetensors is not a complete"):
        open_checkpoint(str(sharded))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-3-of-3.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 3 shards: model-3-of-3\.safetensors"):
        open_checkpoint(str(sharded))


def test_an_index_that_does_not_belong_to_its_shards_is_refused(sharded: Path) -> None:
    save_file({"something.else": torch.ones(1)}, sharded / "model-1-of-3.safetensors")
    with pytest.raises(CheckpointError, match=r"model-1-of-3.* holds model\.embed_tokens\.weight"):
        open_checkpoint(str(sharded))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../b", "..\\b"])
def test_an_index_cannot_lead_out_of_the_folder(sharded: Path, name: str) -> None:
    save_file({NAMES[0]: tensor(NAMES[0])}, sharded.parent / "outside.safetensors")
    index = {"weight_map": {NAMES[0]: name}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside the folder"):
        open_checkpoint(str(sharded))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}'])
def test_a_broken_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        open_checkpoint(str(sharded))


def test_a_config_that_is_not_json_is_named(sharded: Path) -> None:
    (sharded / "config.json").write_text("hidden_size: 3")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        open_checkpoint(str(sharded))


def test_a_type_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="tensor w is stored as f8_e4m3"):
        checkpoint.read("w")


def test_reading_an_absent_tensor_is_refused_by_name(sharded: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tensor nothing"):
        open_checkpoint(str(sharded)).read("nothing")


def test_source_hashes_change_with_the_content(sharded: Path) -> None:
    before = source_hashes(open_checkpoint(str(sharded)))
    save_file({NAMES[0]: tensor(NAMES[0]) + 1}, sharded / "model-1-of-3.safetensors")
    after = source_hashes(open_checkpoint(str(sharded)))
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"model-1-of-3.safetensors"}
    assert all(len(value) == 64 for value in before.values())
