"""The form that quantized linear layers have, made without ExecuTorch's exporter."""

from __future__ import annotations

from torch import Tensor, nn

from llmx.quantize.codes import Codes
from llmx.quantize.linear import affine_linear


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
