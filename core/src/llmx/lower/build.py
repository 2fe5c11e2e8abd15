"""The eager model, built once with the right parts and filled tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor, nn

from llmx.checkpoint import IntegerWeight, WeightMap, apply_stored, plan
from llmx.checkpoint.lora import LoraCheckpoint
from llmx.config import ExportJob
from llmx.config.context_checks import attention_sinks
from llmx.config.methods import FORWARD
from llmx.config.schema import QuantizationOptions
from llmx.errors import CheckpointError, ConfigError
from llmx.lower.adapter import kept_beside, merged
from llmx.lower.source import Source
from llmx.lower.vocabulary import EMBEDDING, HEAD, Vocabulary, read_vocabulary
from llmx.model.adapted import AdaptedLinear, LowRank
from llmx.model.hadamard import Hadamard
from llmx.model.ops import BuildOptions, ModelOps
from llmx.model.params import DecoderParams
from llmx.model.unfilled import unfilled
from llmx.model.variants import with_adapters
from llmx.plugins import Plugins
from llmx.progress import Stages
from llmx.quantize.account import WeightRecord
from llmx.quantize.calibrated import Calibration
from llmx.quantize.codes import Rounding
from llmx.quantize.imported import ImportRules
from llmx.quantize.load import load_weights
from llmx.quantize.plan import Scheme, plan_quantization, planning_notes
from llmx.quantize.random_weights import random_weights

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TIED = {EMBEDDING: HEAD}
AUTO_OFFSET_BITS = 0.5
"""Offsets that add more bits per weight are kept on request only."""
SHARED = {"embedding": "head"}


@frozen
class Blueprint:
    """A model without weights, and everything that was decided about them before reading any.

    ``beside``: adapters that stay apart, by the name of the linear layer; ``methods``: those of
    the program's further methods, by method.
    """

    model: nn.Module
    ops: ModelOps
    dtype: torch.dtype
    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    shared: Mapping[str, str]
    schemes: Mapping[str, Scheme]
    imports: ImportRules
    tensors: Iterable[tuple[str, Tensor | IntegerWeight]]
    beside: Mapping[str, LowRank]
    methods: Mapping[str, Mapping[str, LowRank]]
    vocabulary: Vocabulary
    notes: Sequence[str]
    int8_activations: bool


def draw(job: ExportJob, source: Source, plugins: Plugins) -> Blueprint:
    """Build the model on the meta device and match it with the checkpoint.

    Raises:
        CheckpointError: tensors are missing, left over or of the wrong shape.
        ConfigError: a quantization that no layer can have, or a table that two layers are to
            share which the checkpoint does not tie.
    """
    params, dtype = source.params, DTYPES[job.model.dtype_override]
    ops = plugins.backend.model_ops(job=job)
    special = plugins.family.token_ids(checkpoint=source.checkpoint)
    vocabulary = read_vocabulary(job.model, size=params.vocab_size, special=special)
    build = build_options(job, vocabulary)
    with unfilled():
        model = plugins.family.build_model(params=params, ops=ops, build=build)
    if build.rotation is Hadamard and not any(
        isinstance(each, Hadamard) for each in model.modules()
    ):
        raise ConfigError(
            f"quantization.use_spin_quant={job.quantization.use_spin_quant}: the layers of "
            f"{job.base.model_class} have no place for the rotation",
            remedy="it is for checkpoints of the standard decoder; leave it out",
        )
    tied = TIED if params.tied_embeddings and vocabulary.one_table else {}
    shared = SHARED if job.model.use_shared_embedding else {}
    if shared and not tied:
        raise ConfigError(
            "model.use_shared_embedding: embedding and head are different tables here",
            remedy="leave it out",
        )
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name not in tied.values()
    }
    vocabulary.check(shapes)
    schemes = plan_quantization(
        model, job.quantization, group_multiple=ops.group_multiple, shared=shared
    )
    stored = vocabulary.stored_shapes(shapes)
    if params.tied_embeddings:
        stored = {name: shape for name, shape in stored.items() if name not in TIED.values()}
    tensors = _tensors(source, plugins, stored)
    if source.adapter is not None:
        tensors = merged(tensors, source.adapter, plugins.family, params, stored)
    adapters = {
        name: _adapters(each, plugins, params, stored, model)
        for name, each in ((None, source.beside), *source.methods.items())
        if each is not None
    }
    return Blueprint(
        model=model.eval(),
        ops=ops,
        dtype=dtype,
        shapes=shapes,
        tied=tied,
        shared=shared,
        schemes=schemes,
        imports=import_rules(job.quantization, ops),
        tensors=vocabulary.cut(tensors, tied=params.tied_embeddings),
        beside=adapters.pop(None, {}),
        methods={name: each for name, each in adapters.items() if name is not None},
        vocabulary=vocabulary,
        notes=[
            *vocabulary.notes(),
            *planning_notes(model, job.quantization, schemes, shared),
        ],
        int8_activations=any(
            scheme.activations == "int8" and isinstance(model.get_submodule(name), nn.Linear)
            for name, scheme in schemes.items()
        ),
    )


def build_options(job: ExportJob, vocabulary: Vocabulary) -> BuildOptions:
    """What the job, whose lengths are resolved, asks of the model."""
    assert job.export.max_context_length is not None
    assert job.export.max_seq_length is not None
    fixed = max((each.export_seq_len or 1 for each in job.multimethod.methods), default=1)
    return BuildOptions(
        dtype=DTYPES[job.model.dtype_override],
        max_context_length=job.export.max_context_length,
        longest_call=job.export.max_seq_length if job.model.enable_dynamic_shape else fixed,
        windows=job.model.local_global_attention or (),
        sinks=attention_sinks(job.model),
        inputs=vocabulary.inputs,
        outputs=vocabulary.outputs,
        full_logits=job.debug.generate_full_logits,
        rotation=nn.Identity if job.quantization.use_spin_quant is None else Hadamard,
    )


def fill(
    blueprint: Blueprint,
    stages: Stages,
    rounding: Rounding,
    calibration: Calibration | None = None,
) -> Iterator[WeightRecord]:
    """Read, convert and quantize weights, one module after the other, and account for each."""
    records = load_weights(
        blueprint.model,
        blueprint.tensors,
        blueprint.schemes,
        ops=blueprint.ops,
        dtype=blueprint.dtype,
        tied=blueprint.tied,
        rounding=rounding,
        shared=blueprint.shared,
        imports=blueprint.imports,
        calibration=calibration,
    )
    total = len({name.rpartition(".")[0] for name in blueprint.shapes}) + len(blueprint.tied)
    named = ((record.name, record) for record in records)
    for name, record in stages.track(named, total):
        yield record
        if name in blueprint.beside:
            yield _adapt(blueprint, name, blueprint.beside[name])
        for method, added in blueprint.methods.items():
            if name in added:
                yield adapter_record(f"{name}.adapter.{method}", added[name], blueprint.dtype)


def _adapt(blueprint: Blueprint, name: str, added: LowRank) -> WeightRecord:
    """Put an adapter beside a layer that has its weights, and account for it."""
    model = blueprint.model
    model.set_submodule(name, AdaptedLinear(model.get_submodule(name), added, blueprint.dtype))
    return adapter_record(f"{name}.adapter", added, blueprint.dtype)


def variants(blueprint: Blueprint) -> Mapping[str, nn.Module]:
    """The filled model of each method that has an adapter of its own."""
    return {
        method: with_adapters(blueprint.model, added, blueprint.dtype)
        for method, added in blueprint.methods.items()
    }


def methods_of(
    job: ExportJob, model: nn.Module, adapted: Mapping[str, nn.Module]
) -> Mapping[str, nn.Module]:
    """What each method computes: ``model``, or the ``adapted`` one of its name."""
    plain = {each.method_name: model for each in job.multimethod.methods}
    return {FORWARD: model, **plain, **adapted}


def adapter_record(name: str, added: LowRank, dtype: torch.dtype) -> WeightRecord:
    """The account of one layer's adapter."""
    elements = added.down.numel() + added.up.numel()
    return WeightRecord(
        name=name,
        kind="other",
        elements=elements,
        bits=dtype.itemsize * 8,
        group=None,
        stored_bytes=elements * dtype.itemsize,
    )


