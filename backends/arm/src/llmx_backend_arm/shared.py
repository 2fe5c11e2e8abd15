"""What Arm's backends have in common: what they refuse, and how the decoder is built for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from llmx import ConfigError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

CYCLES = 'stops with "Invalid partition, found dependency cycles" on decoders'


def check_common(job: ExportJob, backend: str, formats: str) -> None:
    """Refuse what none of Arm's backends takes; ``formats`` is what rounds weights for it.

    Raises:
        ConfigError: with what to use instead.
    """
    from llmx.config.backend_limits import (
        require_fp32,
        require_one_length,
        require_own_formats,
        require_plain_attention,
        require_weights_inside,
    )

    require_own_formats(job, backend, formats)
    require_one_length(job.model, backend)
    require_plain_attention(job.model, backend)
    require_weights_inside(job, backend)
    require_fp32(job.model, backend, "the program computes in what its target has")


def require_float_profile(key: str, profile: str) -> None:
    """Refuse TOSA's profiles of integers.

    Raises:
        ConfigError: ``profile``, which ``key`` gives, has integers.
    """
    words = profile.upper().split("+")
    if "FP" not in words:
        raise ConfigError(
            f"{key}={profile}: ExecuTorch's partitioner {CYCLES} in TOSA's integer profile",
            remedy=f"use {key}=TOSA-1.0+FP",
        )


def integer_ops(job: ExportJob) -> ModelOps:
    """The decoder's parts: nothing infinite, repeated, or computed from distant positions."""
    from torch import nn

    from llmx.model.grouped_attention import GroupedAttention
    from llmx.model.ops import ops_for
    from llmx.model.rope import RotaryTable

    ops = attrs.evolve(ops_for(job), norm=nn.RMSNorm, rotary=RotaryTable, integer_weights=False)
    return attrs.evolve(ops, attention=GroupedAttention) if job.model.use_kv_cache else ops


def without_position_checks(program: ExportedProgram) -> Sequence[Any]:
    """No passes; the checks of the position go from ``program``, on which Arm's code fails.

    It takes every value for a tensor, and the position is read as a number to be checked. The
    runner stays within the context by itself.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if "_assert_scalar" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    program.graph_module.recompile()
    return ()
