"""Internals of ExecuTorch's XNNPACK backend that ours relies on; these fail when they move."""

from __future__ import annotations

import torch
from executorch.backends.xnnpack.partition import config
from torch import nn

from llmx_backend_xnnpack.weight_only import LinearConfig, operators


def test_the_linear_config_is_the_only_one_that_is_replaced() -> None:
    assert config.LinearConfig in config.ALL_PARTITIONER_CONFIGS
    extended = operators(extended=True)
    assert len(extended) == len(config.ALL_PARTITIONER_CONFIGS)
    assert LinearConfig in extended
    assert config.LinearConfig not in extended


def test_the_stock_partitioner_still_cannot_do_float_activations() -> None:
    """Once it can, ``weight_only.py`` is to go."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.runtime import Runtime

    from llmx.lower.program import default_program_config, finish, lower
    from llmx.quantize.linear import affine_linear
    from llmx.quantize.plan import Scheme
    from llmx.quantize.rounding import largest_value

    x, results = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)), []
    linear = nn.Linear(64, 32, bias=False)
    model = nn.Sequential(
        affine_linear(linear, largest_value(linear.weight.detach(), Scheme(8, 64, "float")))
    )
    expected = model(x)
    for configs in (None, operators(extended=True)):
        program = torch.export.export(model, (x,), strict=False)
        edge = lower(program, [XnnpackPartitioner(configs=configs)], [], {})
        buffer = finish(edge, default_program_config()).buffer
        method = Runtime.get().load_program(buffer).load_method("forward")
        results.append(method.execute([x])[0].clone())
    torch.testing.assert_close(results[1], expected)
    assert not torch.allclose(results[0], expected, rtol=0.1)
