"""The export job's options: one field per key, with ExecuTorch's ``LlmConfig`` names.

Field names, meanings and defaults are those of ``executorch.extension.llm.export.config``, so that
its YAML files load here. An ``unsupported`` option is accepted at its default only.
"""

# ruff: noqa: RUF009 -- option() is attrs.field() with metadata
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import field, frozen

from llmx.config.adapter import Adapter, parse_adapter
from llmx.config.checks import check_job
from llmx.config.data_files import parse_data_file
from llmx.config.metadata import Metadata, parse_metadata
from llmx.config.methods import parse_methods

Dtype = Literal["fp32", "fp16", "bf16"]
CLASSIC_LENGTH = 128


def option(
    default: Any,
    doc: str,
    *,
    unsupported: str | None = None,
    converter: Callable[[Any], Any] | None = None,
) -> Any:
    """A field with its one-line meaning, and the reason why it cannot be set yet, if any."""
    metadata = {"doc": doc, "unsupported": unsupported}
    return field(default=default, metadata=metadata, converter=converter)


@frozen(kw_only=True)
class BaseOptions:
    """Which model, and where its parts are."""

    model_class: str = field(metadata={"doc": "Model family, or family and size in one name."})
    size: str | None = option(None, "Published size; none is the family's default.")
    checkpoint: str | None = option(None, "Path or hub id of the weights.")
    revision: str | None = option(None, "Branch, tag or commit of a hub download.")
    params: str | None = option(None, "JSON file with the model's parameters.")
    random_weights: bool = option(False, "Export untrained weights, to try a pipeline out.")
    tokenizer_path: str | None = option(None, "Tokenizer file; none is the checkpoint's own.")
    metadata: Metadata = option(
        None, "Constant methods to add to the program: JSON text or a mapping.",
        converter=parse_metadata,
    )  # fmt: skip
    lora_config: Adapter | None = option(
        None, "LoRA adapter: a path, or a mapping as in the older tool. It is merged, unless "
        "weights are to have files of their own.",
        converter=parse_adapter,
    )  # fmt: skip
    use_lora: int = option(
        0, "Rank of the adapter in a checkpoint of Meta's integers; 0 is what it has."
    )
    preq_mode: Literal["8da4w", "8da4w_output_8da8w"] | None = option(
        None, "Layers of a checkpoint of Meta's integers; none is the latter."
    )
    preq_group_size: int = option(32, "Group size in such a checkpoint.")
    preq_embedding_quantize: str = option("8,0", "Format of its embedding.")


@frozen(kw_only=True)
class ModelOptions:
    """How the decoder is built."""

    dtype_override: Dtype = option("fp32", "Float type of weights and activations.")
    enable_dynamic_shape: bool = option(True, "Prompts of any length up to max_seq_length.")
    use_kv_cache: bool = option(False, "Keep keys and values of earlier tokens.")
    use_sdpa_with_kv_cache: bool = option(False, "Fused attention over the KV cache.")
    use_shared_embedding: bool = option(
        False, "One quantized table for embedding and head, as embedding_quantize says."
    )
    expand_rope_table: bool = option(
        False, "Rope factors over the whole head dimension; they always are."
    )
    use_attention_sink: str | None = option(
        None, "'<sink>,<window>': endless texts, by their first and their last tokens."
    )
    output_prune_map: str | None = option(
        None, "JSON map from new ids to those of the tokens that the model may say."
    )
    input_prune_map: str | None = option(
        None, "JSON map from new ids to those of the tokens that the model can read."
    )
    quantize_kv_cache: bool = option(False, "Keep the KV cache in int8, scaled per token and head.")
    static_quantize_kv_cache: bool = option(
        False, "Keep the KV cache in int8 with one fixed scale.",
        unsupported="use model.quantize_kv_cache=true, which fits a scale to each token and head; "
        "one for all cuts off whatever exceeds it",
    )  # fmt: skip
    static_quantize_kv_cache_scale: float = option(
        1.0 / 127.0, "That fixed scale.", unsupported="leave it out"
    )
    local_global_attention: list[int] | None = option(
        None, "Sliding window per layer in tokens, repeated as a pattern; 0 is global."
    )
    use_moe_quantized_op: bool = option(
        False, "Fused operator for mixture-of-experts layers.",
        unsupported="leave it out; the decoder is dense",
    )  # fmt: skip


