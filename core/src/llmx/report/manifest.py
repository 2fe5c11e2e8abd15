"""The content of ``llmx.json``: what was exported, from what, how, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import attrs

import llmx
from llmx.checkpoint import Checkpoint, TokenIds
from llmx.model.params import DecoderParams
from llmx.plugins import Plugins
from llmx.progress import StageRecord
from llmx.quantize.account import WeightRecord, summarize

if TYPE_CHECKING:
    from llmx.report.memory_plan import MemoryPlan

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
PLACE = {"first", "last", "buffer", "offset"}
MOST_TENSORS = 200
STACK = ("torch", "torchao", "executorch", "pytorch_tokenizers")


def versions(plugins: Plugins) -> dict[str, str]:
    """Versions of everything that has a say in the result."""
    found = {"llmx-core": llmx.__version__}
    for source in (plugins.family_source, plugins.backend_source):
        if source is not None:
            found[source.distribution] = source.version
    for name in STACK:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def describe_source(
    checkpoint: Checkpoint | None, adapter: Checkpoint | None, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Where the weights came from."""
    return {
        "checkpoint": None if checkpoint is None else checkpoint.source,
        "adapter": None if adapter is None else adapter.source,
        "random_weights": checkpoint is None,
        "revision": None if checkpoint is None else checkpoint.revision,
        "files": dict(hashes),
    }


def describe_model(params: DecoderParams, tokens: TokenIds, kv_cache_bytes: int) -> dict[str, Any]:
    """Shapes, token ids and the cost of context."""
    return {
        "params": attrs.asdict(params),
        "parameter_count": params.parameter_count,
        "kv_cache_bytes": kv_cache_bytes,
        "bos_id": tokens.bos,
        "eos_ids": list(tokens.eos),
    }


def describe_sampling(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """How the authors sample, where ``generation_config.json`` says so."""
    found = {} if checkpoint is None else checkpoint.generation_config
    return {key: found[key] for key in SAMPLING if found.get(key) is not None} or None


def describe_special_tokens(checkpoint: Checkpoint | None) -> dict[str, str] | None:
    """Spelling of the tokens that chat templates refer to by name; ``None`` if none is known."""
    config = {} if checkpoint is None else checkpoint.tokenizer_config
    spelled = {}
    for name in ("bos_token", "eos_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str):
            spelled[name] = text
    return spelled or None


def describe_weights(records: Sequence[WeightRecord]) -> dict[str, Any]:
    """Totals, and one row per module."""
    summary = summarize(records)
    return {
        **attrs.asdict(summary),
        "bits_per_weight": round(summary.bits_per_weight, 3),
        "modules": [attrs.asdict(each) for each in records],
    }


def describe_memory(plan: MemoryPlan) -> dict[str, Any]:
    """What the plan reserves, and what is needed when most is, the largest first."""
    step, tensors = plan.peak()
    return {
        "planned_bytes": plan.planned_bytes,
        "state_bytes": sum(each.bytes for each in plan.tensors if each.operator == "state"),
        "peak_bytes": sum(each.bytes for each in tensors),
        "peak_step": step,
        "steps": plan.steps,
        "peak_tensors": [
            attrs.asdict(each, filter=lambda field, _: field.name not in PLACE)
            for each in tensors[:MOST_TENSORS]
        ],
        "other_tensors": len(tensors[MOST_TENSORS:]),
    }


def describe_lifetimes(plan: MemoryPlan) -> list[dict[str, Any]]:
    """Every tensor of the plan, with when it lives and where."""
    return [attrs.asdict(each) for each in plan.tensors]


def describe_stages(records: Sequence[StageRecord]) -> list[dict[str, Any]]:
    """Time in seconds and the process's peak memory in bytes after each stage."""
    return [
        {"name": each.name, "seconds": round(each.seconds, 2), "peak_bytes": each.peak_bytes}
        for each in records
    ]
