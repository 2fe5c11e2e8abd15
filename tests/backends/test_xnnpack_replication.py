"""Repeating a lowered layer gives the program that lowering every layer gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from executorch.exir._serialize import _deserialize_pte_binary

from llmx.run.runtime import ProgramMethod

LAYERS = {"num_hidden_layers": 5}
KINDS = {
    "8da4w": ({}, {}),
    "local and global attention": ({"num_hidden_layers": 8}, {"local_global_attention": [16, 0]}),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def pair(request: pytest.FixtureRequest, tiny_export: Any) -> tuple[Any, Any]:
    config, options = request.param
    config = {**LAYERS, **config}
    repeated = tiny_export(config=config, **options)
    full = tiny_export(config=config, replicate_layers=False, **options)
    return repeated, full


def stages(artifact: Any) -> list[str]:
    return [each["name"] for each in artifact.manifest["stages"]]


def test_only_one_of_them_was_repeated(pair: Any) -> None:
    repeated, full = pair
    assert "repeat layers" in stages(repeated)
    assert "repeat layers" not in stages(full)
    assert repeated.manifest["notes"] == full.manifest["notes"] == []


def test_outputs_are_the_same_bit_for_bit(pair: Any) -> None:
    repeated, full = (ProgramMethod(each.program) for each in pair)
    tokens = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(2))
    for start, end in ((0, 20), (20, 21), (21, 40)):
        inputs = tokens[:, start:end], torch.tensor([start])
        assert torch.equal(repeated(*inputs), full(*inputs))


def test_payloads_and_data_are_the_same(pair: Any) -> None:
    files = [_deserialize_pte_binary(each.program.read_bytes()) for each in pair]
    payloads, data = [], []
    for file in files:
        plan = file.program.execution_plan[0]
        payloads.append(
            [
                file.program.backend_delegate_data[each.processed.index].data
                for each in plan.delegates
            ]
        )
        named = file.named_data
        data.append(
            {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()}
        )
    assert len(payloads[0]) == len(payloads[1])
    for repeated, full in zip(*payloads, strict=True):
        assert _equal_but_for_debug_handles(repeated, full)
    assert data[0].keys() == data[1].keys()
    assert all(bytes(data[0][key]) == bytes(data[1][key]) for key in data[0])


def _equal_but_for_debug_handles(repeated: bytes, full: bytes) -> bool:
    """Handles number the nodes of the graph; copies of a layer have those of the copied one."""
    if len(repeated) != len(full):
        return False
    words = zip(*(memoryview(each).cast("I") for each in (repeated, full)), strict=True)
    return len({after - before for before, after in words if before != after}) <= 1


def test_delegation_is_the_same(pair: Any) -> None:
    repeated, full = (each.manifest["delegation"] for each in pair)
    for key in ("subgraphs", "delegated_nodes", "other_nodes"):
        assert repeated[key] == full[key]


def test_layers_that_differ_in_no_pattern_have_no_template() -> None:
    from llmx.lower.template import IrregularError, template_of

    with pytest.raises(IrregularError, match="layer 2 differs"):
        template_of(model_of("aabaa"))


@pytest.mark.parametrize(
    ("kinds", "period", "layers"),
    [
        ("aaaa", 1, 3),
        ("ababab" + "ab", 2, 6),
        ("ababab" + "a", 2, 5),
        ("aaabaaab" + "aaab" * 2, 4, 12),
        ("aaabaaab" + "aaab" + "aa", 4, 10),
    ],
)
def test_a_template_has_two_periods_and_a_beginning_as_long_as_the_rest(
    kinds: str, period: int, layers: int
) -> None:
    from llmx.lower.template import template_of

    template = template_of(model_of(kinds))
    assert template is not None
    assert (template.period, template.layers) == (period, layers)
    assert kinds[: template.layers].endswith(kinds[-2 * period :])


@pytest.mark.parametrize("kinds", ["a", "aa", "aaa", "abab", "ababab"])
def test_there_is_no_template_where_it_would_be_the_model(kinds: str) -> None:
    from llmx.lower.template import template_of

    assert template_of(model_of(kinds)) is None


def model_of(kinds: str) -> torch.nn.Module:
    """Layers of kind a and b."""
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=each == "a") for each in kinds)
    return model


def test_layers_that_do_not_repeat_are_lowered_one_by_one_and_it_is_said(tiny_export: Any) -> None:
    options = {"qmode": None, "embedding_quantize": None, "use_sdpa_with_kv_cache": False}
    biases = {"attention_bias": True, "mlp_bias": True}
    artifact = tiny_export(config={**LAYERS, **biases}, **options)
    assert "repeat layers" in stages(artifact)
    assert artifact.manifest["notes"] == [
        "each layer is lowered by itself: the layers of the lowered template do not repeat"
    ]
    assert all(each["passed"] for each in artifact.manifest["checks"])
