"""The stage of an export that quantizes the filled model as a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from llmx.config import ExportJob
from llmx.errors import ConfigError, LoweringError
from llmx.hookspecs import BackendSpec
from llmx.lower.build import Blueprint
from llmx.lower.calibrate import texts_of
from llmx.lower.capture import capture, example_inputs
from llmx.names import did_you_mean
from llmx.progress import Stages
from llmx.quantize.account import WeightRecord
from llmx.quantize.graph import (
    Call,
    account_graph,
    float_weights,
    quantize_graph,
    rounds_activations,
)
from llmx.quantize.probing import buffers_kept

KEY = "quantization.pt2e_quantize"


def check_quantizer(job: ExportJob, backend: BackendSpec) -> None:
    """Refuse the name of a quantizer that the backend does not have.

    Raises:
        ConfigError: with those that it has.
    """
    name = job.quantization.pt2e_quantize
    if name is None:
        return
    known: Mapping[str, Any] = backend.quantizers(job=job)
    if name not in known:
        raise ConfigError(
            f"{job.backend.name or 'no backend'} has no {KEY}={name}{did_you_mean(name, known)}",
            remedy=f"use {', '.join(known)}" if known else "use quantization.qmode instead",
        )


def with_graph_quantized(
    job: ExportJob,
    blueprint: Blueprint,
    records: Sequence[WeightRecord],
    backend: BackendSpec,
    tokenizer: Path | None,
    stages: Stages,
) -> tuple[Blueprint, list[WeightRecord]]:
    """The blueprint with its filled model as a quantized graph, and the account of its weights.

    ``job``'s lengths are resolved. Without ``quantization.pt2e_quantize`` nothing changes.

    Raises:
        LoweringError: the quantizer found nothing to do, or the model cannot be traced.
    """
    name = job.quantization.pt2e_quantize
    if name is None:
        return blueprint, list(records)
    assert job.export.max_seq_length is not None
    inputs, dynamic_shapes = example_inputs(
        kv_cache=job.model.use_kv_cache,
        dynamic=job.model.enable_dynamic_shape,
        max_seq_length=job.export.max_seq_length,
    )
    texts = texts_of(job, tokenizer, vocabulary=blueprint.vocabulary.readable, stages=stages)
    with stages.stage("quantize graph"):
        graph = capture(blueprint.model, inputs, dynamic_shapes).module(check_guards=False)
        quantizer = backend.quantizers(job=job)[name]()
        calls = _calls(job, texts, stages)
        # The graph has the model's own buffers: its caches begin empty again.
        with buffers_kept(blueprint.model):
            quantized = quantize_graph(graph, quantizer, calls)
        accounted = account_graph(records, quantized, float_weights(blueprint.model))
    if accounted == list(records):
        raise LoweringError(
            f"{name} left every weight as it was", remedy="use another quantizer, or report this"
        )
    stages.note(f"{name} quantized the weights of {_changes(records, accounted)}")
    return (
        attrs.evolve(
            blueprint,
            model=quantized,
            int8_activations=blueprint.int8_activations or rounds_activations(quantized),
        ),
        accounted,
    )


def _changes(before: Sequence[WeightRecord], after: Sequence[WeightRecord]) -> str:
    changed = Counter(
        other.kind for one, other in zip(before, after, strict=True) if one.bits != other.bits
    )
    total = Counter(each.kind for each in before)
    counts = [f"{changed[kind]} of {total[kind]} {kind}s" for kind in ("linear", "embedding")]
    return " and ".join(counts)


def _calls(job: ExportJob, texts: Sequence[Tensor], stages: Stages) -> Iterator[Call]:
    """Every text from its beginning, in calls such as the program takes."""
    named = [(f"text {at}", text) for at, text in enumerate(texts, start=1)]
    for _, text in stages.track(named, len(named)):
        yield from _calls_of(job, text)


def _calls_of(job: ExportJob, text: Tensor) -> Iterable[Call]:
    if not job.model.use_kv_cache:
        return [(text,)]
    if job.model.enable_dynamic_shape:
        return [(text, torch.tensor([0]))]
    return [(text[:, at : at + 1], torch.tensor([at])) for at in range(text.shape[1])]