def _adapters(
    adapter: LoraCheckpoint,
    plugins: Plugins,
    params: DecoderParams,
    stored: Mapping[str, tuple[int, ...]],
    model: nn.Module,
) -> Mapping[str, LowRank]:
    """What stays beside linear layers, by their names."""
    added = kept_beside(adapter, plugins.family, params, stored)
    by_layer = {name.removesuffix(".weight"): each for name, each in added.items()}
    others = [name for name in by_layer if not isinstance(model.get_submodule(name), nn.Linear)]
    if others:
        raise CheckpointError(
            f"{adapter.source}: the adapter changes {', '.join(others)}, which is no linear layer",
            remedy="merge it into the weights where it was made",
        )
    return by_layer


def import_rules(quantization: QuantizationOptions, ops: ModelOps) -> ImportRules:
    """What the backend's kernels hold, within what ``quantization.imported`` asks for.

    Raises:
        ConfigError: it asks for integers, and what comes after takes floats.
    """
    mode, quantizer = quantization.imported, quantization.pt2e_quantize
    floats = None if ops.integer_weights else "the backend takes floats, and rounds them by itself"
    if quantizer is not None:
        floats = f"{quantizer} rounds floats"
    if mode == "keep" and floats is not None:
        raise ConfigError(
            f"quantization.imported=keep: {floats}",
            remedy="leave it out; the checkpoint's integers become floats first",
        )
    refused = "quantization.imported=requantize" if mode == "requantize" else floats
    return ImportRules(
        refused=refused,
        linears=ops.integer_linears,
        group_multiple=ops.group_multiple,
        int8_groups=ops.int8_groups,
        offset_bits=math.inf if mode == "keep" else AUTO_OFFSET_BITS,
        shrink=mode == "auto",
    )


def _tensors(
    source: Source, plugins: Plugins, shapes: Mapping[str, tuple[int, ...]]
) -> Iterable[tuple[str, Tensor | IntegerWeight]]:
    if source.checkpoint is None:
        return random_weights(shapes)
    converted = plugins.family.convert_weights(checkpoint=source.checkpoint, params=source.params)
    if isinstance(converted, WeightMap):
        steps = plan(converted, source.checkpoint, shapes)
        return apply_stored(steps, source.checkpoint)
    return _checked(converted, shapes)


def _checked(
    tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Pass on what a plugin converts itself, as strictly as a weight map is checked."""
    missing = dict(shapes)
    for name, tensor in tensors:
        if name not in missing:
            raise CheckpointError(f"convert_weights gave {name}, which the model does not want")
        if tuple(tensor.shape) != missing.pop(name):
            raise CheckpointError(
                f"convert_weights gave {name} as {list(tensor.shape)}, "
                f"the model wants {list(shapes[name])}"
            )
        yield name, tensor
    if missing:
        raise CheckpointError(f"convert_weights gave no {', '.join(sorted(missing)[:3])}")