@frozen(kw_only=True)
class ExportOptions:
    """Lengths in tokens, and where the result goes.

    A length of ``None`` is automatic. A context has 2048 tokens, or the model's own limit if that
    is smaller; a call of a program with a KV cache up to 256 of them, or 64 where windows save
    memory. The runner gives longer prompts in several calls.
    """

    max_seq_length: int | None = option(CLASSIC_LENGTH, "Longest input of one call.")
    max_context_length: int | None = option(CLASSIC_LENGTH, "Tokens the model can look back on.")
    output_dir: str | None = option(None, "Folder to write; none is named after the job.")
    output_name: str | None = option(None, "File name of the program.")
    replicate_layers: bool = option(
        True, "Lower equal layers once and repeat them; false lowers each by itself."
    )
    so_library: str | None = option(
        None, "Library of operators to load; those for quantized models are built in."
    )
    export_only: bool = option(
        False, "Stop after torch.export and write model.pt2 instead of a program."
    )
    foundation_weights_file: str | None = option(
        None, "Name of a file beside the program for the model's weights.",
        converter=parse_data_file,
    )  # fmt: skip
    lora_weights_file: str | None = option(
        None, "Name of a file beside the program for the weights of adapters.",
        converter=parse_data_file,
    )  # fmt: skip


@frozen(kw_only=True)
class QuantizationOptions:
    """How weights become small."""

    qmode: str | None = option(
        None, "Linear layers: 8da4w, 8da8w, int8, 4w, torchao:8da<bits>w, torchao:fpa<bits>w."
    )
    group_size: int | None = option(
        None, "Weights per scale, 0 a whole row; none is 32 for few bits, and rows for 8."
    )
    embedding_quantize: str | None = option(
        None,
        "'<bits>,<group size>' of the embedding; group 0 is a whole row. auto is one table of 8,0 "
        "for embedding and head where the model ties them, else 4,32.",
    )
    head_quantize: str | None = option(
        None, "'<bits>,<group size>' of the head, 4 or 8 bits; none is as the other linear layers."
    )
    imported: Literal["auto", "keep", "requantize"] = option(
        "auto",
        "Integers of a quantized checkpoint: kept where kernels hold them in no more bits than "
        "asked for (auto), also at the price of more bytes (keep), or quantized anew (requantize).",
    )
    use_hqq: bool | None = option(
        None, "Scales of linear layers by HQQ if true, by the largest value if false."
    )
    pt2e_quantize: str | None = option(
        None, "Quantizer of the backend, by name: quantizes the graph, calibrated by a text."
    )
    use_spin_quant: Literal["native"] | None = option(
        None, "The checkpoint has Meta's integers, rotated by SpinQuant: they stay as they are."
    )
    use_qat: bool = option(
        False, "The checkpoint has Meta's integers, trained as such: they stay as they are."
    )
    quantize_scope: Literal["full", "linear"] = option(
        "full", "What pt2e quantizes.", unsupported="use quantization.qmode"
    )
    method: Literal["auto", "rounding", "hqq", "search", "gptq"] | None = option(
        None,
        "How linear layers are rounded; none is as use_hqq says, or else search. auto is gptq "
        "where it takes minutes: for up to two billion weights, with a tokenizer.",
    )
    bits: float | None = option(
        None, "Average bits per weight, scales included: layers that need it most get 8 bits."
    )
    extra_bits: float | None = option(
        None,
        "Average bits per weight beyond what the other options take, where neither bits nor "
        "target_size says how many: layers that need it most get 8 bits.",
    )
    target_size: str | None = option(
        None, "Size of the program, e.g. 80MB: layers that need it most get 8 bits."
    )
    calibration_file: str | None = option(
        None, "Text to round for and to measure on; none is the one that comes with llmx."
    )
    calibration_tasks: list[str] | None = option(
        None, "Evaluation tasks to calibrate on.",
        unsupported="use quantization.calibration_file",
    )  # fmt: skip
    calibration_limit: int | None = option(None, "Most pieces of the calibration text.")
    calibration_seq_length: int | None = option(
        None, "Tokens in a piece of the calibration text; none is 256."
    )
    calibration_data: str = option(
        "Once upon a time", "Prompt to calibrate on.",
        unsupported="use quantization.calibration_file",
    )  # fmt: skip

    def __attrs_post_init__(self) -> None:
        # The older tool names the method in the mode.
        mode, _, method = (self.qmode or "").partition("-")
        if method == "gptq" and self.method in (None, "auto", method):
            object.__setattr__(self, "qmode", mode)
            object.__setattr__(self, "method", method)

    @property
    def budget(self) -> str | None:
        """Which option says how many bits there are to spend: an absolute one, if there is any."""
        names = ("bits", "target_size", "extra_bits")
        return next((name for name in names if getattr(self, name) is not None), None)


