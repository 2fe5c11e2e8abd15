"""How much memory an export will need, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen
from torch import nn

from llmx.errors import UserError
from llmx.lower.template import IrregularError, template_of
from llmx.memory import available_memory

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.lower.build import Blueprint

GIGA = 1e9
PROGRAMS = 800_000_000
"""Interpreter, PyTorch, ExecuTorch and its graphs, whatever the model."""
FLOAT_BYTES, SCALE_BYTES = 4, 4
ROUNDING_BYTES = 6
"""For each weight that is rounded: its form in the checkpoint, its code, and the same packed."""
CALIBRATING_BYTES = 32
"""For each weight of a layer that is rounded for texts: floats, and how its inputs go together."""
WIDENING_BYTES = 12
"""For each weight that stays a float: its form in the checkpoint and the one in the model."""
LOWERING_BYTES = 2
"""For each byte of the layers that are lowered: payload, and what the backend makes of it."""
GRAPH_BYTES = 20_000_000
"""For each layer that is lowered, whatever its weights."""
KERNEL_SHARE = 1.2
"""What kernels make of a program's weights when it is loaded, to the weights themselves."""


class MemoryShortageError(UserError):
    """The export needs more memory than there is."""


@frozen
class Forecast:
    """Resident bytes of the process, which needs ``fixed`` all the time and no two of ``work``
    at once."""

    fixed: int
    work: Mapping[str, int]

    @property
    def peak(self) -> int:
        """At the worst moment."""
        return self.fixed + max(self.work.values())

    @property
    def worst(self) -> str:
        """What needs the most."""
        return max(self.work, key=lambda name: self.work[name])


MemoryRule = Callable[[Forecast], None]


def forecast(blueprint: Blueprint, job: ExportJob) -> Forecast:
    """From shapes and schemes alone; meant as an upper bound.

    Weights are on disk except where something is done with them.
    """
    model = blueprint.model
    caches = sum(each.nbytes for each in model.buffers() if not each.is_meta)
    rounding = max(
        (_rounding_bytes(blueprint, job, name, each) for name, each in model.named_modules()),
        default=0,
    )
    packed, _ = _stored(blueprint, model)
    work = {
        "rounding the largest weight": rounding + caches,
        "lowering": _lowering_bytes(blueprint, job),
        "trying the program": int(KERNEL_SHARE * packed) + 2 * caches,
    }
    return Forecast(PROGRAMS, work)


def _rounding_bytes(blueprint: Blueprint, job: ExportJob, name: str, module: nn.Module) -> int:
    elements = sum(each.numel() for each in module.parameters(recurse=False))
    if name not in blueprint.schemes:
        return WIDENING_BYTES * elements
    texts = job.quantization.method == "gptq" and not job.base.random_weights
    calibrated = texts and name.startswith("layers.")
    return (CALIBRATING_BYTES if calibrated else ROUNDING_BYTES) * elements


def _stored(blueprint: Blueprint, model: nn.Module, prefix: str = "") -> tuple[int, int]:
    """Bytes of a part's weights as a program has them, and as the eager model has them."""
    packed = held = 0
    for name, module in model.named_modules(prefix=prefix):
        elements = sum(each.numel() for each in module.parameters(recurse=False))
        scheme = blueprint.schemes.get(name)
        if scheme is None:
            packed += elements * blueprint.dtype.itemsize
            held += elements * blueprint.dtype.itemsize
        else:
            scales = elements // scheme.group * SCALE_BYTES
            packed += elements * scheme.bits // 8 + scales
            held += elements + scales
    return packed, held


def _lowering_bytes(blueprint: Blueprint, job: ExportJob) -> int:
    """For what is lowered: all, or the ends of the model and the template's layers."""
    model = blueprint.model
    _, held = _stored(blueprint, model)
    layers: Any = getattr(model, "layers", ())
    lowered = _template(model, job) or range(len(layers))
    held -= sum(
        _stored(blueprint, each, f"layers.{at}")[1]
        for at, each in enumerate(layers)
        if at not in lowered
    )
    return LOWERING_BYTES * held + GRAPH_BYTES * len(lowered)


def _template(model: nn.Module, job: ExportJob) -> Sequence[int] | None:
    """Numbers of the layers that are lowered for all; ``None`` where each is by itself."""
    if not job.export.replicate_layers or job.quantization.pt2e_quantize is not None:
        return None
    try:
        template = template_of(model)
    except IrregularError:
        return None
    return None if template is None else template.chosen


def forecast_in_float(blueprint: Blueprint) -> Forecast:
    """Of passing forward and back through the model in fp32, changed weights beside it."""
    shapes = blueprint.shapes.values()
    elements = sum(math.prod(shape) for shape in shapes)
    largest = max(math.prod(shape) for shape in shapes)
    needed = 2 * FLOAT_BYTES * elements + WIDENING_BYTES * largest
    return Forecast(PROGRAMS, {"measuring how sensitive its layers are": needed})


def require_memory(expected: Forecast) -> None:
    """Refuse to begin what cannot end.

    Raises:
        MemoryShortageError: the forecast exceeds what is available.
    """
    available = available_memory()
    if available is not None and expected.peak > available:
        raise MemoryShortageError(
            f"the export needs about {expected.peak / GIGA:.1f} GB of memory at its peak "
            f"(for {expected.worst}), and {available / GIGA:.1f} GB are available",
            remedy="close other programs, choose a smaller model or fewer bits, "
            "or try all the same with --force",
        )


def ignore_shortage(expected: Forecast) -> None:
    """Begin whatever the forecast says."""
