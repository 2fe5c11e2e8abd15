"""What is opened is judged by content, and what cannot be opened says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmx.checkpoint import open_checkpoint
from llmx.errors import CheckpointError


def save_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "any")
    for key, value in {
        "embedding_length": 4,
        "block_count": 1,
        "feed_forward_length": 8,
        "attention.head_count": 1,
    }.items():
        writer.add_uint32(f"any.{key}", value)
    writer.add_tensor("token_embd.weight", np.ones((6, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


SAVE = {
    "safetensors": lambda path: save_file({"w": torch.ones(1)}, path),
    "torch": lambda path: torch.save({"w": torch.ones(1)}, path),
    "gguf": save_gguf,
}


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("name", ["weights", "model.gguf", "model.pth", "model.bin"])
def test_the_format_is_told_by_content_not_by_name(tmp_path: Path, kind: str, name: str) -> None:
    SAVE[kind](tmp_path / name)
    by_file = open_checkpoint(str(tmp_path / name))
    by_folder = open_checkpoint(str(tmp_path))
    assert by_file.tensors == by_folder.tensors
    assert (by_file.layout == "gguf") == (kind == "gguf")


def test_safetensors_and_gguf_may_even_have_each_others_names(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.safetensors")
    assert open_checkpoint(str(tmp_path / "model.safetensors")).layout == "gguf"


def test_a_pth_called_safetensors_must_be_renamed(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        torch.save({"w": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="under the name of a safetensors file"):
        open_checkpoint(str(tmp_path))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, llmx.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "source", ["nowhere", "/no/such/folder", "./no/where", "models/gone.gguf", "a/b/c"]
)
def test_a_path_that_does_not_exist_is_named(source: str) -> None:
    with pytest.raises(CheckpointError, match=f"no such file or folder: {source}"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is a text and no checkpoint", "is not a checkpoint"),
        (b"\xff" * 100, "is not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_file_that_is_no_checkpoint_says_what_it_is(
    tmp_path: Path, content: bytes, message: str, as_folder: bool
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path if as_folder else path))


def test_a_folder_without_weights_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; looked for safetensors.*GGUF"):
        open_checkpoint(str(tmp_path))


def test_several_gguf_files_must_be_chosen_from(tmp_path: Path) -> None:
    save_gguf(tmp_path / "a.gguf")
    save_gguf(tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"several checkpoints: a\.gguf, b\.gguf"):
        open_checkpoint(str(tmp_path))


def test_a_local_path_has_no_revision(tmp_path: Path) -> None:
    save_gguf(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match="no revision v1"):
        open_checkpoint(str(tmp_path), revision="v1")


def test_params_for_gguf_are_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match="describes itself"):
        open_checkpoint(str(tmp_path), params=tmp_path / "params.json")


def test_every_refusal_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(tmp_path))
    assert "\n" not in caught.value.message
    assert caught.value.remedy