@frozen(kw_only=True)
class DebugOptions:
    """What to show and keep for people who look inside."""

    generate_full_logits: bool = option(False, "Logits of every token, not of the last only.")
    verbose: bool = option(False, "Show every weight, and which operators were delegated.")
    profile_memory: bool = option(
        False, "Write memory_profile.json: when which tensor is in memory, as a Chrome trace."
    )
    profile_path: str | None = option(
        None, "HTML file with a flame graph of the export; needs llmx-core[profile]."
    )
    report: bool = option(False, "Write report.html, a page about the export, to the artifact.")
    generate_etrecord: bool = option(
        False, "Write etrecord.bin, which links the program to the model's source."
    )


@frozen(kw_only=True)
class MultimethodOptions:
    """Several methods in one program."""

    methods: Sequence[Any] = option(
        (),
        "Methods of the program, each with or without an adapter (method_name, lora_config), or "
        "with calls of a length of its own (export_seq_len).",
        converter=parse_methods,
    )
    share_mutable_buffers: bool = option(
        False,
        "One KV cache for all methods, where the runtime shares its memory among them.",
    )  # fmt: skip


@frozen
class SelectedBackend:
    """The backend that lowers the job, and its own options; no name leaves it to portable kernels.

    ``options`` is an instance of the attrs class that the backend's ``options`` hook gives.
    """

    name: str | None = None
    options: Any = None


@frozen(kw_only=True)
class ExportJob:
    """Everything that decides what is exported.

    Raises:
        ConfigError: options that contradict each other or cannot be honoured.
    """

    base: BaseOptions
    model: ModelOptions = ModelOptions()
    export: ExportOptions = ExportOptions()
    quantization: QuantizationOptions = QuantizationOptions()
    backend: SelectedBackend = SelectedBackend()
    debug: DebugOptions = DebugOptions()
    multimethod: MultimethodOptions = MultimethodOptions()
    recipe: str | None = field(default=None, metadata={"doc": "Named starting point."})

    def __attrs_post_init__(self) -> None:
        check_job(self)

    @classmethod
    def create(
        cls, family: str | None = None, *, config: Path | None = None, **options: Any
    ) -> ExportJob:
        """A job as ``llmx export FAMILY`` would make it.

        Args:
            family: name of an installed family; without one, the checkpoint tells it.
            config: YAML file to start from, instead of the recipe.
            options: by field name (``size="135m"``, ``qmode=None``, ``backend="name"``), or by
                dotted key (``**{"model.use_kv_cache": True}``).

        Raises:
            ConfigError: unknown name, or a value that does not fit.
            PluginError: the family or backend is not installed.
        """
        from llmx.config.loading import load_job, settings_from_names

        settings = settings_from_names(options)
        return load_job(
            family=family, config=config, settings=settings, origin="the arguments of create()"
        ).job

    def to_dict(self) -> dict[str, Any]:
        """All options, nested and JSON-able, in schema order; loading it gives this job again."""
        return {
            each.name: self._backend_dict() if each.name == "backend" else _plain(value)
            for each, value in (
                (each, getattr(self, each.name)) for each in attrs.fields(ExportJob)
            )
        }

    def _backend_dict(self) -> dict[str, Any] | None:
        if self.backend.name is None:
            return None
        return {self.backend.name: _plain(self.backend.options)}


def _plain(value: Any) -> Any:
    """``value`` as JSON types."""
    if attrs.has(type(value)):
        return {each.name: _plain(getattr(value, each.name)) for each in attrs.fields(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
