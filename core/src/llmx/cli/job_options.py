"""The options that describe a job, shared by the commands that take one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import field, frozen

from llmx.cli.backend_flags import split_words
from llmx.config.loading import ResolvedJob, load_job

F = TypeVar("F", bound=Callable[..., Any])

# Option name, dotted key, click type, help.
_VALUES: tuple[tuple[tuple[str, ...], str, Any, str], ...] = (
    (("--size",), "base.size", str, "Published size, e.g. 135m."),
    (("--checkpoint",), "base.checkpoint", str, "Path or hub id of the weights."),
    (("--revision",), "base.revision", str, "Branch, tag or commit of a hub download."),
    (("--params",), "base.params", str, "JSON file with the model's parameters."),
    (("--adapter",), "base.lora_config", str, "LoRA adapter to merge, as PEFT saves it."),
    (("--tokenizer",), "base.tokenizer_path", str, "Tokenizer file."),
    (("--metadata",), "base.metadata", str, "Constant methods to add, as JSON."),
    (("--backend",), "backend", str, "Backend that lowers the model, or none."),
    (("--dtype",), "model.dtype_override", click.Choice(("fp32", "fp16", "bf16")), "Float type."),
    (("--group-size",), "quantization.group_size", int, "Weights per quantization scale."),
    (
        ("--embedding-quantize",),
        "quantization.embedding_quantize",
        str,
        "Bits and group of the embedding, e.g. 8,0.",
    ),
    (
        ("--method",),
        "quantization.method",
        click.Choice(("auto", "rounding", "hqq", "search", "gptq")),
        "How linear layers are rounded.",
    ),
    (("--calibration",), "quantization.calibration_file", str, "Text to round for with gptq."),
    (("--bits",), "quantization.bits", float, "Average bits per weight, spent where they help."),
    (("--target-size",), "quantization.target_size", str, "Size of the program, e.g. 80MB."),
    (("--max-seq-length",), "export.max_seq_length", int, "Longest input of one call, in tokens."),
    (("--max-context-length",), "export.max_context_length", int, "KV cache length, in tokens."),
    (("-o", "--output"), "export.output_dir", str, "Folder to write to."),
)
_SWITCHES = (
    ("--random-weights", "base.random_weights", "Export untrained weights."),
    ("--shared-embedding", "model.use_shared_embedding", "One table for embedding and head."),
    ("--verbose", "debug.verbose", "Show every weight, and which operators were delegated."),
    ("--report", "debug.report", "Write report.html, a page about the export."),
)
_DENIALS = (
    ("--no-replicate", "export.replicate_layers", "Lower every layer by itself; takes minutes."),
)
QUANTIZE: dict[str, dict[str, Any]] = {
    "none": {
        "quantization.qmode": None,
        "quantization.embedding_quantize": None,
        "quantization.group_size": None,
    },
    **{
        qmode: {
            "quantization.qmode": qmode,
            "quantization.embedding_quantize": embedding,
            "quantization.group_size": None,
        }
        for qmode, embedding in (
            ("8da4w", "4,32"),
            ("8da8w", "8,0"),
            ("int8", "8,0"),
            ("4w", "4,32"),
        )
    },
}
EPILOG = "The selected backend's options are flags too; `llmx backends NAME` lists them."


@frozen
class JobArguments:
    """What the command line says about a job."""

    family: str | None
    config: Path | None
    recipe: str | None
    settings: dict[str, Any] = field(factory=dict)
    overrides: tuple[str, ...] = ()

    def resolve(self) -> ResolvedJob:
        """The job and its plugins; see :func:`llmx.config.load_job` for the errors."""
        return load_job(
            family=self.family,
            config=self.config,
            recipe=self.recipe,
            settings=self.settings,
            overrides=self.overrides,
        )


def job_options(function: F) -> F:
    """Add the options to a command; its function gets them as one ``JobArguments``, ``job``.

    The command needs ``context_settings=JOB_CONTEXT``.
    """

    def collect(**values: Any) -> Any:
        given = {name: value for name, value in values.items() if name not in _PARAMETERS}
        return function(job=_arguments(values), **given)

    collect.__name__, collect.__doc__ = function.__name__, function.__doc__
    collect.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for decorate in reversed(_decorators()):
        collect = decorate(collect)
    return collect  # type: ignore[return-value]


JOB_CONTEXT = {"ignore_unknown_options": True}


def _parameter(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


_PARAMETERS = {
    *(_parameter(names[-1]) for names, *_ in _VALUES),
    *(_parameter(name) for name, *_ in (*_SWITCHES, *_DENIALS)),
    "words",
    "config",
    "recipe",
    "quantize",
}


def _decorators() -> list[Callable[[Any], Any]]:
    made: list[Callable[[Any], Any]] = [
        click.argument(
            "words", nargs=-1, type=click.UNPROCESSED, metavar="[FAMILY] [KEY=VALUE]..."
        ),
        click.option("--config", type=click.Path(path_type=Path), help="YAML file of options."),
        click.option("--recipe", help="Named starting point of the backend."),
        click.option("--quantize", type=click.Choice(tuple(QUANTIZE)), help="Short for the group."),
    ]
    made += [click.option(*names, type=kind, help=text) for names, _, kind, text in _VALUES]
    switches = (*_SWITCHES, *_DENIALS)
    made += [click.option(name, is_flag=True, help=text) for name, _, text in switches]
    return made


def _arguments(values: dict[str, Any]) -> JobArguments:
    settings: dict[str, Any] = {}
    if values["quantize"] is not None:
        settings |= QUANTIZE[values["quantize"]]
    for names, key, _, _ in _VALUES:
        value = values[_parameter(names[-1])]
        if value is not None:
            settings[key] = value
    for name, key, _ in _SWITCHES:
        if values[_parameter(name)]:
            settings[key] = True
    for name, key, _ in _DENIALS:
        if values[_parameter(name)]:
            settings[key] = False
    command = click.get_current_context().command
    words = split_words(
        values["words"],
        config=values["config"],
        settings=settings,
        known_flags=[flag for each in command.params for flag in each.opts],
    )
    return JobArguments(
        family=words.family,
        config=values["config"],
        recipe=values["recipe"],
        settings=settings,
        overrides=words.overrides,
    )
