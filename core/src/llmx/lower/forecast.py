"""How much memory an export will need, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from llmx.errors import UserError
from llmx.memory import available_memory

if TYPE_CHECKING:
    from llmx.lower.build import Blueprint

GIGA = 1e9
PROGRAMS = 800_000_000
"""Interpreter, PyTorch, ExecuTorch and its graphs, whatever the model."""
ROUNDING_COPIES = 8
"""fp32 copies of a weight that exist while its scales are refined."""
FLOAT_COPIES = 3
FLOAT_BYTES, SCALE_BYTES = 4, 4


class MemoryShortageError(UserError):
    """The export needs more memory than there is."""


@frozen
class Forecast:
    """Bytes at the peak of an export, by what needs them.

    Attributes:
        fixed: what every export needs.
        model: the eager model, once quantized; its caches included.
        working: the most that one stage needs beside it: rounding the largest weight, or holding
            the packed weights twice while they are written and again while the program is tried.
    """

    fixed: int
    model: int
    working: int

    @property
    def peak(self) -> int:
        """Resident bytes of the process at its peak."""
        return self.fixed + self.model + self.working


MemoryRule = Callable[[Forecast], None]


def forecast(blueprint: Blueprint) -> Forecast:
    """From shapes and schemes alone; meant as an upper bound."""
    held = packed = largest = 0
    for name, module in blueprint.model.named_modules():
        elements = sum(each.numel() for each in module.parameters(recurse=False))
        if not elements:
            continue
        scheme = blueprint.schemes.get(name)
        if scheme is None:
            stored = elements * blueprint.dtype.itemsize
            held, packed = held + stored, packed + stored
            largest = max(largest, FLOAT_COPIES * FLOAT_BYTES * elements)
        else:
            scales = elements // scheme.group * SCALE_BYTES
            held += elements + scales
            packed += elements * scheme.bits // 8 + scales
            largest = max(largest, ROUNDING_COPIES * FLOAT_BYTES * elements)
    caches = sum(each.nbytes for each in blueprint.model.buffers() if not each.is_meta)
    # The program has caches of its own while it is tried.
    return Forecast(PROGRAMS, held + caches, max(largest, 2 * packed + caches))


def forecast_in_float(blueprint: Blueprint) -> Forecast:
    """Of passing forward and back through the model in fp32, changed weights beside it."""
    shapes = blueprint.shapes.values()
    elements = sum(math.prod(shape) for shape in shapes)
    largest = max(math.prod(shape) for shape in shapes)
    return Forecast(PROGRAMS, 2 * FLOAT_BYTES * elements, FLOAT_COPIES * FLOAT_BYTES * largest)


def require_memory(expected: Forecast) -> None:
    """Refuse to begin what cannot end.

    Raises:
        MemoryShortageError: the forecast exceeds what is available.
    """
    available = available_memory()
    if available is not None and expected.peak > available:
        raise MemoryShortageError(
            f"the export needs about {expected.peak / GIGA:.1f} GB of memory at its peak "
            f"({expected.model / GIGA:.1f} GB for the model, {expected.working / GIGA:.1f} GB to "
            f"work with it), and {available / GIGA:.1f} GB are available",
            remedy="close other programs, choose a smaller model or fewer bits, "
            "or try all the same with --force",
        )


def ignore_shortage(expected: Forecast) -> None:
    """Begin whatever the forecast says."""
