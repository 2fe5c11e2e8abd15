"""Quantized graphs (pt2e): a backend's quantizer says where, a text how, and nothing is left of it.

A program is compared with its own quantized graph, run by PyTorch.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from llmx import ConfigError, ExportJob
from llmx.lower.pt2e import check_quantizer
from llmx.plugins import load
from llmx.quantize.account import WeightRecord
from llmx.quantize.graph import account_graph, float_weights, quantize_graph, rounds_activations

ONE_LAYER = {"num_hidden_layers": 1}
OLDER_NAMES = {
    "xnnpack": {"xnnpack_dynamic", "xnnpack_dynamic_qc4"},
    "vulkan": {"vulkan_8w"},
    "ethosu": {"ethosu_8a8w", "ethosu_16a8w"},
    "qnn": {"qnn_16a4w", "qnn_16a16w", "qnn_8a8w"},
    "coreml": {"coreml_8a_c8w", "coreml_baseline_8a_c8w", "coreml_baseline_8a_c4w"},
}


class Counting(nn.Module):
    """A layer with a buffer that every call changes, as it does a cache."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Linear(16, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.proj(x)


class StaticQuantizer(Quantizer):
    """Linear layers: activations in 8 bits of a fixed range, weights in 4 per row."""

    def annotate(self, model: Any) -> Any:
        activation = QuantizationSpec(
            torch.int8,
            MinMaxObserver,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )
        weight = QuantizationSpec(
            torch.int8,
            PerChannelMinMaxObserver,
            quant_min=-8,
            quant_max=7,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        for node in model.graph.nodes:
            if node.target == torch.ops.aten.linear.default:
                source, matrix = node.args[:2]
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={source: activation, matrix: weight}, _annotated=True
                )
        return model

    def validate(self, model: Any) -> None:
        pass


def graph_of(model: nn.Module) -> Any:
    return torch.export.export(model.eval(), (torch.zeros(2, 16),)).module(check_guards=False)


@torch.no_grad()
def test_calls_decide_the_ranges_of_activations() -> None:
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    expected = Counting()(x)
    errors = []
    for seen in (x, 0.01 * x):
        quantized = quantize_graph(graph_of(Counting()), StaticQuantizer(), [(seen,)])
        assert rounds_activations(quantized)
        errors.append(float((quantized(x) - expected).norm() / expected.norm()))
    assert errors[0] < 0.2 < errors[1]


def test_the_account_has_the_bits_and_errors_of_the_graph() -> None:
    model = Counting()
    record = WeightRecord(
        name="proj", kind="linear", elements=128, bits=32, group=None, stored_bytes=512
    )
    graph = quantize_graph(graph_of(model), StaticQuantizer(), [(torch.ones(2, 16),)])
    (found,) = account_graph([record], graph, float_weights(model))
    weight = model.proj.weight.detach()
    scales = weight.abs().amax(1, keepdim=True) / 7.5
    rounded = (weight / scales).round().clamp(-8, 7) * scales
    assert (found.bits, found.group, found.stored_bytes) == (4, 16, 64 + 4 * 8)
    assert found.error == pytest.approx(float((rounded - weight).norm() / weight.norm()), rel=0.05)


def test_float_weights_do_not_stay_beside_their_integers() -> None:
    graph = quantize_graph(graph_of(Counting()), StaticQuantizer(), [(torch.ones(2, 16),)])
    assert [tuple(each.shape) for each in graph.parameters() if each.ndim == 2] == []


def test_a_vendors_own_procedure_takes_the_graph_and_the_calls() -> None:
    given = []

    def procedure(graph: Any, calls: Any) -> Any:
        given.extend(calls)
        return graph

    graph = graph_of(Counting())
    assert quantize_graph(graph, procedure, [(torch.ones(2, 16),)]) is graph
    assert len(given) == 1


@pytest.mark.parametrize(("backend", "names"), OLDER_NAMES.items())
def test_quantizers_have_the_older_tools_names(backend: str, names: set[str]) -> None:
    assert set(load(None, backend).backend.quantizers(job=None)) == names


def test_a_backend_without_that_quantizer_names_those_that_it_has() -> None:
    job = ExportJob.create(
        "smollm2", random_weights=True, backend="xnnpack", recipe="float", pt2e_quantize="vulkan_8w"
    )
    with pytest.raises(ConfigError, match=r"xnnpack has no .*=vulkan_8w") as raised:
        check_quantizer(job, load(None, "xnnpack").backend)
    assert "xnnpack_dynamic, xnnpack_dynamic_qc4" in str(raised.value.remedy)


def test_two_ways_to_quantize_linear_layers_contradict() -> None:
    with pytest.raises(ConfigError, match=r"pt2e_quantize xnnpack_dynamic contradicts .*8da4w"):
        ExportJob.create(
            "smollm2", random_weights=True, qmode="8da4w", pt2e_quantize="xnnpack_dynamic"
        )


@pytest.mark.parametrize(
    ("quantizer", "bits"), [("xnnpack_dynamic", 8), ("xnnpack_dynamic_qc4", 4)]
)
def test_a_program_computes_what_its_quantized_graph_does(
    quantizer: str, bits: int, tiny_export: Any
) -> None:
    artifact = tiny_export(
        backend="xnnpack", recipe="float", config=ONE_LAYER, pt2e_quantize=quantizer
    )
    weights = artifact.manifest["weights"]["modules"]
    assert {each["bits"] for each in weights if each["kind"] == "linear"} == {bits}
    # Prefill at position 0 finds the caches empty: calibration left nothing in them.
    checks = {each["name"]: each for each in artifact.manifest["checks"]}
    assert checks["prefill equals eager"]["figure"] < 0.05
    assert all(each["passed"] for each in checks.values())
    rows = {each["operator"]: each for each in artifact.manifest["delegation"]["operators"]}
    linears = rows["aten_linear_default"]
    assert (linears["delegated"], linears["other"]) == (8, 0)
    assert any("8 of 8 linears" in note for note in artifact.manifest["notes"])
    assert any("one piece" in note for note in artifact.manifest["notes"])
