"""Instruct and base models: where their texts end and how a conversation is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.plugins.published_files import CHATTING, VARIANTS, Variant
from tokenizers import pre_tokenizers

from llmx.checkpoint import TokenIds
from llmx.cli import invoke
from llmx.plugins import load
from llmx.progress import Silent
from llmx.run.template import ChatTemplate
from llmx.run.tokenizer import load_tokenizer
from llmx.testing.program import export_tiny
from llmx.testing.reference import hf_fields, random_model, save_checkpoint, shrink

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Variant], Path]:
    """Lay a variant out as its repository is."""

    def lay_out(variant: Variant) -> Path:
        params = load(variant.family, None).family.default_params(size=None)
        config = {**hf_fields(params), **variant.config}
        for name, content in (
            ("generation_config.json", variant.generation),
            ("config.json", config),
            ("tokenizer_config.json", variant.tokenizer),
            ("tokenizer.json", tokenizer_json(variant)),
        ):
            (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        save_file({"model.norm.weight": torch.ones(1)}, tmp_path / "model.safetensors")
        return tmp_path

    return lay_out


def tokenizer_json(variant: Variant) -> dict[str, Any]:
    """A tokenizer of the 256 bytes that has the added tokens at their own ids."""
    taken = set(variant.special.values())
    free = (index for index in range(1000) if index not in taken)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**dict(zip(alphabet, free, strict=False)), **variant.special}
    flags = {"single_word": False, "lstrip": False, "normalized": False, "special": True}
    added = [
        {"id": index, "content": text, "rstrip": variant.swallows, **flags}
        for text, index in variant.special.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def opened(variant: Variant, folder: Path) -> Any:
    family = load(variant.family, None).family
    return family.load_checkpoint(source=str(folder), revision=None, params=None, progress=Silent())


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_all_ends_are_found_and_no_others(
    variant: Variant, write: Callable[[Variant], Path]
) -> None:
    family = load(variant.family, None).family
    found = family.token_ids(checkpoint=opened(variant, write(variant)))
    assert found.bos == variant.bos
    assert set(found.eos) == {variant.special[text] for text in variant.ends}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_published_ids_are_those_of_the_default_size(variant: Variant) -> None:
    if variant.prompt is None:
        pytest.skip("the default sizes are instruct models")
    published: TokenIds = load(variant.family, None).family.token_ids(checkpoint=None)
    assert published.bos == variant.bos
    assert {variant.special[text] for text in variant.ends} <= set(published.eos)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_template_is_the_checkpoints_and_base_models_have_none(
    variant: Variant, write: Callable[[Variant], Path]
) -> None:
    family = load(variant.family, None).family
    template = family.chat_template(checkpoint=opened(variant, write(variant)))
    assert template == variant.tokenizer.get("chat_template")
    assert (template is None) == (variant.prompt is None)


@pytest.mark.parametrize("variant", CHATTING.values(), ids=CHATTING.keys())
def test_a_conversation_becomes_what_transformers_makes_of_it(
    variant: Variant, write: Callable[[Variant], Path]
) -> None:
    from transformers import AutoTokenizer

    folder = write(variant)
    theirs = AutoTokenizer.from_pretrained(folder, tokenizer_file=str(folder / "tokenizer.json"))
    options = {"add_generation_prompt": True}
    names = {key: variant.tokenizer[key] for key in ("bos_token", "eos_token")}
    special = {key: text for key, text in names.items() if text is not None}
    prompt = ChatTemplate(variant.tokenizer["chat_template"], special).render(MESSAGES)
    assert prompt == variant.prompt
    assert prompt == theirs.apply_chat_template(MESSAGES, tokenize=False, **options)
    ours = load_tokenizer(folder / "tokenizer.json").encode(prompt)
    assert ours == list(theirs.apply_chat_template(MESSAGES, return_dict=False, **options))


def test_a_base_model_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = shrink(load("smollm2", None).family.default_params(size="135m-base"), n_layers=1)
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(random_model("llama", hf_fields(tiny)), checkpoint, eos=[0], bos=0)
    (checkpoint / "tokenizer_config.json").write_text("{}")
    artifact = export_tiny("smollm2", checkpoint, tmp_path / "artifact")
    assert artifact.chat_template is None
    capsys.readouterr()
    assert invoke(["chat", str(artifact.folder)]) == 2
    complaint = capsys.readouterr().err
    assert "has no chat template" in complaint
    assert f"llmx run {artifact.folder}" in complaint
    completion = ["-p", "Once", "--max-new-tokens", "3", "--json"]
    assert invoke(["run", str(artifact.folder), "--raw", *completion]) == 0
    assert json.loads(capsys.readouterr().out)["generated_tokens"] <= 3
