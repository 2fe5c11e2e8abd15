"""Where the tokenizer and the chat template come from, and that GGUF's converts faithfully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmx.checkpoint import Checkpoint, TokenIds, open_checkpoint, read_token_ids, save_tokenizer
from llmx.errors import ArtifactError, CheckpointError

TEXTS = [
    "Hello, world! I've 12345 apples and don't know 3.14159.",
    "Grüße aus München, schöne Straße",
    "日本語のテキスト、漢字かな交じり文。2024年",
    "Привет, мир! مرحبا بالعالم ١٢٣ नमस्ते",
    "def f(x):\n    return x ** 2\n\n\n\tif x:  pass   ",
    "🙂 👩‍👩‍👧 e\u0301 \u00a0\u200b",
    "<|start|>user\nHi<|end|>\n<|start|>assistant\n<think>no</think>",
    "",
    " ",
]
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
SPECIAL = ("<|end|>", "<|start|>")
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1


def known(name: str) -> dict[str, Any] | None:
    return {"pre_tokenizer": PRE_TOKENIZER} if name == "ours" else None


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    """A byte-level BPE as it is published: trained here, with control and plain added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return tokenizer


def save_gguf(path: Path, tokenizer: Tokenizer, **changes: Any) -> Checkpoint:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    kinds = {**dict.fromkeys(SPECIAL, CONTROL), "<think>": USER_DEFINED}
    writer = gguf.GGUFWriter(path, "any")
    for key in ("embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"any.{key}", 4)
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "ours",
        "tokens": tokens,
        "token_type": [kinds.get(token, NORMAL) for token in tokens],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 0,
        **changes,
    }
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"tokenizer.ggml.{key}", value)
        elif value is not None:
            writer.add_array(f"tokenizer.ggml.{key}", value)
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_tensor("token_embd.weight", np.ones((len(tokens), 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_checkpoint(str(path))


class TestGguf:
    def test_it_encodes_and_decodes_as_the_original(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        checkpoint = save_gguf(tmp_path / "m.gguf", original)
        written = save_tokenizer(checkpoint, tmp_path, sections=known)
        assert written == tmp_path / "tokenizer.json"
        converted = Tokenizer.from_file(str(written))
        assert converted.get_vocab() == original.get_vocab()
        for text in TEXTS:
            ids = original.encode(text).ids
            assert converted.encode(text).ids == ids
            for skip in (True, False):
                assert converted.decode(ids, skip_special_tokens=skip) == original.decode(
                    ids, skip_special_tokens=skip
                )

    def test_the_runtimes_own_tokenizer_loads_it_and_agrees(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        from pytorch_tokenizers import CppHFTokenizer

        checkpoint = save_gguf(tmp_path / "m.gguf", original)
        runtime = CppHFTokenizer()
        runtime.load(str(save_tokenizer(checkpoint, tmp_path, sections=known)))
        for text in TEXTS:
            assert list(runtime.encode(text, 0, 0)) == original.encode(text).ids

    def test_texts_begin_with_bos_where_the_file_says_so(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        checkpoint = save_gguf(tmp_path / "m.gguf", original, add_bos_token=True)
        written = save_tokenizer(checkpoint, tmp_path, sections=known)
        converted = Tokenizer.from_file(str(written))
        assert converted.encode("Hello").ids == [1, *original.encode("Hello").ids]
        plain = converted.encode("Hello", add_special_tokens=False).ids
        assert plain == original.encode("Hello").ids

    def test_token_ids_and_template_come_from_the_header(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        checkpoint = save_gguf(tmp_path / "m.gguf", original, eot_token_id=7)
        ids = read_token_ids(checkpoint, TokenIds(bos=99, eos=(99,)))
        assert ids == TokenIds(bos=1, eos=(0, 7))
        assert checkpoint.chat_template() == "{{ messages }}"
        assert checkpoint.special_tokens() == {"<|end|>": 0, "<|start|>": 1}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pre": "theirs"}, "splits text by the rule 'theirs'"),
            ({"pre": None}, "splits text by the rule 'default'"),
            ({"model": "t5"}, "tokenizer of the kind 't5'"),
            ({"merges": None}, r"lacks tokenizer\.ggml\.merges"),
        ],
    )
    def test_what_cannot_be_converted_asks_for_the_tokenizer(
        self, tmp_path: Path, original: Tokenizer, changes: dict[str, Any], message: str
    ) -> None:
        checkpoint = save_gguf(tmp_path / "m.gguf", original, **changes)
        with pytest.raises(CheckpointError, match=message) as caught:
            save_tokenizer(checkpoint, tmp_path, sections=known)
        assert "--tokenizer" in (caught.value.remedy or "")

    def test_a_file_without_a_tokenizer_gives_none(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        checkpoint = save_gguf(tmp_path / "m.gguf", original, model=None)
        assert save_tokenizer(checkpoint, tmp_path, sections=known) is None

    def test_a_folder_of_its_own_may_bring_a_better_tokenizer(
        self, tmp_path: Path, original: Tokenizer
    ) -> None:
        save_gguf(tmp_path / "m.gguf", original)
        (tmp_path / "tokenizer.json").write_text("{}")
        out = tmp_path / "out"
        out.mkdir()
        from_folder = open_checkpoint(str(tmp_path))
        assert save_tokenizer(from_folder, out, sections=known).read_text() == "{}"
        # Named alone, the file is not described by what happens to lie beside it.
        alone = open_checkpoint(str(tmp_path / "m.gguf"))
        assert save_tokenizer(alone, out, sections=known).read_text() != "{}"


class TestFolder:
    def open(self, folder: Path, files: dict[str, str]) -> Checkpoint:
        save_file({"w": torch.ones(1)}, folder / "model.safetensors")
        for name, content in files.items():
            (folder / name).write_text(content)
        return open_checkpoint(str(folder))

    @pytest.mark.parametrize(
        ("files", "chosen"),
        [
            ({"tokenizer.json": "a", "tokenizer.model": "b"}, "tokenizer.json"),
            ({"tokenizer.model": "b"}, "tokenizer.model"),
            ({}, None),
        ],
    )
    def test_tokenizer_json_is_preferred(
        self, tmp_path: Path, files: dict[str, str], chosen: str | None
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        written = save_tokenizer(self.open(tmp_path, files), out, sections=known)
        assert (written and written.name) == chosen
        if written and chosen:
            assert written.read_text() == files[chosen]

    def test_an_unwritable_folder_is_an_error_about_the_output(self, tmp_path: Path) -> None:
        checkpoint = self.open(tmp_path, {"tokenizer.json": "{}"})
        with pytest.raises(ArtifactError, match="cannot write the tokenizer into"):
            save_tokenizer(checkpoint, tmp_path / "absent", sections=known)

    @pytest.mark.parametrize(
        ("files", "template"),
        [
            ({"tokenizer_config.json": '{"chat_template": "one"}'}, "one"),
            (
                {
                    "tokenizer_config.json": json.dumps(
                        {
                            "chat_template": [
                                {"name": "tool_use", "template": "tools"},
                                {"name": "default", "template": "plain"},
                            ]
                        }
                    )
                },
                "plain",
            ),
            ({"tokenizer_config.json": "{}", "chat_template.jinja": "beside"}, "beside"),
            (
                {"tokenizer_config.json": '{"chat_template": "one"}', "chat_template.jinja": "x"},
                "one",
            ),
            ({}, None),
        ],
    )
    def test_the_chat_template_is_found_where_it_may_be(
        self, tmp_path: Path, files: dict[str, str], template: str | None
    ) -> None:
        assert self.open(tmp_path, files).chat_template() == template
