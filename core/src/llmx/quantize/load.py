"""Fill a meta-device model with weights, one tensor at a time, quantizing as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from attrs import define, evolve, field
from torch import Tensor, nn

from llmx.checkpoint import IntegerWeight
from llmx.model.ops import ModelOps
from llmx.parallel import map_parallel, row_blocks
from llmx.quantize.account import WeightRecord, relative_error
from llmx.quantize.calibrated import CalibratedLayers, Calibration
from llmx.quantize.codes import Codes, Rounding
from llmx.quantize.embedding import QuantizedEmbedding
from llmx.quantize.imported import ALL_IMPORTS, ImportRules, import_module
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import half_a_step_beyond


def load_weights(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor | IntegerWeight]],
    schemes: Mapping[str, Scheme],
    *,
    ops: ModelOps,
    dtype: torch.dtype,
    tied: Mapping[str, str],
    rounding: Rounding,
    shared: Mapping[str, str] | None = None,
    imports: ImportRules = ALL_IMPORTS,
    calibration: Calibration | None = None,
) -> Iterator[WeightRecord]:
    """Assign each (parameter name, tensor); quantize a module once it has all its parameters.

    Lazy: the next tensor is read when the next record is asked for, and the float form of a
    quantized weight is dropped before that.

    Args:
        model: parameters on the meta device.
        tensors: every parameter except tied ones, shapes already checked.
        schemes: modules to quantize; the others keep ``dtype``.
        ops: the forms that quantized weights take.
        dtype: float type of what is not quantized.
        tied: parameter name to the further one that takes the same values.
        rounding: how linear layers are rounded.
        shared: embedding to the linear layer that takes the same integers, by module name.
        imports: which integers of the checkpoint stay as they are; the others are expanded and
            treated like floats.
        calibration: texts for which linear layers are rounded, a whole layer at a time.
    """
    quantizer = _Quantizer(model, schemes, ops, dtype, rounding, shared or {}, imports)
    steps = quantizer if calibration is None else CalibratedLayers(model, quantizer, calibration)
    integers: dict[str, IntegerWeight] = {}
    waiting = {
        name: {key for key, _ in module.named_parameters(recurse=False)}
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    for source, tensor in tensors:
        for name in (source, tied[source]) if source in tied else (source,):
            owner, _, key = name.rpartition(".")
            module = model.get_submodule(owner)
            if isinstance(tensor, IntegerWeight):
                integers[owner] = tensor
            else:
                setattr(module, key, nn.Parameter(steps.held(owner, tensor), requires_grad=False))
            waiting[owner].remove(key)
            if waiting[owner]:
                continue
            del waiting[owner]
            stored = integers.pop(owner, None)
            kept = None if stored is None else quantizer.keep(owner, module, stored)
            if kept is not None:
                yield kept
            yield from steps.take(owner, module, finished=kept is not None)
    if waiting:
        raise AssertionError(f"no weights came for {sorted(waiting)}")
    yield from steps.end()


@define
class _Quantizer:
    model: nn.Module
    schemes: Mapping[str, Scheme]
    ops: ModelOps
    dtype: torch.dtype
    rounding: Rounding
    shared: Mapping[str, str]
    imports: ImportRules
    tables: dict[str, tuple[str, Codes]] = field(factory=dict)
    """By the linear layer that takes it too: a shared table, and the embedding that has it."""

    expanded: dict[str, tuple[str, str]] = field(factory=dict)
    """Integers of the checkpoint that became floats, by module: their format, and why."""

    def held(self, name: str, tensor: Tensor) -> Tensor:
        """The form in which a parameter of this module waits for the others."""
        if name in self.schemes and tensor.dtype.itemsize < self.dtype.itemsize:
            # Rounding widens some rows at a time: the whole of a large table would not fit.
            return tensor
        return self.widened(tensor)

    def widened(self, tensor: Tensor) -> Tensor:
        """In the model's float type, contiguous: a slice would keep the whole of a fused tensor."""
        return tensor.to(self.dtype).contiguous()

    def take(self, name: str, module: nn.Module, *, finished: bool) -> Iterator[WeightRecord]:
        """A module has its weights: finish it right away."""
        if not finished:
            yield self.finish(name, module)

    def end(self) -> Iterator[WeightRecord]:
        """All weights have arrived."""
        yield from ()

    def keep(self, name: str, module: nn.Module, stored: IntegerWeight) -> WeightRecord | None:
        """Keep the checkpoint's integers, or expand them, to go on as with any other weight."""
        obstacle = self.imports.obstacle(module, stored, self.schemes.get(name))
        if name in self.shared or name in self.tables:
            obstacle = "embedding and head are to share one table"
        if obstacle is None:
            return import_module(self.model, name, stored, self.ops.quantized_linear, self.dtype)
        module.weight = nn.Parameter(self._expand(stored), requires_grad=False)
        self.expanded[name] = stored.stored, obstacle
        return None

    def _expand(self, stored: IntegerWeight) -> Tensor:
        values = torch.empty(stored.shape, dtype=self.dtype)

        def fill(rows: slice) -> None:
            values[rows] = stored[rows].dequantize()

        map_parallel(fill, row_blocks(stored.shape))
        return values

    def finish(
        self,
        name: str,
        module: nn.Module,
        codes: Codes | None = None,
        output_error: float | None = None,
    ) -> WeightRecord:
        """Quantize a module that has its weights, if it is to be, and account for it.

        ``codes``: how it was rounded already, and the relative error of its output.
        """
        record = self._finish(name, module, codes)
        stored, obstacle = self.expanded.pop(name, (None, None))
        return evolve(record, stored=stored, obstacle=obstacle, output_error=output_error)

    def _finish(self, name: str, module: nn.Module, codes: Codes | None) -> WeightRecord:
        scheme = self.schemes.get(name)
        elements = sum(each.numel() for each in module.parameters(recurse=False))
        if scheme is None or not isinstance(module, nn.Linear | nn.Embedding):
            return WeightRecord(
                name=name,
                kind=_kind(module),
                elements=elements,
                bits=self.dtype.itemsize * 8,
                group=None,
                stored_bytes=elements * self.dtype.itemsize,
            )
        original = module.weight.detach()
        shares, table = self.tables.pop(name, (None, None))
        codes = table or codes
        if codes is None:
            codes = self._round(name, module, original, scheme)
        quantized = self._install(name, module, codes)
        self.model.set_submodule(name, quantized)
        bias = getattr(module, "bias", None)
        return WeightRecord(
            name=name,
            kind=_kind(module),
            elements=elements,
            bits=scheme.bits,
            group=scheme.group,
            stored_bytes=_stored_bytes(quantized, codes, shared=shares is not None)
            + (0 if bias is None else bias.numel() * self.dtype.itemsize),
            error=relative_error(original, codes.dequantize),
            shares=shares,
        )

    def _round(
        self, name: str, module: nn.Linear | nn.Embedding, weight: Tensor, scheme: Scheme
    ) -> Codes:
        if name in self.shared:
            # The linear layer is the more sensitive of the two: it decides how to round.
            codes = self.rounding(weight, scheme)
            self.tables[self.shared[name]] = name, codes
            return codes
        if isinstance(module, nn.Embedding):
            return half_a_step_beyond(weight, scheme)
        return self.rounding(weight, scheme)

    def _install(self, name: str, module: nn.Linear | nn.Embedding, codes: Codes) -> nn.Module:
        # The floats are done with; what takes their place asks for their shape and type only.
        without = torch.empty(module.weight.shape, dtype=self.dtype, device="meta")
        module.weight = nn.Parameter(without, requires_grad=False)
        if isinstance(module, nn.Linear):
            return self.ops.quantized_linear(module, codes)
        if name in self.shared:
            return self.ops.shared_table(codes, self.dtype)
        return self.ops.quantized_embedding(codes, self.dtype)


def _kind(module: nn.Module) -> Literal["linear", "embedding", "other"]:
    if isinstance(module, nn.Linear):
        return "linear"
    return "embedding" if isinstance(module, nn.Embedding) else "other"


def _stored_bytes(quantized: nn.Module, codes: Codes, *, shared: bool) -> int:
    """Bytes of integers and scales in a program; ``shared``: those that the table lacks."""
    looked_up = any(isinstance(each, QuantizedEmbedding) for each in quantized.modules())
    scale_bytes = 4 if looked_up else codes.scales.element_size()
    scales = codes.scales.numel() * scale_bytes
    if shared:
        return 0 if scale_bytes == 4 else scales
    return codes.values.numel() * codes.scheme.bits // 8 + scales
