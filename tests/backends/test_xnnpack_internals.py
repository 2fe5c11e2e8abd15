"""Internals of ExecuTorch's XNNPACK backend that ours relies on; these fail when they move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from executorch.backends.xnnpack.partition import config
from torch import Tensor, nn
from torch.export import ExportedProgram

from llmx_backend_xnnpack.operators import OURS, operators


def test_three_configs_are_replaced_and_no_other() -> None:
    changed = set(operators(extended=True)) ^ set(config.ALL_PARTITIONER_CONFIGS)
    assert changed == OURS.keys() | set(OURS.values())
    assert len(changed) == 6


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


@pytest.fixture
def exported_layer() -> ExportedProgram:
    """What decoders consist of: a norm, 8da4w products, a rotation, groups of heads and a gate."""
    from llmx.lower.capture import capture
    from llmx.model.attention import in_groups, together
    from llmx.model.norm import RMSNorm
    from llmx.model.rope import RotateHalf, apply_rope
    from llmx.quantize.linear import affine_linear
    from llmx.quantize.plan import Scheme
    from llmx.quantize.rounding import largest_value

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rotate_half = RMSNorm(64, 1e-5), RotateHalf(16, 16)
            nn.init.ones_(self.norm.weight)
            up = nn.Linear(64, 64, bias=False)
            codes = largest_value(up.weight.detach(), Scheme(4, 32, "int8"))
            self.up, self.gate = affine_linear(up, codes), nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(x)
            heads = self.up(normed).view(1, -1, 4, 16)
            turned = apply_rope(heads, heads.cos(), heads.sin(), self.rotate_half)
            regrouped = together(in_groups(turned, 2))
            gated = nn.functional.silu(self.gate(normed)) * regrouped
            return x + gated

    length = torch.export.Dim("length", min=1, max=32)
    return capture(Layer(), (torch.randn(1, 8, 64),), ({1: length},))


def test_partitions_are_spared_passes_that_would_not_change_them(
    monkeypatch: pytest.MonkeyPatch, exported_layer: ExportedProgram
) -> None:
    from llmx.lower.program import lower
    from llmx_backend_xnnpack import partitioner

    lowered = []
    for settled in (partitioner._is_settled, lambda nodes, constants: False):
        monkeypatch.setattr(partitioner, "_is_settled", settled)
        ours = partitioner.SparingPartitioner(configs=operators(extended=True))
        edge = lower(exported_layer, [ours], [], {})
        lowered.append(list(edge.exported_program().graph_module.children()))
    spared, full = lowered
    assert {len(each.compile_specs) for each in spared} == {1}
    assert {len(each.compile_specs) for each in full} == {0}
    assert [each.processed_bytes for each in spared] == [each.processed_bytes for each in full]


class Unsettled(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.constant = nn.Parameter(torch.ones(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x * self.constant) + x


@pytest.mark.parametrize(
    "change",
    [torch.relu, lambda x: x.clone()],
    ids=["an activation that is fused", "a copy"],
)
def test_partitions_that_passes_change_get_them_all(change: Callable[[Tensor], Tensor]) -> None:
    from llmx.lower.program import lower
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    program = torch.export.export(Unsettled(change), (torch.ones(2, 8),), strict=False)
    edge = lower(program, [SparingPartitioner()], [], {})
    modules = list(edge.exported_program().graph_module.children())
    assert modules
    assert any(not each.compile_specs for each in modules)


def test_partitions_share_their_weights(
    monkeypatch: pytest.MonkeyPatch, exported_layer: ExportedProgram
) -> None:
    """ExecuTorch asks the backend for copies; once it does not, weights are held twice."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend

    from llmx.lower.program import lower
    from llmx.skeleton.pieces import plain_tensors
    from llmx_backend_xnnpack.copies import share_weights
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    share_weights()
    copying, pairs = XnnpackBackend.copy_exported_program_for_preprocess, []

    def watched(program: ExportedProgram, specs: object) -> ExportedProgram:
        pairs.append((program, copying(program, specs)))
        return pairs[-1][1]

    monkeypatch.setattr(XnnpackBackend, "copy_exported_program_for_preprocess", watched)
    weights = [
        plain
        for name, each in exported_layer.state_dict.items()
        for _, plain in plain_tensors(name, each)
    ]
    before = [each.clone() for each in weights]
    lower(exported_layer, [SparingPartitioner()], [], {})
    assert all(copied.graph is not program.graph for program, copied in pairs)
    shared = [
        copied.state_dict[name] is tensor
        for program, copied in pairs
        for name, tensor in program.state_dict.items()
    ]
    assert len(shared) >= 4
    assert all(shared)
    assert all(map(torch.equal, weights, before))


