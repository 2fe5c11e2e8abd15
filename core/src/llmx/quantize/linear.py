"""Linear layers that compute with rounded weights, in the forms that kernels take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmx.quantize.codes import Codes
from llmx.quantize.embedding import QuantizedEmbedding

BLOCK = 4096


def affine_linear(linear: nn.Linear, codes: Codes) -> nn.Module:
    """The same layer with torchao's tensor as its weight; backends know the graph of it.

    Activations are rounded to int8 per token where the scheme says so.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        IntxUnpackedToInt8TensorActivationQuantization as Activations,
    )

    scheme = codes.scheme
    weight = IntxUnpackedToInt8Tensor(
        qdata=codes.values,
        scale=codes.scales,
        zero_point=torch.zeros_like(codes.scales, dtype=torch.int8),
        target_dtype=getattr(torch, f"int{scheme.bits}"),
        block_size=(1, scheme.group),
        dtype=linear.weight.dtype,
        activation_quantization=(
            Activations.INT8_ASYM_PER_TOKEN if scheme.activations == "int8" else None
        ),
    )
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


class RowLinear(nn.Module):
    """A linear layer for the portable kernels: rows are looked up as an embedding's are.

    The float form of ``BLOCK`` output channels at a time is all that a program needs memory for.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, codes: Codes) -> None:
        super().__init__()
        self.rows = QuantizedEmbedding(codes, linear.weight.dtype)
        self.out_features = linear.out_features
        self.int8_activations = codes.scheme.activations == "int8"
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        if self.int8_activations:
            x = rounded_per_token(x)
        blocks = []
        for start in range(0, self.out_features, BLOCK):
            end = min(start + BLOCK, self.out_features)
            weight = self.rows(torch.arange(start, end))
            bias = None if self.bias is None else self.bias[start:end]
            blocks.append(nn.functional.linear(x, weight, bias))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-1)


def rounded_per_token(x: Tensor) -> Tensor:
    """x [..., S, D] rounded to 256 steps between the least and the greatest of each token."""
    import torch.ao.quantization.fx._decomposed

    operators = torch.ops.quantized_decomposed
    values = x.float()
    scale, zero = operators.choose_qparams_per_token_asymmetric(values, torch.int8)
    codes = operators.quantize_per_token(values, scale, zero, -128, 127, torch.int8)
    rounded: Tensor = operators.dequantize_per_token(
        codes, scale, zero, -128, 127, torch.int8, torch.float32
    )
    return rounded.to(x.dtype)
