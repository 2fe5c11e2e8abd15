"""Integer weights of the eager model, expanded to floats in fewer steps than torchao takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llmx.parallel import map_parallel, row_blocks


@contextmanager
def quick_expansion(model: nn.Module) -> Iterator[None]:
    """Let the linear layers of ``model`` expand their weights by :func:`expanded`.

    torchao makes several float copies of a weight in every call, on its way to the product.
    """
    weights = [each.weight for each in model.modules() if isinstance(each, nn.Linear)]
    found = [each for each in weights if expanding_quickly(each)]
    try:
        yield
    finally:
        for weight in found:
            del weight.dequantize


def expanding_quickly(weight: Any) -> bool:
    """Have this one tensor expand so, if it is of torchao's form; tells whether it is."""
    if type(weight) in (Tensor, nn.Parameter):
        return False
    from torchao.quantization import IntxUnpackedToInt8Tensor

    if not isinstance(weight, IntxUnpackedToInt8Tensor) or weight.zero_point.is_floating_point():
        return False
    # What the layer rounds its input by asks the tensor itself for its floats.
    weight.dequantize = partial(expanded, weight)
    return True


def expanded(weight: Any) -> Tensor:
    """The floats [out, in] of torchao's tensor with integer zero points, as it gives them itself.

    Products of integers and scales are rounded once in either way. Some rows at a time: all passes
    but the last stay within the processor's cache.
    """
    codes, scales, zeros = weight.qdata, weight.scale, weight.zero_point
    shifted = bool(zeros.any())
    floats = torch.empty(codes.shape, dtype=weight.dtype)

    def fill(rows: slice) -> None:
        values = codes[rows].float().view(*scales[rows].shape, -1)
        if shifted:
            values -= zeros[rows].unsqueeze(-1)
        values *= scales[rows].unsqueeze(-1)
        floats[rows] = values.view(-1, codes.shape[1])

    map_parallel(fill, row_blocks(codes.shape))
    return floats