def test_a_weight_that_is_a_part_of_another_tensor_is_copied() -> None:
    from executorch.runtime import Runtime

    from llmx.lower.program import default_program_config, finish, lower
    from llmx_backend_xnnpack.copies import share_weights
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    share_weights()
    rows = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(64, 32, bias=False)
    model.weight = nn.Parameter(rows[32:64], requires_grad=False)
    x = torch.ones(1, 64)
    edge = lower(torch.export.export(model, (x,), strict=False), [SparingPartitioner()], [], {})
    buffer = finish(edge, default_program_config()).buffer
    program = Runtime.get().load_program(buffer)
    torch.testing.assert_close(program.load_method("forward").execute([x])[0], model(x))


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, :, 5:], -x[:, :, 1:3], x[..., :2, :]), dim=2)


@pytest.fixture
def exported_cut() -> ExportedProgram:
    length = torch.export.Dim("length", min=1, max=32)
    return torch.export.export(
        Cut(), (torch.randn(2, 8, 6, 4),), dynamic_shapes=({1: length},), strict=False
    )


def test_slices_of_what_varies_are_delegated(exported_cut: ExportedProgram) -> None:
    from executorch.runtime import Runtime

    from llmx.lower.program import default_program_config, finish, lower
    from llmx.report.delegation import count_delegation
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    edge = lower(exported_cut, [SparingPartitioner(configs=operators(extended=True))], [], {})
    found = count_delegation(edge.exported_program().graph_module)
    assert found.subgraphs == 1
    assert {each.operator for each in found.operators if each.other} <= {"getitem"}
    program = Runtime.get().load_program(finish(edge, default_program_config()).buffer)
    method = program.load_method("forward")
    for length in (8, 32, 1, 17):
        x = torch.randn(2, length, 6, 4)
        assert torch.equal(method.execute([x])[0], Cut()(x))


class CutColumns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(torch.relu(self.before(x))[..., 2:])
        return out


def test_slices_between_convolutions_lie_in_another_order() -> None:
    from executorch.runtime import Runtime

    from llmx.lower.program import default_program_config, finish, lower
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    height = torch.export.Dim("height", min=4, max=32)
    model = CutColumns().eval()
    exported = torch.export.export(
        model, (torch.randn(1, 6, 8, 5),), dynamic_shapes=({2: height},), strict=False
    )
    edge = lower(exported, [SparingPartitioner(configs=operators(extended=True))], [], {})
    program = Runtime.get().load_program(finish(edge, default_program_config()).buffer)
    method = program.load_method("forward")
    for each in (8, 32, 5):
        x = torch.randn(1, 6, each, 5)
        with torch.no_grad():
            torch.testing.assert_close(method.execute([x])[0], model(x))


def test_executorch_leaves_such_slices_out(exported_cut: ExportedProgram) -> None:
    """Once it does not, ``slices.py`` is to go."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    from llmx.lower.program import lower
    from llmx.report.delegation import count_delegation

    edge = lower(exported_cut, [XnnpackPartitioner()], [], {})
    found = count_delegation(edge.exported_program().graph_module)
    (slices,) = (each for each in found.operators if "slice_copy" in each.operator)
    assert (slices.delegated, slices.other) == (0, 3)


class CutLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:] * x[:, :, ::2].sum(2, keepdim=True)


def test_slices_whose_place_varies_and_steps_stay_outside() -> None:
    from executorch.runtime import Runtime

    from llmx.lower.program import default_program_config, finish, lower
    from llmx.report.delegation import count_delegation
    from llmx_backend_xnnpack.partitioner import SparingPartitioner

    length = torch.export.Dim("length", min=2, max=32)
    program = torch.export.export(
        CutLast(), (torch.randn(2, 8, 6),), dynamic_shapes=({1: length},), strict=False
    )
    edge = lower(program, [SparingPartitioner(configs=operators(extended=True))], [], {})
    found = count_delegation(edge.exported_program().graph_module)
    (slices,) = (each for each in found.operators if "slice_copy" in each.operator)
    assert (slices.delegated, slices.other) == (0, 2)
    loaded = Runtime.get().load_program(finish(edge, default_program_config()).buffer)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(loaded.load_method("forward").execute([x])[0], CutLast()(x))
