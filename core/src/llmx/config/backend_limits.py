"""Refusals that several backends share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.config.data_files import data_names
from llmx.errors import ConfigError

if TYPE_CHECKING:
    from llmx.config.schema import ExportJob, ModelOptions


def require_one_length(model: ModelOptions, backend: str) -> None:
    """For a backend, named as its makers do, whose programs have inputs of one length.

    Raises:
        ConfigError: the model is to have others.
    """
    if model.enable_dynamic_shape:
        raise ConfigError(
            f"{backend} takes inputs of one length",
            remedy="use model.enable_dynamic_shape=false; the prompt is then read token by token",
        )


def require_plain_attention(model: ModelOptions, backend: str) -> None:
    """For a backend that has PyTorch's operators only.

    Raises:
        ConfigError: the model is to attend by ExecuTorch's own.
    """
    if model.use_sdpa_with_kv_cache or model.quantize_kv_cache:
        raise ConfigError(
            f"{backend} does not know ExecuTorch's own attention operators",
            remedy="use model.use_sdpa_with_kv_cache=false and model.quantize_kv_cache=false",
        )


def require_weights_inside(
    job: ExportJob, backend: str, *, methods_of_one_model: bool = False
) -> None:
    """For a backend whose delegates hold their weights themselves: methods would share none.

    ``methods_of_one_model``: they do where they differ in the lengths of calls alone.

    Raises:
        ConfigError: the program is to have several, or to leave its weights to other files.
    """
    methods = job.multimethod.methods
    one_model = all(each.lora_config is None for each in methods)
    if len(methods) > 1 and not (methods_of_one_model and one_model):
        raise ConfigError(
            f"methods of a program would share no weights with {backend}",
            remedy="export one program per adapter, with --adapter",
        )
    for name in data_names(job.export):
        raise ConfigError(
            f"{backend} keeps weights within the program, so that {name} would stay without",
            remedy="leave export.foundation_weights_file and export.lora_weights_file out",
        )


def require_own_formats(job: ExportJob, backend: str, instead: str) -> None:
    """For a backend that rounds weights by ``instead``, a key and its value.

    Raises:
        ConfigError: the layers are to be rounded before it.
    """
    if job.quantization.qmode is not None:
        raise ConfigError(
            f"{backend} has its own weight formats, not "
            f"quantization.qmode={job.quantization.qmode}",
            remedy=f"use {instead} and quantization.qmode=none",
        )


def require_fp32(model: ModelOptions, backend: str, computes: str) -> None:
    """For a backend that is given fp32, and ``computes``, in words, in what it has.

    Raises:
        ConfigError: the model is of another float type.
    """
    if model.dtype_override != "fp32":
        raise ConfigError(
            f"{backend} takes a model in fp32, not in {model.dtype_override}",
            remedy=f"use model.dtype_override=fp32; {computes}",
        )
