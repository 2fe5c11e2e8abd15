"""XNNPACK's partitioner, sparing partitions the passes that would find nothing in them.

For each partition XNNPACK runs seventeen passes that trace its graph anew, which is most of the
time of lowering. With a certain compile spec it runs one of them only, and that is enough where
there are none of the operators that the others look for: the payload is the same, byte for byte.
The spec is an internal of ExecuTorch; ``tests/backends/test_xnnpack_internals.py`` holds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec, PartitionResult
from torch.export import ExportedProgram
from torch.fx import Node

from llmx_backend_xnnpack.copies import share_weights
from llmx_backend_xnnpack.operators import operators

if TYPE_CHECKING:
    from llmx_backend_xnnpack import XnnpackOptions

ONE_PASS = CompileSpec("dqlinear_partitioner", b"")
DEQUANTIZATIONS = frozenset(
    {
        "torchao.dequantize_affine.default",
        "quantized_decomposed.dequantize_per_channel.default",
        "quantized_decomposed.dequantize_per_channel_group.default",
    }
)
SETTLED = DEQUANTIZATIONS | {
    "aten.add.Tensor",
    "aten.bmm.default",
    "aten.cat.default",
    "aten.cos.default",
    "aten.div.Tensor",
    "aten.exp.default",
    "aten.gelu.default",
    "aten.linear.default",
    "aten.mul.Tensor",
    "aten.neg.default",
    "aten.permute_copy.default",
    "aten.pow.Tensor_Scalar",
    "aten.rsqrt.default",
    "aten.sigmoid.default",
    "aten.sin.default",
    "aten.slice_copy.Tensor",
    "aten.sub.Tensor",
    "aten.tanh.default",
    "aten.unsqueeze_copy.default",
    "aten.view_copy.default",
    "getitem",
    "torchao.choose_qparams_affine.default",
    "torchao.quantize_affine.default",
}
"""Operators that no pass but the one changes, unless they are of constants alone."""


class SparingPartitioner(XnnpackPartitioner):  # type: ignore[misc]
    """``XnnpackPartitioner`` that asks for one pass where one is enough."""

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Partition as usual, and decide for each partition which passes it needs."""
        result = super().partition(exported_program)
        constants = _constants(exported_program)
        nodes: dict[str, list[Node]] = {tag: [] for tag in result.partition_tags}
        for node in exported_program.graph.nodes:
            if node.op == "call_function" and node.meta.get("delegation_tag") in nodes:
                nodes[node.meta["delegation_tag"]].append(node)
        for tag, spec in result.partition_tags.items():
            if _is_settled(nodes[tag], constants):
                specs = [*spec.compile_specs, ONE_PASS]
                result.partition_tags[tag] = DelegationSpec(spec.backend_id, specs)
        return result


def passes(options: XnnpackOptions) -> Sequence[SparingPartitioner]:
    """One partitioner for all operators, or one for layers with 8-bit activations before it."""
    share_weights()
    bf16 = options.enable_bf16
    everything = SparingPartitioner(
        configs=operators(extended=options.extended_ops), enable_bf16=bf16
    )
    if not options.dynamic_quant_first:
        return [everything]
    dynamic = SparingPartitioner(
        configs=operators(extended=False),
        config_precisions=ConfigPrecisionType.DYNAMIC_QUANT,
        enable_bf16=bf16,
    )
    return [dynamic, everything]


def _constants(program: ExportedProgram) -> frozenset[str]:
    signature = program.graph_signature
    return frozenset(
        (
            *signature.inputs_to_parameters,
            *signature.inputs_to_buffers,
            *signature.inputs_to_lifted_tensor_constants,
        )
    )


def _is_settled(nodes: Sequence[Node], constants: frozenset[str]) -> bool:
    for node in nodes:
        name = getattr(node.target, "__name__", "")
        if name not in SETTLED:
            return False
        if name not in DEQUANTIZATIONS and all(
            each.name in constants for each in node.all_input_nodes
        ):
            return False
    return True
