"""Checkpoints written by torch.save: Meta's .pth with params.json, and Hugging Face's .bin."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from llmx.checkpoint import open_checkpoint
from llmx.errors import CheckpointError

SMALL_PARAMS = {"dim": 8, "n_layers": 1, "n_heads": 2, "norm_eps": 1e-5, "vocab_size": -1}


def meta_tensors(vocab: int = 12, dim: int = 8, hidden: int = 16) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (vocab, dim),
        "norm.weight": (dim,),
        "output.weight": (vocab, dim),
        "layers.0.attention_norm.weight": (dim,),
        "layers.0.attention.wq.weight": (dim, dim),
        "layers.0.attention.wk.weight": (dim // 2, dim),
        "layers.0.attention.wv.weight": (dim // 2, dim),
        "layers.0.attention.wo.weight": (dim, dim),
        "layers.0.feed_forward.w1.weight": (hidden, dim),
        "layers.0.feed_forward.w2.weight": (dim, hidden),
        "layers.0.feed_forward.w3.weight": (hidden, dim),
        "layers.0.attention.wq.bias": (dim,),
        "layers.0.attention.wo.bias": (dim,),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def save_params(folder: Path, **changes: Any) -> None:
    (folder / "params.json").write_text(json.dumps({**SMALL_PARAMS, **changes}))


def test_a_meta_folder_is_read_with_its_params(tmp_path: Path) -> None:
    tensors = meta_tensors()
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    save_params(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.layout == "meta"
    assert checkpoint.interleaved_qk is True
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(checkpoint.read(name), tensor)


def test_params_are_told_under_hugging_face_names(tmp_path: Path) -> None:
    torch.save(meta_tensors(), tmp_path / "model.pth")
    save_params(tmp_path, multiple_of=4, rope_theta=500000.0, use_scaled_rope=True, n_kv_heads=1)
    config = open_checkpoint(str(tmp_path / "model.pth")).config
    assert config == {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": 12,
        "intermediate_size": 24,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }


@pytest.mark.parametrize(
    ("params", "hidden"),
    [
        # Published models, whose config.json on the hub states intermediate_size.
        ({"dim": 4096, "multiple_of": 256}, 11008),
        ({"dim": 5120, "multiple_of": 256}, 13824),
        ({"dim": 4096, "multiple_of": 1024, "ffn_dim_multiplier": 1.3}, 14336),
        ({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}, 28672),
        ({"dim": 2048, "multiple_of": 256, "ffn_dim_multiplier": 1.5}, 8192),
        ({"dim": 576, "hidden_dim": 1536, "ffn_dim_multiplier": 1}, 1536),
    ],
)
def test_the_feed_forward_width_is_computed_as_the_model_does(
    tmp_path: Path, params: dict[str, Any], hidden: int
) -> None:
    torch.save(meta_tensors(), tmp_path / "model.pth")
    save_params(tmp_path, **params)
    assert open_checkpoint(str(tmp_path)).config["intermediate_size"] == hidden


def test_the_older_tools_params_say_when_rope_is_half_split(tmp_path: Path) -> None:
    tensors = {k: v for k, v in meta_tensors().items() if k != "output.weight"}
    torch.save(tensors, tmp_path / "model.pth")
    older = tmp_path / "elsewhere.json"
    older.write_text(json.dumps({**SMALL_PARAMS, "use_hf_rope": True, "rope_scale_factor": 32}))
    checkpoint = open_checkpoint(str(tmp_path / "model.pth"), params=older)
    assert checkpoint.interleaved_qk is False
    assert checkpoint.config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, "no whole number for dim"),
        ({"moe": True}, "says moe=True"),
        ({"act_fn": "gelu"}, "says act_fn=gelu"),
        ({"use_qk_norm": True}, "qk-norm after rope"),
    ],
)
def test_params_that_the_decoder_cannot_honour_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    torch.save(meta_tensors(), tmp_path / "model.pth")
    save_params(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path))


def cut(name: str, tensor: torch.Tensor, n: int, embedding_dim: int) -> list[torch.Tensor]:
    """What a model-parallel training leaves on each of ``n`` devices."""
    layer = name.split(".")[-2]
    if layer == "tok_embeddings":
        return list(tensor.chunk(n, dim=embedding_dim))
    if layer in ("wq", "wk", "wv", "w1", "w3", "output"):
        return list(tensor.chunk(n, dim=0))
    if layer in ("wo", "w2") and name.endswith("weight"):
        return list(tensor.chunk(n, dim=1))
    return [tensor] * n


@pytest.mark.parametrize("embedding_dim", [0, 1])
@pytest.mark.parametrize("vocab", [12, 64])
@pytest.mark.parametrize("n_shards", [2, 4])
def test_model_parallel_shards_are_joined(
    tmp_path: Path, n_shards: int, vocab: int, embedding_dim: int
) -> None:
    tensors = meta_tensors(vocab=vocab)
    pieces = {name: cut(name, t, n_shards, embedding_dim) for name, t in tensors.items()}
    for rank in range(n_shards):
        shard = {name: parts[rank].clone() for name, parts in pieces.items()}
        torch.save(shard, tmp_path / f"consolidated.{rank:02}.pth")
    save_params(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert len(checkpoint.files) == n_shards
    assert checkpoint.config["vocab_size"] == vocab
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        torch.testing.assert_close(checkpoint.read(name), tensor, rtol=0, atol=0)


def test_shards_of_different_models_are_refused(tmp_path: Path) -> None:
    torch.save(meta_tensors(), tmp_path / "consolidated.00.pth")
    torch.save(meta_tensors(hidden=24), tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"feed_forward\.w1\.weight is in 2 of 2 files"):
        open_checkpoint(str(tmp_path))


def test_hugging_face_names_make_it_a_hugging_face_checkpoint(tmp_path: Path) -> None:
    torch.save({"model.embed_tokens.weight": torch.ones(3, 2)}, tmp_path / "pytorch_model.bin")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    (tmp_path / "config.json").write_text('{"hidden_size": 2}')
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.layout, checkpoint.interleaved_qk) == ("hf", False)
    assert checkpoint.config == {"hidden_size": 2}
    assert [path.name for path in checkpoint.files] == ["pytorch_model.bin"]


def test_a_sharded_bin_is_read_by_its_index(tmp_path: Path) -> None:
    files = {"a": "pytorch_model-1-of-2.bin", "b": "pytorch_model-2-of-2.bin"}
    for name, file in files.items():
        torch.save({name: torch.ones(2)}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert set(open_checkpoint(str(tmp_path)).tensors) == {"a", "b"}
    index.write_text(json.dumps({"weight_map": {**files, "c": files["a"]}}))
    with pytest.raises(CheckpointError, match=r"pytorch_model-1-of-2\.bin holds c"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_tensors_may_be_nested_under_the_usual_key(tmp_path: Path, key: str) -> None:
    torch.save({key: meta_tensors(), "iteration": 7}, tmp_path / "model.pth")
    assert open_checkpoint(str(tmp_path)).layout == "meta"


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("pwned",))


def test_a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="wants to run code"):
        open_checkpoint(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "pwned").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(meta_tensors(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"not a complete file of torch\.save"):
        open_checkpoint(str(path))


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("photo.jpg", b"...")
    with pytest.raises(CheckpointError, match=r"zip archive, but not one that torch\.save wrote"):
        open_checkpoint(str(tmp_path / "model.pth"))


def test_the_old_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(meta_tensors(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="save it as safetensors"):
        open_checkpoint(str(tmp_path / "old.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list, not named tensors"),
        ({}, "holds no tensors"),
        ({"weight": torch.ones(1), "epoch": 3}, "entry 'epoch' is a int, not a tensor"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path / "model.pth"))


def test_integer_tensors_are_refused_on_reading(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, dtype=torch.int32)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="tensor weight is stored as int32"):
        open_checkpoint(str(tmp_path)).read("weight")
