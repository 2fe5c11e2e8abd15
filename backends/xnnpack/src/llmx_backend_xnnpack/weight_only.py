"""8-bit weights with float activations: XNNPACK has the kernels, its partitioner leaves them out.

ExecuTorch's partitioner takes such a layer for a float one and loses its scales. What is used here
beyond its public names is tested in ``tests/backends/test_xnnpack_internals.py``.
"""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition import config as known
from executorch.backends.xnnpack.utils.quant_utils import is_dequant, tag_as_implicit_q_dq
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from llmx.quantize.codes import Codes
from llmx.quantize.linear import affine_linear


class LinearConfig(known.LinearConfig):  # type: ignore[misc]
    """Linear layers of every kind, those with dequantized weights and a float input too."""

    def get_deps(self, node: Node, ep: ExportedProgram) -> tuple[bool, list[Node]]:
        """Whether a layer can be delegated, and the nodes that go with it."""
        source, weight = node.args[:2]
        if not is_dequant(weight) or is_dequant(source):
            deps: tuple[bool, list[Node]] = super().get_deps(node, ep)
            return deps
        assert isinstance(weight, Node)
        tag_as_implicit_q_dq(weight)
        return True, [weight, *weight.all_input_nodes]


def operators(*, extended: bool) -> list[Any]:
    """Which operators to delegate: all that XNNPACK has, or only matrix products."""
    if not extended:
        return [LinearConfig, known.AddmmConfig, known.MMConfig]
    return [
        LinearConfig if each is known.LinearConfig else each
        for each in known.ALL_PARTITIONER_CONFIGS
    ]


class _BiasApart(nn.Module):
    """A linear layer whose bias is added afterwards."""

    def __init__(self, linear: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.linear(x)
        return product + self.bias


def quantized_linear(linear: nn.Linear, codes: Codes) -> nn.Module:
    """torchao's form; biases apart where ExecuTorch's serializer does not take them."""
    bias = linear.bias
    if bias is None or codes.scheme.activations == "int8":
        return affine_linear(linear, codes)
    linear.register_parameter("bias", None)
    return _BiasApart(affine_linear(linear, codes), bias.detach())
