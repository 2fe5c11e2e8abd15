"""Which weights become how many bits, decided from shapes before anything is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from attrs import frozen
from torch import nn

from llmx.config import QuantizationOptions
from llmx.config.checks import LOW_BIT_QMODE
from llmx.errors import ConfigError

DEFAULT_GROUP = 32
HEAD = "head"
ROW_BITS = 8
"""At this width of integers one scale per row is enough, and what most kernels take."""

Activations = Literal["int8", "float"]
MODES: Mapping[str, tuple[int, Activations]] = {
    "8da4w": (4, "int8"),
    "8da8w": (8, "int8"),
    "int8": (8, "float"),
    "4w": (4, "float"),
}


@frozen
class Scheme:
    """Integer weights of ``bits`` bits with one scale per ``group`` input channels of a row.

    ``activations``: what a linear layer multiplies them with, its input as it is or rounded to
    int8 per token while running; of no meaning for embeddings.
    """

    bits: int
    group: int
    activations: Activations = "int8"


def mode_of(qmode: str) -> tuple[int, Activations]:
    """Bits of a weight, and what it is multiplied with, in a ``quantization.qmode``."""
    match = LOW_BIT_QMODE.fullmatch(qmode)
    if match is not None:
        return int(match[2]), "int8" if match[1] == "8da" else "float"
    return MODES[qmode]


def plan_quantization(
    model: nn.Module,
    options: QuantizationOptions,
    *,
    group_multiple: int,
    shared: Mapping[str, str] | None = None,
) -> Mapping[str, Scheme]:
    """The scheme of every linear and embedding to quantize, by module name.

    A layer whose width the wanted group does not divide gets the largest group that does, and
    8-bit rows where the kernels take no group of it: no layer is left out.

    Args:
        model: may be on the meta device; only shapes are looked at.
        options: ``qmode``, ``group_size`` and the formats of embedding and head are honoured or
            refused.
        group_multiple: groups of less than 8 bits must be a multiple of this in linear layers.
        shared: embedding to the linear that takes the very same integers.

    Raises:
        ConfigError: a group size that no layer can have on these kernels.
    """
    mode = None if options.qmode is None else mode_of(options.qmode)
    sharing = {head: embedding for embedding, head in (shared or {}).items()}
    schemes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name in sharing:
            activations: Activations = "int8" if mode is None else mode[1]
            bits, group = _format(options.embedding_quantize)
            schemes[name] = _linear_scheme(
                module.in_features, bits, activations, group, group_multiple
            )
        elif name == HEAD and isinstance(module, nn.Linear) and options.head_quantize and mode:
            bits, group = _format(options.head_quantize)
            schemes[name] = _linear_scheme(module.in_features, bits, mode[1], group, group_multiple)
        elif isinstance(module, nn.Linear) and mode is not None:
            _check_multiple(options.group_size, mode[0], group_multiple)
            schemes[name] = _linear_scheme(
                module.in_features, *mode, options.group_size, group_multiple
            )
        elif isinstance(module, nn.Embedding) and options.embedding_quantize is not None:
            bits, group = _format(options.embedding_quantize)
            width = module.embedding_dim
            # Codes are packed into bytes: a group of 4 bits is even.
            fitting = _dividing(width, group or width, 8 // bits)
            if fitting is None:
                raise ConfigError(
                    f"{name} is {width} wide: codes of {bits} bits do not fill its bytes",
                    remedy="use quantization.embedding_quantize=8,0",
                )
            schemes[name] = Scheme(bits, fitting)
    for head, embedding in sharing.items():
        # One table: what the linear's kernels take decides.
        schemes[embedding] = schemes[head]
    return schemes


def planning_notes(
    model: nn.Module,
    options: QuantizationOptions,
    schemes: Mapping[str, Scheme],
    shared: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Where a layer did not get what the options say, for people to know."""
    changed: Counter[tuple[str, int, Scheme]] = Counter()
    for name, scheme in schemes.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            bits, group = _format(options.embedding_quantize)
            width = module.embedding_dim
            setting = f"quantization.embedding_quantize={options.embedding_quantize}"
        elif name == HEAD and options.head_quantize is not None:
            assert isinstance(module, nn.Linear)
            bits, group = _format(options.head_quantize)
            width = module.in_features
            setting = f"quantization.head_quantize={options.head_quantize}"
        elif options.qmode is not None and name not in (shared or {}).values():
            assert isinstance(module, nn.Linear)
            bits, width = mode_of(options.qmode)[0], module.in_features
            group = scheme.group if options.group_size is None else options.group_size
            setting = f"quantization.qmode={options.qmode}"
            if options.group_size is not None:
                setting = f"quantization.group_size={options.group_size}"
        else:
            continue
        if (scheme.bits, scheme.group) != (bits, group or width):
            changed[setting, width, scheme] += 1
    for (setting, width, scheme), count in changed.items():
        layers = "1 layer" if count == 1 else f"{count} layers"
        yield (
            f"{setting} does not fit {layers} of width {width}: "
            f"{scheme.bits} bits in groups of {scheme.group} there"
        )


def _linear_scheme(
    width: int, bits: int, activations: Activations, wanted: int | None, multiple: int
) -> Scheme:
    if wanted is None:
        wanted = width if bits == ROW_BITS else DEFAULT_GROUP
    if bits == ROW_BITS:
        return Scheme(bits, _dividing(width, wanted or width, 1) or width, activations)
    group = _dividing(width, wanted or width, multiple)
    if group is None:
        return Scheme(ROW_BITS, width, activations)
    return Scheme(bits, group, activations)


def _dividing(width: int, wanted: int, multiple: int) -> int | None:
    """The largest group up to ``wanted`` that divides ``width``; ``None`` where none does."""
    fitting = (each for each in range(multiple, wanted + 1, multiple) if width % each == 0)
    return max(fitting, default=None)


def _format(text: str | None) -> tuple[int, int]:
    """Bits and group of ``embedding_quantize`` or ``head_quantize``; group 0 is the whole row."""
    assert text is not None
    bits, group = text.removeprefix("torchao:").split(",")
    return int(bits), int(group)


def _check_multiple(wanted: int | None, bits: int, multiple: int) -> None:
    if wanted and bits < ROW_BITS and wanted % multiple:
        raise ConfigError(
            f"quantization.group_size={wanted}: the kernels take groups of {multiple} channels and "
            "multiples of it",
            remedy=f"use {multiple} or {2 * multiple}, or leave the group size out",
        )
