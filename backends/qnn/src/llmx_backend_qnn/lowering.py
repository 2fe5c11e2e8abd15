"""ExecuTorch's passes and partitioner for QNN.

The order is that of its ``to_edge_transform_and_lower_to_qnn``: passes over the exported program,
passes over the edge program, partitions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmx_backend_qnn.chips import chips

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from llmx_backend_qnn import QnnOptions

FALLBACK = "llama.fallback.default"
LAYER = re.compile(r"\blayers\.(\d+)")


def passes(program: ExportedProgram, shards: int) -> Sequence[Any]:
    """Passes over the edge program that ``program`` becomes, which is itself made ready for it.

    With more than one of ``shards``, its layers are cut into as many parts.
    """
    from executorch.backends.qualcomm._passes.qnn_pass_manager import get_qnn_pass_manager_cls
    from executorch.extension.llm.custom_ops.model_sharding import get_split_graph_pass

    manager = get_qnn_pass_manager_cls()()
    manager.transform_for_export_pipeline(program)
    wanted = manager.get_capture_program_passes()
    order = manager.get_passes_dependency_for_capture_program()
    if shards > 1:
        from executorch.backends.qualcomm._passes import FoldQDQ, ResolveDebugHandle

        split, settings = get_split_graph_pass(_layers(program), shares=shards)
        wanted[split] = settings
        order = {**order, split: [FoldQDQ]}
        order[ResolveDebugHandle] = [*order[ResolveDebugHandle], split]
    found: Sequence[Any] = manager.get_to_edge_transform_passes(
        program, passes_job=wanted, dep_table=order
    )
    return found


def partitioner(options: QnnOptions, *, quantized: bool) -> Any:
    """A ``QnnPartitioner``: starts Qualcomm's SDK, and asks it of every operator."""
    from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner

    return QnnPartitioner(
        compile_specs(options, quantized=quantized),
        skip_node_op_set={FALLBACK},
        # The cache is passed in and out: inside, fp16 programs compute something else.
        skip_mutable_buffer=True,
    )


def compile_specs(options: QnnOptions, *, quantized: bool) -> list[Any]:
    """What the SDK is told: the chip, the type of its arithmetic, and how attention is done."""
    from executorch.backends.qualcomm.utils.utils import (
        generate_htp_compiler_spec,
        generate_qnn_executorch_compiler_spec,
    )

    specs: list[Any] = generate_qnn_executorch_compiler_spec(
        soc_model=chips()[options.soc_model],
        backend_options=generate_htp_compiler_spec(
            use_fp16=not quantized, use_multi_contexts=options.num_sharding > 1
        ),
        use_mha2sha=options.use_sha or options.use_qnn_sha,
    )
    return specs


def _layers(program: ExportedProgram) -> int:
    names = (
        name
        for node in program.graph.nodes
        for name, _ in node.meta.get("nn_module_stack", {}).values()
    )
    found = [int(match[1]) for match in map(LAYER.search, names) if match]
    return max(found, default=-1) + 1
