"""What every checkpoint format offers: names, shapes and dtypes now, bytes when asked."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, frozen

from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from llmx.checkpoint.integers import IntegerWeight

Layout = Literal["hf", "meta", "gguf"]

TokenizerSections = Callable[[str], Mapping[str, Any] | None]
"""Gives sections of ``tokenizer.json`` for the name by which GGUF files call their rules."""

FLOAT_TYPES = ("f64", "f32", "f16", "bf16")


@frozen
class TensorInfo:
    """Shape (outermost dimension first, as PyTorch) and stored type (``bf16``, ``q4_1``, …)."""

    shape: tuple[int, ...]
    dtype: str


@frozen
class TokenIds:
    """``bos`` is ``None`` for families without one; generation stops at any of ``eos``."""

    bos: int | None
    eos: tuple[int, ...]


@frozen(kw_only=True, slots=False)
class Checkpoint(ABC):
    """A lazily read checkpoint.

    Attributes:
        source: what the user named, for messages.
        layout: whose tensor names it carries: Hugging Face's, Meta's or GGUF's.
        files: the weight files, in a fixed order.
        tensors: every tensor by its stored name.
        config: the model's parameters under Hugging Face ``config.json`` names, translated from
            the file's own header for other layouts; empty where there is none.
        generation_config, tokenizer_config: as in the Hugging Face files of these names.
        tokenizer_file: ``tokenizer.json`` or ``tokenizer.model`` beside the weights, if any.
        interleaved_qk: whether q and k rows are stored with rotary pairs as neighbours, instead
            of half a head apart; ``None`` where the file cannot tell (GGUF: it depends on the
            architecture, which the family knows).
        revision: commit of a hub download, else ``None``.
    """

    source: str
    layout: Layout
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any] = Factory(dict)
    generation_config: Mapping[str, Any] = Factory(dict)
    tokenizer_config: Mapping[str, Any] = Factory(dict)
    tokenizer_file: Path | None = None
    interleaved_qk: bool | None = False
    revision: str | None = None

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """One tensor in its stored float type (dequantized to fp32 if stored in blocks).

        Raises:
            CheckpointError: the bytes are not there or cannot be decoded.
        """

    def read_raw(self, name: str) -> torch.Tensor:
        """One tensor in the type that is stored, be it integers that only mean a part of one."""
        return self.read(name)

    def read_stored(self, name: str) -> torch.Tensor | IntegerWeight:
        """One tensor as integers and scales where it is stored so, else as ``read`` gives it."""
        return self.read(name)

    def chat_template(self) -> str | None:
        """The Jinja chat template, if the checkpoint carries one.

        ``tokenizer_config.json`` holds one template or a list of named ones; of these the
        template named ``default`` is meant.
        """
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, Mapping)]
            template = next(
                (entry.get("template") for entry in named if entry.get("name") == "default"), None
            )
        return template if isinstance(template, str) else None

    def write_tokenizer(self, folder: Path, sections: TokenizerSections) -> Path | None:
        """Put the tokenizer into ``folder`` as the runner loads it; ``None`` if there is none.

        Args:
            sections: asked by formats that store the name of a tokenizer's rules only.
        """
        if self.tokenizer_file is None:
            return None
        target = folder / self.tokenizer_file.name
        shutil.copyfile(self.tokenizer_file, target)
        return target

    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the tokens that stand outside the vocabulary's text, by their spelling."""
        return {}

    def require_float(self, name: str) -> TensorInfo:
        """The tensor's entry, checked to exist and to be of a plain floating-point type."""
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"{self.source} has no tensor {name}")
        if info.dtype not in FLOAT_TYPES:
            raise CheckpointError(
                f"{self.source}: tensor {name} is stored as {info.dtype}, which cannot be read",
                remedy=f"Use a checkpoint in one of {', '.join(FLOAT_TYPES)}, or GGUF.",
            )
        return info
