"""Copies of partitions that XNNPACK may change, without copies of their weights.

ExecuTorch copies all partitions before the first is lowered; with the weights, that would need as
much memory as the program. ``tests/backends/test_xnnpack_internals.py`` fails once it copies them
in another way.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir.backend.compile_spec_schema import CompileSpec
from torch import Tensor, nn
from torch.export import ExportedProgram


def share_weights() -> None:
    """Have ExecuTorch make such copies; this is its way for a backend to say so."""
    XnnpackBackend.copy_exported_program_for_preprocess = classmethod(_copied_without_weights)


def _copied_without_weights(
    cls: type, edge_program: ExportedProgram, compile_specs: Sequence[CompileSpec]
) -> ExportedProgram:
    weights = (*edge_program.state_dict.values(), *edge_program.constants.values())
    shared = {id(each): each for each in weights if _is_whole(each)}
    copied: ExportedProgram = copy.deepcopy(edge_program, shared)
    return copied


def _is_whole(weight: object) -> bool:
    """Whether its memory holds nothing else: XNNPACK writes that of a weight from its beginning to
    its end."""
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return False
    return (
        weight.is_contiguous()
        and weight.untyped_storage().nbytes() == weight.numel() * weight.itemsize
    )
