"""Small real programs and tokenizers to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from tests.serving import served
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from llmx.artifact import write_manifest
from llmx.lower.capture import capture, example_inputs
from llmx.lower.program import default_program_config, finish, lower
from llmx.model.decoder import Decoder
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams

END_OF_TEXT, START, END = 0, 1, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 320
CONTEXT = 96
CHUNK = 16


class Recital(nn.Module):
    """After position p it says ``script[p]``, whatever it was told, over and over."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("table", nn.functional.one_hot(torch.tensor(script), VOCAB).float())

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        last = input_pos + torch.ones_like(tokens).sum(1) - 1
        return self.table[last % self.table.shape[0]]


@frozen
class Model:
    """A program, and the eager model that it was made from."""

    program: Path
    eager: nn.Module

    def continue_greedily(self, prompt: Sequence[int], count: int) -> list[int]:
        """The most likely tokens after ``prompt``, computed by the eager model from scratch."""
        tokens = list(prompt)
        for _ in range(count):
            with torch.no_grad():
                tokens.append(int(self.eager(torch.tensor([tokens])).argmax()))
        return tokens[len(prompt) :]


def write_program(path: Path, model: nn.Module, **constants: Any) -> Path:
    """Emit ``model`` with the runner's constant methods, some of them replaced."""
    kv_cache = constants.get("use_kv_cache", True)
    methods = {
        "get_bos_id": START,
        "get_eos_ids": [END, END_OF_TEXT],
        "get_max_seq_len": CHUNK if kv_cache else CONTEXT,
        "get_max_context_len": CONTEXT,
        "get_vocab_size": VOCAB,
        "use_kv_cache": True,
        "enable_dynamic_shape": True,
        **constants,
    }
    inputs = example_inputs(
        kv_cache=kv_cache, dynamic=True, max_seq_length=methods["get_max_seq_len"]
    )
    program = lower(capture(model, *inputs), [], [], methods)
    path.write_bytes(finish(program, default_program_config()).buffer)
    return path


def build_decoder(*, kv_cache: bool) -> Decoder:
    """A tiny decoder with weights large enough that its answers depend on every token."""
    params = DecoderParams(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48,
        vocab_size=VOCAB, max_position=CONTEXT,
    )  # fmt: skip
    torch.manual_seed(0)
    options = BuildOptions(dtype=torch.float32, max_context_length=CONTEXT)
    model = Decoder(
        params, plain_ops(kv_cache=kv_cache, fused_attention=False, int8_cache=False), options
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
        else:
            nn.init.ones_(parameter)
    return model.eval()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def decoder(folder: Path) -> Model:
    """A decoder with a KV cache that takes at most ``CHUNK`` tokens at once."""
    model = build_decoder(kv_cache=True)
    program = write_program(folder / "decoder.pte", model)
    return Model(program, build_decoder(kv_cache=False))


@pytest.fixture(scope="session")
def tokenizer_file(folder: Path) -> Path:
    """A byte-level BPE in which an emoji is four tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = "user assistant system hello world what is the capital of france paris city"
    tokenizer.train_from_iterator([words] * 20, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def ids(tokenizer_file: Path) -> Callable[[str], list[int]]:
    """Hugging Face's encoding."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return lambda text: tokenizer.encode(text).ids


@pytest.fixture
def recite(tmp_path: Path) -> Callable[..., Path]:
    """Make a program that answers a prompt of ``after`` tokens with these."""

    def make(answer: Sequence[int], *, after: int, **constants: Any) -> Path:
        script = [END] * (after - 1) + list(answer)
        script += [END] * (CONTEXT - len(script))
        return write_program(tmp_path / "recital.pte", Recital(script), **constants)

    return make


def write_artifact(
    folder: Path,
    program: Path,
    tokenizer_file: Path,
    template: str | None = TEMPLATE,
    **manifest: Any,
) -> Path:
    """Put a program into a folder as an export leaves it."""
    folder.mkdir()
    (folder / "model.pte").write_bytes(program.read_bytes())
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    record = {
        "program": {"file": "model.pte"},
        "tokenizer": "tokenizer.json",
        "chat_template": template,
        **manifest,
    }
    write_manifest(folder, record)
    return folder


@pytest.fixture
def artifact(tmp_path: Path, tokenizer_file: Path) -> Callable[..., Path]:
    """Put a program into an artifact's folder of its own."""

    def make(program: Path, *, template: str | None = TEMPLATE, **manifest: Any) -> Path:
        folder = tmp_path / "artifact"
        return write_artifact(folder, program, tokenizer_file, template, **manifest)

    return make


@pytest.fixture(scope="session")
def paris(folder: Path, tokenizer_file: Path, ids: Callable[[str], list[int]]) -> Iterator[str]:
    """A server whose model "paris" says "paris 🙂", but for the length of what it is told."""
    answer = [*ids("paris 🙂"), END]
    script = (answer * CONTEXT)[:CONTEXT]
    start = len(ids("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")) - 1
    script = script[-start % len(answer) :] + script[: -start % len(answer)]
    program = write_program(folder / "paris.pte", Recital(script))
    with served(write_artifact(folder / "paris", program, tokenizer_file)) as address:
        yield address


@pytest.fixture(scope="session")
def endless(folder: Path, tokenizer_file: Path) -> Iterator[str]:
    """A server whose model never ends; it wants the key "secret", and lets one request wait."""
    program = write_program(
        folder / "endless.pte", Recital([70] * CONTEXT), get_max_context_len=10**7
    )
    made = write_artifact(folder / "endless", program, tokenizer_file)
    with served(made, "--queue", 1, "--name", "a/b", LLMX_API_KEY="secret") as address:
        yield address
