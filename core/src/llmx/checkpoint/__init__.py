"""Checkpoints: lazy readers by content, the hub, and the way from stored to llmx tensors."""

from __future__ import annotations

from llmx.checkpoint.base import Checkpoint, Layout, TensorInfo, TokenIds, TokenizerSections
from llmx.checkpoint.files import source_hashes
from llmx.checkpoint.integers import IntegerWeight
from llmx.checkpoint.layouts import (
    decoder_map,
    gguf_decoder_map,
    hf_decoder_map,
    meta_decoder_map,
)
from llmx.checkpoint.opening import open_checkpoint
from llmx.checkpoint.token_ids import read_token_ids
from llmx.checkpoint.tokenizer import save_tokenizer
from llmx.checkpoint.weight_map import WeightMap, apply, apply_stored, interleaved, plan

__all__ = [
    "Checkpoint",
    "IntegerWeight",
    "Layout",
    "TensorInfo",
    "TokenIds",
    "TokenizerSections",
    "WeightMap",
    "apply",
    "apply_stored",
    "decoder_map",
    "gguf_decoder_map",
    "hf_decoder_map",
    "interleaved",
    "meta_decoder_map",
    "open_checkpoint",
    "plan",
    "read_token_ids",
    "save_tokenizer",
    "source_hashes",
]
