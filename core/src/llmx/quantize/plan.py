"""Which weights become how many bits, decided from shapes before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen
from torch import nn

from llmx.config import QuantizationOptions
from llmx.errors import ConfigError

LINEAR_BITS = {"8da4w": 4}
INT8_ACTIVATION_MODES = frozenset({"8da4w"})
DEFAULT_GROUP = 32


@frozen
class Scheme:
    """Integer weights of ``bits`` bits with one scale per ``group`` input channels of a row."""

    bits: int
    group: int


def plan_quantization(
    model: nn.Module, options: QuantizationOptions, *, group_multiple: int
) -> Mapping[str, Scheme]:
    """The scheme of every linear and embedding to quantize, by module name.

    Args:
        model: may be on the meta device; only shapes are looked at.
        options: ``qmode``, ``group_size`` and ``embedding_quantize`` are honoured or refused.
        group_multiple: the backend's kernels want groups to be a multiple of this.

    Raises:
        ConfigError: a group size that does not divide a layer's width, naming the layer.
    """
    schemes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and options.qmode is not None:
            group = _linear_group(name, module.in_features, options.group_size, group_multiple)
            schemes[name] = Scheme(LINEAR_BITS[options.qmode], group)
        if isinstance(module, nn.Embedding) and options.embedding_quantize is not None:
            schemes[name] = _embedding_scheme(name, module, options.embedding_quantize)
    return schemes


def _linear_group(name: str, width: int, wanted: int | None, multiple: int) -> int:
    if wanted is None:
        # Whole rows where nothing smaller fits: coarser, but every layer is quantized.
        fitting = _fitting_groups(width, multiple)
        return max((each for each in fitting if each <= DEFAULT_GROUP), default=width)
    if width % wanted or (wanted % multiple and wanted != width):
        raise _refused_group(f"quantization.group_size={wanted}", name, width, multiple)
    return wanted


def _embedding_scheme(name: str, module: nn.Embedding, text: str) -> Scheme:
    bits, group = (int(part) for part in text.split(","))
    width = module.embedding_dim
    if group == 0:
        return Scheme(bits, width)
    if width % group:
        raise _refused_group(f"quantization.embedding_quantize={text}", name, width, 2)
    return Scheme(bits, group)


def _fitting_groups(width: int, multiple: int) -> list[int]:
    return [each for each in range(multiple, width + 1, multiple) if width % each == 0]


def _refused_group(setting: str, name: str, width: int, multiple: int) -> ConfigError:
    usable = [str(each) for each in _fitting_groups(width, max(multiple, 8)) if each <= 256]
    return ConfigError(
        f"{setting} does not fit {name}, which is {width} wide",
        remedy=f"use {' or '.join(usable)}" if usable else "leave the group size out",
    )
