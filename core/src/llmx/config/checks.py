"""What a job may not say: options that are not there yet, and options that contradict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from llmx.config.context_checks import check_context
from llmx.config.data_files import check_data_files, has_data_files
from llmx.config.methods import KEY as METHODS
from llmx.config.methods import check_lengths, check_methods
from llmx.config.sizes import bytes_in
from llmx.errors import ConfigError
from llmx.names import did_you_mean

if TYPE_CHECKING:
    from llmx.config.adapter import Adapter
    from llmx.config.schema import ExportJob, ExportOptions, ModelOptions, QuantizationOptions

QMODES = ("8da4w", "8da8w", "int8", "4w")
GPTQ_QMODE = "8da4w-gptq"
LOW_BIT_QMODE = re.compile(r"torchao:(8da|fpa)([1-8])w")
EMBEDDING_PATTERN = re.compile(r"(torchao:)?(\d+),\s*(\d+)")
EMBEDDING_BITS = (2, 4, 8)
AUTOMATIC = "auto"
CALIBRATION_KEYS = ("calibration_file", "calibration_limit", "calibration_seq_length")
"""Which text linear layers are rounded for."""
HEAD_BITS = (4, 8)
LOW_BIT_EMBEDDING_BITS = range(1, 9)


def check_job(job: ExportJob) -> None:
    """Raise :class:`ConfigError` for the first thing that cannot be honoured."""
    for section in attrs.fields(type(job)):
        options = getattr(job, section.name)
        if attrs.has(type(options)):
            _check_supported(section.name, options)
    _check_base(job)
    _check_model(job.model)
    _check_shared_embedding(job)
    check_context(job.model, job.export)
    _check_lengths(job.export)
    _check_export_only(job)
    _check_methods(job)
    check_data_files(job)
    _check_quantization(job.quantization)


def _check_supported(section: str, options: attrs.AttrsInstance) -> None:
    for each in attrs.fields(type(options)):
        reason = each.metadata.get("unsupported")
        if reason is None:
            continue
        if getattr(options, each.name) != each.default:
            raise ConfigError(f"{section}.{each.name} is not supported yet", remedy=reason)


def _check_base(job: ExportJob) -> None:
    if job.base.random_weights and job.base.checkpoint is not None:
        raise ConfigError(
            f"base.random_weights contradicts base.checkpoint {job.base.checkpoint}",
            remedy="leave one of them out",
        )
    if job.base.lora_config is not None:
        if has_data_files(job.export):
            _check_adapter_type(job.base.lora_config, "base.lora_config")
        else:
            _check_merged(job.base.lora_config)
    integers = job.quantization.use_spin_quant is not None or job.quantization.use_qat
    if job.base.preq_mode is not None and not integers:
        raise ConfigError(
            f"base.preq_mode {job.base.preq_mode} is for checkpoints of Meta's integers",
            remedy="add quantization.use_spin_quant=native or quantization.use_qat=true, "
            "or leave it out",
        )


def _check_methods(job: ExportJob) -> None:
    methods = job.multimethod.methods
    check_methods(methods)
    if not methods:
        if job.multimethod.share_mutable_buffers:
            raise ConfigError(
                f"multimethod.share_mutable_buffers is about several methods, and {METHODS} has "
                "none",
                remedy="leave it out",
            )
        return
    check_lengths(
        methods,
        dynamic=job.model.enable_dynamic_shape,
        shared_state=job.multimethod.share_mutable_buffers,
    )
    for each in methods:
        if each.lora_config is not None:
            _check_adapter_type(each.lora_config, f"{METHODS}.lora_config")
    contradicting = {
        "base.lora_config": job.base.lora_config is not None,
        "quantization.pt2e_quantize": job.quantization.pt2e_quantize is not None,
        "export.export_only": job.export.export_only,
        "debug.generate_etrecord": job.debug.generate_etrecord,
    }
    for name in (name for name, given in contradicting.items() if given):
        raise ConfigError(f"{METHODS} contradicts {name}", remedy="leave one of them out")


def _check_adapter_type(adapter: Adapter, key: str) -> None:
    if adapter.adapter_quant not in (None, "fp32"):
        raise ConfigError(
            f"{key}.adapter_quant={adapter.adapter_quant}: adapters have the model's own float "
            "type",
            remedy="leave it out",
        )


def _check_merged(adapter: Adapter) -> None:
    if adapter.adapter_quant is not None:
        raise ConfigError(
            f"base.lora_config.adapter_quant={adapter.adapter_quant}: the adapter is merged into "
            "the weights, which have the model's own types",
            remedy="leave it out",
        )


def _check_model(model: ModelOptions) -> None:
    if model.use_kv_cache:
        return
    if model.use_sdpa_with_kv_cache:
        raise ConfigError(
            "model.use_sdpa_with_kv_cache needs model.use_kv_cache",
            remedy="add model.use_kv_cache=true",
        )
    if not model.enable_dynamic_shape:
        raise ConfigError(
            "model.enable_dynamic_shape=false needs model.use_kv_cache:"
            " without a cache the whole text is passed again for each token",
            remedy="add model.use_kv_cache=true, or leave the shape dynamic",
        )


def _check_shared_embedding(job: ExportJob) -> None:
    if job.model.use_shared_embedding and job.quantization.embedding_quantize is None:
        raise ConfigError(
            "model.use_shared_embedding needs quantization.embedding_quantize,"
            " which says what the one table is",
            remedy="add quantization.embedding_quantize=8,0",
        )
    if job.model.use_shared_embedding and job.quantization.head_quantize is not None:
        raise ConfigError(
            f"quantization.head_quantize {job.quantization.head_quantize} contradicts "
            "model.use_shared_embedding, where the head is as embedding_quantize says",
            remedy="leave one of them out",
        )


def _check_lengths(export: ExportOptions) -> None:
    for name in ("max_seq_length", "max_context_length"):
        value = getattr(export, name)
        if value is not None and value < 1:
            raise ConfigError(f"export.{name} is {value}; it must be at least 1 token")
    sequence, context = export.max_seq_length, export.max_context_length
    if sequence is not None and context is not None and context < sequence:
        raise ConfigError(
            f"export.max_context_length {context} is shorter than export.max_seq_length {sequence}",
            remedy="raise the first or lower the second",
        )


def _check_export_only(job: ExportJob) -> None:
    if not job.export.export_only:
        return
    for name in ("generate_etrecord", "profile_memory"):
        if getattr(job.debug, name):
            raise ConfigError(
                f"debug.{name} tells about a program, and export.export_only makes none",
                remedy="leave one of them out",
            )


def _check_quantization(quantization: QuantizationOptions) -> None:
    if quantization.qmode not in (None, GPTQ_QMODE):
        _check_qmode(quantization.qmode)
    if quantization.embedding_quantize is not None:
        _check_embedding(quantization.embedding_quantize)
    if quantization.head_quantize is not None:
        _check_head(quantization)
    if quantization.use_spin_quant is not None and quantization.use_qat:
        raise ConfigError(
            "quantization.use_spin_quant contradicts quantization.use_qat",
            remedy="leave one of them out",
        )
    _check_method(quantization)
    _check_graph(quantization)
    _check_budget(quantization)
    if quantization.group_size is None:
        return
    if quantization.qmode is None:
        raise ConfigError(
            f"quantization.group_size {quantization.group_size} needs quantization.qmode",
            remedy=f"add quantization.qmode={QMODES[0]}, or leave the group size out",
        )
    if quantization.group_size < 0:
        raise ConfigError(
            f"quantization.group_size is {quantization.group_size}",
            remedy="use a number of weights, or 0 for one scale per row",
        )


def _check_method(quantization: QuantizationOptions) -> None:
    method, qmode = quantization.method, quantization.qmode
    if qmode == GPTQ_QMODE:
        raise ConfigError(f"quantization.qmode {qmode} contradicts quantization.method {method}")
    if method != AUTOMATIC:
        _check_named_method(quantization)
    for name in CALIBRATION_KEYS:
        value = getattr(quantization, name)
        if value is None:
            continue
        texts = (quantization.budget, quantization.pt2e_quantize)
        automatic = method == AUTOMATIC and qmode is not None and quantization.use_hqq is None
        calibrates = method == "gptq" or automatic
        if not calibrates and all(each is None for each in texts):
            raise ConfigError(
                f"quantization.{name} needs a method that calibrates",
                remedy="add quantization.method=gptq",
            )
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"quantization.{name} is {value}; it must be at least 1")


def _check_named_method(quantization: QuantizationOptions) -> None:
    method, hqq = quantization.method, quantization.use_hqq
    if method is not None and quantization.qmode is None:
        raise ConfigError(
            f"quantization.method {method} needs quantization.qmode",
            remedy=f"add quantization.qmode={QMODES[0]}, or leave the method out",
        )
    if method is not None and hqq is not None and hqq != (method == "hqq"):
        raise ConfigError(
            f"quantization.method {method} contradicts quantization.use_hqq={str(hqq).lower()}",
            remedy="leave one of them out",
        )


def _check_graph(quantization: QuantizationOptions) -> None:
    name = quantization.pt2e_quantize
    if name is not None and quantization.qmode is not None:
        raise ConfigError(
            f"quantization.pt2e_quantize {name} contradicts quantization.qmode "
            f"{quantization.qmode}: both say what linear layers become",
            remedy="use quantization.qmode=none, or leave the quantizer out",
        )


def _check_budget(quantization: QuantizationOptions) -> None:
    bits, size, qmode = quantization.bits, quantization.target_size, quantization.qmode
    if bits is not None and size is not None:
        raise ConfigError(
            f"quantization.bits {bits:g} contradicts quantization.target_size {size}",
            remedy="leave one of them out",
        )
    for name in ("bits", "extra_bits"):
        value = getattr(quantization, name)
        if value is not None and value <= 0:
            raise ConfigError(f"quantization.{name} is {value:g}; it must be more than 0")
    if size is not None:
        bytes_in(size, "quantization.target_size")
    budget = quantization.budget
    if budget is not None and (qmode is None or qmode in ("8da8w", "int8")):
        raise ConfigError(
            f"quantization.{budget} needs a quantization.qmode of few bits, to give some layers "
            "more",
            remedy=f"add quantization.qmode={QMODES[0]}, or quantization.{budget}=none",
        )


def _check_qmode(qmode: str) -> None:
    if qmode in QMODES or LOW_BIT_QMODE.fullmatch(qmode):
        return
    raise ConfigError(
        f"unknown quantization.qmode {qmode!r}{did_you_mean(qmode, (*QMODES, GPTQ_QMODE))}",
        remedy=f"use {', '.join(QMODES)}, or none",
    )


def _check_head(quantization: QuantizationOptions) -> None:
    text = quantization.head_quantize or ""
    match = EMBEDDING_PATTERN.fullmatch(text)
    if match is None or match[1] or int(match[2]) not in HEAD_BITS:
        raise ConfigError(
            f"quantization.head_quantize {text!r} is not '<bits>,<group size>' of 4 or 8 bits",
            remedy="for example 8,0",
        )
    if quantization.qmode is None:
        raise ConfigError(
            f"quantization.head_quantize {text} needs quantization.qmode",
            remedy=f"add quantization.qmode={QMODES[0]}",
        )


def _check_embedding(text: str) -> None:
    if text == AUTOMATIC:
        return
    match = EMBEDDING_PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"quantization.embedding_quantize {text!r} is not '<bits>,<group size>'",
            remedy="for example 4,32",
        )
    allowed = LOW_BIT_EMBEDDING_BITS if match[1] else EMBEDDING_BITS
    if int(match[2]) not in allowed:
        raise ConfigError(
            f"quantization.embedding_quantize {text}: an embedding cannot have {match[2]} bits",
            remedy=f"use {', '.join(map(str, allowed))} bits, for example 4,32",
        )
