"""Packages that `llmx new-family` and `llmx new-backend` write are whole and work at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.packages import its_tests

from llmx.cli import invoke
from llmx.plugins import FAMILIES
from llmx.scaffold.description import describe
from llmx.scaffold.family import family_package
from llmx.scaffold.package import package_name

WIDE = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "head_dim": 128,
    "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072,
    "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "tie_word_embeddings": True, "eos_token_id": 151645,
    "bos_token_id": 151643, "use_sliding_window": False, "attention_bias": False,
}  # fmt: skip


def test_a_family_from_a_configuration_passes_the_kit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WIDE), encoding="utf-8")
    folder = tmp_path / "package"
    words = ["new-family", "tulip-4", "--from", str(tmp_path / "config.json")]
    assert invoke([*words, "-o", str(folder), "--debug"]) == 0
    module = (folder / "src/llmx_plugin_tulip_4/__init__.py").read_text(encoding="utf-8")
    # That q and k are normalised is in no field: the names of the tensors tell.
    for line in ("qk_norm=True", "dim=1024", "tied_embeddings=True", "TokenIds(bos=151643"):
        assert line in module
    notes = (folder / "README.md").read_text(encoding="utf-8")
    assert "hub id of the weights" in notes
    # All, programs included: a package without a backend of its choice is for portable kernels.
    shown = its_tests(folder)
    # Skipped are the long texts of a scaled rope, which this model does not have.
    assert re.search(r"^\d+ passed, 1 skipped in", shown, re.MULTILINE), shown
    assert re.search(r"^tulip_4 .* \d\.\de-\d\d$", shown, re.MULTILINE), shown


@pytest.mark.parametrize(("kind", "name"), [("family", "blank"), ("backend", "abacus")])
def test_what_is_made_from_nothing_passes_its_tests(kind: str, name: str, tmp_path: Path) -> None:
    # They load the plugin by its name, as llmx does.
    folder = tmp_path / name
    assert invoke([f"new-{kind}", name, "-o", str(folder), "--debug"]) == 0
    shown = its_tests(folder)
    assert re.search(r"^[1-9]\d* passed", shown, re.MULTILINE), shown


def test_names_of_fused_tensors_are_mapped_and_strange_ones_reported(tmp_path: Path) -> None:
    config = {**WIDE, "num_hidden_layers": 1, "model_type": "tulip"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {
        "model.embed_tokens.weight": torch.ones(4, 2),
        "model.layers.0.self_attn.qkv_proj.weight": torch.ones(4, 2),
        "model.layers.0.self_attn.q_norm.weight": torch.ones(4),
        "model.layers.0.mlp.sprout.weight": torch.ones(4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = describe(str(tmp_path), None)
    assert found.params.qk_norm
    assert found.extra == {
        "model.layers.{i}.self_attn.qkv_proj.weight": tuple(
            f"layers.{{i}}.attention.{each}_proj.weight" for each in "qkv"
        )
    }
    assert found.unmapped == ["model.layers.{i}.mlp.sprout.weight"]


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> Any:
    """Writes the package ``package`` from fields of a configuration; what llmx says about it."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()

    def write(**fields: Any) -> str:
        narrow = {**WIDE, "num_hidden_layers": 2, "vocab_size": 320, **fields}
        Path("models/config.json").write_text(json.dumps(narrow), encoding="utf-8")
        words = ["new-family", "tulip", "--from", "models/config.json", "-o", "package"]
        assert invoke([*words, "--debug"]) == 0
        return capsys.readouterr().out

    return write


def test_fields_that_nobody_reads_are_named(shown: Any, tmp_path: Path) -> None:
    said = shown(model_type="tulip", petal_scale=3.5, folded=False, attention_dropout=0.1)
    assert "what the decoder would have to make of petal_scale=3.5\n" in said
    assert "transformers does not build 'tulip' here" in said
    # A path with a slash is no hub id.
    assert "the hub id of the weights: ORGANISATION/MODEL stands for it" in said
    listed = (tmp_path / "package/README.md").read_text(encoding="utf-8")
    for note in re.findall("still to do: (.*)", said):
        assert f"- [ ] {note}\n" in listed
    # No reference, so the package's test is of a program.
    assert "1 passed" in its_tests(tmp_path / "package")


def test_a_model_whose_tensors_are_not_the_decoders_is_told_so(shown: Any) -> None:
    said = shown(model_type="olmo2")
    assert "its model, for build_model to make" in said
    assert "no tensor for: layers.0.attention_norm.weight" in said
    assert "self_attn.q_norm.weight is [2048], layers.0.attention.q_norm.weight is [128]" in said
    assert "not mapped: model.layers.{i}.post_feedforward_layernorm.weight\n" in said


def test_biases_that_only_the_tensors_tell_are_given(tmp_path: Path) -> None:
    config = {**WIDE, "num_hidden_layers": 1, "model_type": "tulip"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    biases = [f"self_attn.{each}_proj" for each in "qkvo"] + ["mlp.gate_proj"]
    names = [f"model.layers.0.{each}.bias" for each in biases]
    save_file({each: torch.ones(4) for each in names}, tmp_path / "model.safetensors")
    found = describe(str(tmp_path), None)
    assert found.hidden == {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
    package = family_package(package_name("tulip", "llmx-plugin", FAMILIES), found)
    module = package["src/llmx_plugin_tulip/__init__.py"]
    stated = "decoder_params(config), qkv_bias=True, output_bias=True, mlp_bias=True)"
    assert f"return attrs.evolve({stated}" in module


def test_another_architecture_is_pointed_to_build_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**WIDE, "layer_types": ["conv"] * 28}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = ["new-family", "tulip", "--from", str(tmp_path / "config.json")]
    assert invoke([*words, "-o", str(tmp_path / "package")]) == 2
    assert not (tmp_path / "package").exists()
    shown = capsys.readouterr().err
    assert "layer_types has conv" in shown
    assert "make the package without --from and write its build_model" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new-family", "Tulip 4"], "cannot be the name of a plugin"),
        (["new-family", "qwen-3"], "is installed already"),
        (["new-backend", "xnnpack"], "is installed already"),
        (["new-family", "tulip", "--output", "."], "exists already"),
    ],
)
def test_what_cannot_be_written_is_refused(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
