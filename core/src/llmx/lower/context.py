"""How many tokens a program takes, in one call and altogether."""

from __future__ import annotations

import attrs

from llmx.config import ExportJob
from llmx.config.context_checks import SINK_KEY, WINDOWS_KEY, attention_sinks
from llmx.config.methods import KEY as METHODS
from llmx.config.methods import prefill_of
from llmx.errors import ConfigError
from llmx.model.params import DecoderParams, LongRope, Sinks

AUTOMATIC_CONTEXT = 2048
# Days of talk; runners want a number.
ENDLESS_CONTEXT = 1 << 20
# Memory is planned for the longest call, and longer prompts take several, which is no slower.
AUTOMATIC_CALL = 256
# A ring has slots for its window and for one call, so a long call would make it pointless.
SHORT_CALL = 64


def resolve_lengths(job: ExportJob, params: DecoderParams) -> ExportJob:
    """The job with its automatic lengths filled in, in tokens.

    Raises:
        ConfigError: a context longer than the model was made for, or windows that do not fit it.
    """
    lengths, sinks = job.export, attention_sinks(job.model)
    context = lengths.max_context_length
    if sinks is not None:
        _check_sinks(sinks, params)
        context = context or ENDLESS_CONTEXT
    else:
        context = context or min(AUTOMATIC_CONTEXT, params.max_position)
        if context > params.max_position:
            raise ConfigError(
                f"export.max_context_length={context} is more than the {params.max_position} "
                "tokens that the model was made for",
                remedy=f"use at most {params.max_position}, or endless texts by "
                f"{SINK_KEY}=4,{min(AUTOMATIC_CONTEXT, params.max_position) - 4}",
            )
    prefill = prefill_of(job.multimethod.methods)
    if prefill is not None and (prefill.export_seq_len or 1) >= context:
        raise ConfigError(
            f"{METHODS}.export_seq_len of {prefill.method_name} is {prefill.export_seq_len}, which "
            f"leaves no room in a context of {context} tokens",
            remedy="use fewer tokens, or a longer export.max_context_length",
        )
    windows = _windows(job, params)
    sequence = lengths.max_seq_length
    if sequence is None:
        shortest = min((each for each in windows if each), default=context)
        in_pieces = job.model.use_kv_cache and job.model.enable_dynamic_shape
        longest = min(context, AUTOMATIC_CALL) if in_pieces else context
        sequence = longest if shortest + SHORT_CALL > context else SHORT_CALL
    resolved = attrs.evolve(lengths, max_context_length=context, max_seq_length=sequence)
    return attrs.evolve(job, export=resolved)


def _check_sinks(sinks: Sinks, params: DecoderParams) -> None:
    own = [params.layer_window(layer) for layer in range(params.n_layers)]
    limit = min((each for each in own if each is not None), default=params.max_position)
    if sinks.tokens > limit:
        raise ConfigError(
            f"{SINK_KEY} {sinks.sinks},{sinks.window} makes {sinks.tokens} tokens, "
            f"more than the {limit} that the model attends to",
            remedy=f"use {SINK_KEY}={sinks.sinks},{limit - sinks.sinks}",
        )


def _windows(job: ExportJob, params: DecoderParams) -> list[int | None]:
    """Tokens that layers attend to, in no order; ``None`` or 0 if all."""
    sinks, pattern = attention_sinks(job.model), job.model.local_global_attention or []
    if sinks is not None:
        return [sinks.window]
    if pattern and params.n_layers % len(pattern):
        raise ConfigError(
            f"{WINDOWS_KEY} has {len(pattern)} windows, which {params.n_layers} layers are no "
            "multiple of",
            remedy="give as many as there are layers, or a pattern that repeats evenly",
        )
    return [*pattern, *(params.layer_window(layer) for layer in range(params.n_layers))]


def context_notes(job: ExportJob, params: DecoderParams) -> list[str]:
    """What the chosen context length decides about the model, for people to know.

    A program has one set of rotary factors, where the reference switches with the text's length.
    """
    context, scaling = job.export.max_context_length, params.rope_scaling
    sinks = attention_sinks(job.model)
    assert context is not None
    span = context if sinks is None else sinks.tokens
    if not isinstance(scaling, LongRope) or span <= scaling.original_max_position:
        return []
    return [
        f"a context of {span} tokens takes the rotary factors for long texts, also for texts "
        f"of up to {scaling.original_max_position}"
    ]
