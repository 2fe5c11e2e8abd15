"""From the exported program to an ExecuTorch program: edge dialect, delegation, memory plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from executorch.exir import (
    EdgeCompileConfig,
    EdgeProgramManager,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
from torch.export import ExportedProgram

from llmx.config.methods import FORWARD
from llmx.errors import LlmxError, LoweringError
from llmx.lower.known_outputs import outputs_known
from llmx.lower.known_shapes import shapes_remembered
from llmx.report.memory_plan import MemoryPlan, read_memory_plan

# The custom attention operators are outside the core ATen set that would be checked for.
COMPILE_CONFIG = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)


def lower(
    program: ExportedProgram,
    partitioners: Sequence[Any],
    edge_passes: Sequence[Any],
    constant_methods: Mapping[str, Any],
    *,
    generate_etrecord: bool = False,
) -> EdgeProgramManager:
    """``lower_methods`` of one that is called ``forward``."""
    return lower_methods(
        {FORWARD: program},
        partitioners,
        {FORWARD: edge_passes},
        constant_methods,
        generate_etrecord=generate_etrecord,
    )


def lower_methods(
    programs: Mapping[str, ExportedProgram],
    partitioners: Sequence[Any],
    edge_passes: Mapping[str, Sequence[Any]],
    constant_methods: Mapping[str, Any],
    *,
    generate_etrecord: bool = False,
) -> EdgeProgramManager:
    """Edge dialect with the partitioners' parts delegated and the metadata methods attached.

    ``programs`` are its methods, by name, and ``edge_passes`` what is done to each before.
    With ``generate_etrecord``, it keeps a copy of the program as it was before delegation.
    """
    try:
        with shapes_remembered(*programs.values()):
            return to_edge_transform_and_lower(
                dict(programs),
                transform_passes={name: list(passes) for name, passes in edge_passes.items()},
                partitioner=list(partitioners),
                constant_methods=dict(constant_methods),
                compile_config=COMPILE_CONFIG,
                generate_etrecord=generate_etrecord,
            )
    except LlmxError:
        raise
    except Exception as error:
        raise LoweringError(
            f"lowering failed: {type(error).__name__}: {_first_line(error)}",
            remedy="run again with --debug",
        ) from error


def with_program(edge: EdgeProgramManager, program: ExportedProgram) -> EdgeProgramManager:
    """The same lowering with another program as its ``forward``."""
    return with_programs(edge, {FORWARD: program})


def with_programs(
    edge: EdgeProgramManager, programs: Mapping[str, ExportedProgram]
) -> EdgeProgramManager:
    """The same lowering with other methods."""
    # In their order: ``config_methods`` is a set, and would order the program's methods at random.
    constants = dict(edge._config_methods or {})
    return EdgeProgramManager(dict(programs), constants, compile_config=COMPILE_CONFIG)


def joined(edges: Mapping[str, EdgeProgramManager]) -> EdgeProgramManager:
    """One lowering with the ``forward`` of each as a method; constant methods are the first's.

    Emission stores what methods have in common once: delegates' data by their keys, constants by
    their content.
    """
    first = next(iter(edges.values()))
    if len(edges) == 1:
        return first
    return with_programs(first, {name: edge.exported_program() for name, edge in edges.items()})


def default_program_config() -> ExecutorchBackendConfig:
    """Memory planned for the longest input; KV caches updated in place."""
    return ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(),
        sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
        run_reinplace_pass=True,
    )


def with_shared_state(config: ExecutorchBackendConfig) -> ExecutorchBackendConfig:
    """The same, with state of the same name at the same place in all methods.

    They have one state then, if the runtime gives them the same memory.
    """
    return dataclasses.replace(
        config, memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True)
    )


def finish(edge: EdgeProgramManager, config: ExecutorchBackendConfig) -> ExecutorchProgramManager:
    """Plan memory and emit the program."""
    return finish_with_plan(edge, config)[0]


def finish_with_plan(
    edge: EdgeProgramManager, config: ExecutorchBackendConfig
) -> tuple[ExecutorchProgramManager, MemoryPlan]:
    """Plan memory, emit the program, and tell the plan."""
    try:
        with ExitStack() as known:
            for method in edge.methods:
                known.enter_context(outputs_known(edge.exported_program(method)))
            program = edge.to_executorch(config)
            # The finished program shares modules with the edge program, which loses these outputs.
            return program, read_memory_plan(program)
    except Exception as error:
        raise LoweringError(
            f"the program could not be emitted: {type(error).__name__}: {_first_line(error)}",
            remedy="run again with --debug",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
