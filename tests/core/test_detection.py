"""A checkpoint tells its family; one of another architecture is sent to the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmx.config import load_job
from llmx.detect import detect_family
from llmx.errors import CheckpointError
from llmx.lower.source import open_source
from llmx.plugins import FAMILIES, installed, load
from llmx.progress import Silent

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
SCALED_LESS = {"rope_scaling": {**LLAMA["rope_scaling"], "factor": 8.0}}
QWEN3 = {**LLAMA, "model_type": "qwen3", "rope_scaling": None, "rope_theta": 1e6}
CASES = {
    "llama3_2": LLAMA,
    "llama3_1": {**LLAMA, **SCALED_LESS},
    "llama3": {**LLAMA, "rope_scaling": None, "max_position_embeddings": 8192},
    "llama2": {
        **LLAMA, "rope_scaling": None, "max_position_embeddings": 4096, "rope_theta": 1e4,
        "vocab_size": 32001,
    },
    "smollm2": {
        **LLAMA, "rope_scaling": None, "max_position_embeddings": 8192, "rope_theta": 1e5,
        "vocab_size": 49152,
    },
    "qwen2_5": {**LLAMA, "model_type": "qwen2", "rope_scaling": None},
    "qwen3": QWEN3,
}  # fmt: skip


def folder(path: Path, config: dict[str, Any]) -> str:
    """A checkpoint that is right but for its weights."""
    save_file({"model.norm.weight": torch.ones(4)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(("family", "config"), CASES.items(), ids=CASES)
def test_a_configuration_tells_the_family(
    tmp_path: Path, family: str, config: dict[str, Any]
) -> None:
    assert detect_family(folder(tmp_path, config), None, None) == family


@pytest.mark.parametrize("family", [each.name for each in installed(FAMILIES)])
def test_published_configurations_tell_their_own_family(family: str) -> None:
    from llmx.detect import find_candidates
    from llmx.testing.reference import hf_fields

    hooks = load(family, None).family
    kinds = {"llama": "llama", "smollm": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi": "phi3"}
    kind = next((value for key, value in kinds.items() if family.startswith(key)), "llama")
    # A family without sizes of its own reads what no other one does.
    for size in hooks.sizes().values():
        names = find_candidates({"model_type": kind, **hf_fields(size.params)}).names
        # The old name of one size is no family of its own.
        assert names == ("llama2" if family == "stories110m" else family,)


def test_metas_files_do_not_name_their_family_but_show_it(tmp_path: Path) -> None:
    tensors = {"tok_embeddings.weight": torch.ones(128256, 1), "output.weight": torch.ones(1, 1)}
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    shape = {"n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "norm_eps": 1e-5}
    rope = {"rope_theta": 500000.0, "use_scaled_rope": True}
    small = {"dim": 2048, "n_layers": 16, "ffn_dim_multiplier": 1.5, "multiple_of": 256}
    large = {"dim": 4096, "n_layers": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}
    for family, size in (("llama3_2", small), ("llama3_1", large)):
        (tmp_path / "params.json").write_text(json.dumps({**shape, **rope, **size}))
        assert detect_family(str(tmp_path), None, None) == family


def test_a_job_without_a_family_takes_the_checkpoints(tmp_path: Path) -> None:
    settings = {"base.checkpoint": folder(tmp_path, QWEN3)}
    job = load_job(settings=settings).job
    assert job.base.model_class == "qwen3"
    assert job.backend.name == "xnnpack"


def test_an_unknown_architecture_names_it_and_the_likely_package(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        detect_family(folder(tmp_path, {**LLAMA, "model_type": "tulip4_text"}), None, None)
    assert "is a tulip4_text checkpoint (model_type 'tulip4_text')" in caught.value.message
    assert "pip install llmx-plugin-tulip" in (caught.value.remedy or "")


def test_several_equal_fits_are_listed(tmp_path: Path) -> None:
    odd = {**LLAMA, "rope_theta": 7e4, "rope_scaling": None}
    with pytest.raises(CheckpointError, match=r"several families: llama2, llama3, .*smollm2"):
        detect_family(folder(tmp_path, odd), None, None)


def test_a_checkpoint_without_a_configuration_asks_for_the_family(tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no config\.json or params\.json") as caught:
        detect_family(str(tmp_path), None, None)
    assert "llmx export FAMILY" in (caught.value.remedy or "")


def test_a_named_family_refuses_another_architecture(tmp_path: Path) -> None:
    settings = {"base.checkpoint": folder(tmp_path, QWEN3)}
    base = load_job(family="llama3_2", settings=settings).job.base
    with pytest.raises(CheckpointError) as caught:
        open_source(base, load("llama3_2", None).family, Silent())
    assert caught.value.message == (
        f"{tmp_path} is a qwen3 checkpoint (model_type 'qwen3'), not llama3_2"
    )
    assert caught.value.remedy == "use `llmx export qwen3`"


def test_a_fine_tune_of_the_same_architecture_is_taken(tmp_path: Path) -> None:
    settings = {"base.checkpoint": folder(tmp_path, {**LLAMA, **SCALED_LESS})}
    base = load_job(family="llama3_2", settings=settings).job.base
    source = open_source(base, load("llama3_2", None).family, Silent())
    assert source.params.rope_scaling.factor == 8.0


def test_a_broken_plugin_does_not_hide_the_others(tmp_path: Path, live_site: Any) -> None:
    live_site.install("llmx-plugin-broken", "raise RuntimeError('no')", families=("broken",))
    assert detect_family(folder(tmp_path, QWEN3), None, None) == "qwen3"
    with pytest.raises(CheckpointError, match="no installed family") as caught:
        detect_family(folder(tmp_path, {"model_type": "tulip"}), None, None)
    assert "not asked: family broken" in (caught.value.remedy or "")


def test_a_configuration_file_is_read_without_torch(tmp_path: Path, site: Any) -> None:
    source = folder(tmp_path, QWEN3)
    probe = (
        "import sys; from llmx.detect import detect_family;"
        "print(detect_family(sys.argv[1], None, None), 'torch' in sys.modules)"
    )
    assert site.python("-c", probe, source).stdout == "qwen3 False\n"
