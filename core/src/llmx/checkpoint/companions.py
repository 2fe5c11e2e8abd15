"""The small files that lie beside weights, and what they say about the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.checkpoint.base import Layout, TensorInfo
from llmx.checkpoint.files import read_json, read_json_if_present
from llmx.checkpoint.meta_params import config_from_meta, is_meta_params
from llmx.errors import CheckpointError

META_EMBEDDING = "tok_embeddings.weight"


@frozen
class Described:
    """What the companions say once the tensors are known; as in ``Checkpoint``."""

    layout: Layout
    config: Mapping[str, Any]
    interleaved_qk: bool


@frozen(kw_only=True)
class Companions:
    """Contents of the files beside the weights; empty mappings for absent ones."""

    hf_config: Mapping[str, Any]
    meta_params: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    tokenizer_file: Path | None

    def describe(self, tensors: Mapping[str, TensorInfo]) -> Described:
        """Judge the layout by the tensors' names and pick the matching description."""
        if META_EMBEDDING not in tensors:
            return Described("hf", self.hf_config or self._translated(tensors), False)
        config = self._translated(tensors) or self.hf_config
        return Described("meta", config, not self.meta_params.get("use_hf_rope", False))

    def _translated(self, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
        return config_from_meta(self.meta_params, tensors) if self.meta_params else {}


def read_companions(folder: Path, params: Path | None) -> Companions:
    """Read what ``folder`` has.

    Args:
        params: a file that replaces the folder's own ``config.json`` or ``params.json``; which of
            the two it is shows in its keys.
    """
    if params is None:
        hf_config = read_json_if_present(folder / "config.json")
        meta_params = read_json_if_present(folder / "params.json")
    else:
        given = read_json(params)
        hf_config, meta_params = ({}, given) if is_meta_params(given) else (given, {})
    return Companions(
        hf_config=hf_config,
        meta_params=meta_params,
        generation_config=read_json_if_present(folder / "generation_config.json"),
        tokenizer_config=_read_tokenizer_config(folder),
        tokenizer_file=find_tokenizer(folder),
    )


def find_tokenizer(folder: Path) -> Path | None:
    """``tokenizer.json``, which the runner understands best, else ``tokenizer.model``."""
    candidates = (folder / "tokenizer.json", folder / "tokenizer.model")
    return next((path for path in candidates if path.is_file()), None)


def special_tokens(tokenizer_file: Path | None) -> Mapping[str, int]:
    """The added tokens of a ``tokenizer.json``; a ``.model`` does not list its own in plain."""
    if tokenizer_file is None or tokenizer_file.suffix != ".json":
        return {}
    added = read_json(tokenizer_file).get("added_tokens") or []
    try:
        return {str(token["content"]): int(token["id"]) for token in added}
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{tokenizer_file}: added_tokens is not a list of tokens with id and content",
            remedy="Fetch the file again.",
        ) from error


def _read_tokenizer_config(folder: Path) -> Mapping[str, Any]:
    """``tokenizer_config.json``, with the chat template from its own file if it has moved there."""
    config = {
        **read_json_if_present(folder / "special_tokens_map.json"),
        **read_json_if_present(folder / "tokenizer_config.json"),
    }
    template = folder / "chat_template.jinja"
    if config.get("chat_template") is None and template.is_file():
        config["chat_template"] = _read_text(template)
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as text: {error}") from error
