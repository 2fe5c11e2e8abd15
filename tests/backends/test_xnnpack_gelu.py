"""A delegated GELU is the one that the model has, exact or by tanh."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.runtime import Runtime
from torch import Tensor, nn

from llmx.lower.program import default_program_config, finish, lower
from llmx_backend_xnnpack.operators import operators

X = torch.linspace(-4, 4, 64).reshape(1, 64)


def run(approximate: Literal["none", "tanh"], configs: list[Any] | None) -> Tensor:
    """GELU of ``X`` by a program."""
    program = torch.export.export(nn.GELU(approximate), (X,), strict=False)
    edge = lower(program, [XnnpackPartitioner(configs=configs)], [], {})
    buffer = finish(edge, default_program_config()).buffer
    result: Tensor = Runtime.get().load_program(buffer).load_method("forward").execute([X])[0]
    return result.clone()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_program_computes_the_gelu_of_the_model(approximate: Literal["none", "tanh"]) -> None:
    expected = nn.GELU(approximate)(X)
    torch.testing.assert_close(
        run(approximate, operators(extended=True)), expected, atol=1e-5, rtol=1e-5
    )


def test_the_stock_partitioner_still_takes_one_for_the_other() -> None:
    """Once it does not, ``gelu.py`` is to go."""
    found = run("tanh", None)
    torch.testing.assert_close(found, nn.GELU()(X), atol=1e-5, rtol=1e-5)
    assert float((found - nn.GELU("tanh")(X)).abs().max()) > 1e-4
