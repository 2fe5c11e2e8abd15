"""Repeating a lowered layer gives the program that lowering every layer gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends.families import tiny_families
from tests.programs import methods, named_data, payloads, same_but_for_debug_handles

from llmx.lower.template import template_of
from llmx.run.runtime import ProgramMethod

LAYERS = {"num_hidden_layers": 5}
PLAIN = {"qmode": None, "embedding_quantize": None, "use_sdpa_with_kv_cache": False}
# Where norms follow instead of preceding, one more layer is lowered to see that they repeat.
LONGER = {"transformers": {"num_hidden_layers": 5}}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{
        family: (family, {**config, **LAYERS, **LONGER.get(family, {})}, {})
        for family, config in tiny_families().items()
    },
    "local and global attention": (
        "smollm2",
        {"num_hidden_layers": 8},
        {"local_global_attention": [16, 0]},
    ),
    "plain attention with biases": (
        "smollm2",
        {**LAYERS, "attention_bias": True, "mlp_bias": True},
        PLAIN,
    ),
    "bits in no pattern": ("smollm2", {"num_hidden_layers": 7}, {"bits": 5.6}),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def pair(request: pytest.FixtureRequest, tiny_export: Any) -> tuple[Any, Any]:
    family, config, options = request.param
    repeated = tiny_export(family=family, config=config, **options)
    full = tiny_export(family=family, config=config, replicate_layers=False, **options)
    return repeated, full


def stages(artifact: Any) -> list[str]:
    return [each["name"] for each in artifact.manifest["stages"]]


def test_only_one_of_them_was_repeated(pair: Any) -> None:
    repeated, full = pair
    assert "repeat layers" in stages(repeated)
    assert "repeat layers" not in stages(full)
    notes = [note for each in pair for note in each.manifest["notes"] if "lowered" in note]
    assert not notes


def test_outputs_are_the_same_bit_for_bit(pair: Any) -> None:
    repeated, full = (ProgramMethod(each.program) for each in pair)
    tokens = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(2))
    for start, end in ((0, 20), (20, 21), (21, 40)):
        inputs = tokens[:, start:end], torch.tensor([start])
        assert torch.equal(repeated(*inputs), full(*inputs))


def test_payloads_and_data_are_the_same(pair: Any) -> None:
    repeated, full = (each.program for each in pair)
    pairs = zip(payloads(repeated), payloads(full), strict=True)
    assert all(same_but_for_debug_handles(one, other) for one, other in pairs)
    assert named_data(repeated) == named_data(full)


def test_methods_are_in_the_same_order(pair: Any) -> None:
    repeated, full = (methods(each.program) for each in pair)
    assert repeated == full
    assert repeated[0] == "forward"


def test_delegation_is_the_same(pair: Any) -> None:
    repeated, full = (each.manifest["delegation"] for each in pair)
    for key in ("subgraphs", "delegated_nodes"):
        assert repeated[key] == full[key]
    # What layers have in common may be computed once for all that are repeated.
    assert repeated["other_nodes"] <= full["other_nodes"]


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [
        ("aaaa", [0, 1, 2]),
        ("a" * 30, [0, 1, 2]),
        ("abababab", [0, 1, 2, 3]),
        ("abababa", [0, 1, 2, 3, 4]),
        ("aaabaaabaaabaaab", [0, 1, 2, 3, 14, 15]),
        ("aabaabaaaaaba", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_template_has_each_pair_of_kinds(kinds: str, chosen: list[int]) -> None:
    template = template_of(model_of(kinds))
    assert template is not None
    assert template.chosen == chosen
    pairs = {kinds[at : at + 2] for at in range(len(kinds) - 1)}
    there = "".join(kinds[at] for at in chosen)
    assert {there[at : at + 2] for at in range(len(there) - 1)} == pairs


@pytest.mark.parametrize("step", [-1, 1])
def test_layers_repeat_one_with_the_same_neighbour(step: int) -> None:
    kinds = "aabaabaaaaaba"
    template = template_of(model_of(kinds))
    assert template is not None
    there = "".join(kinds[at] for at in template.chosen)
    places = range(1, len(there) - 1)
    alike = [
        [place for place in places if (there[place], there[place + step]) == pair]
        for pair in {(there[place], there[place + step]) for place in places}
    ]
    sources = template.sources({0, step}, alike)
    assert len(sources) == len(kinds)
    for layer in range(2, len(kinds) - 1):
        source = sources[layer]
        assert (there[source], there[source + step]) == (kinds[layer], kinds[layer + step])


def test_a_longer_template_can_be_asked_for() -> None:
    longer = template_of(model_of("aaaaaa"), least=4)
    assert longer is not None
    assert longer.chosen == [0, 1, 2, 3]


@pytest.mark.parametrize("kinds", ["a", "aa", "aaa", "abab", "aabaa", "abcdef"])
def test_there_is_no_template_where_it_would_be_the_model(kinds: str) -> None:
    assert template_of(model_of(kinds)) is None


def test_what_a_model_tells_by_a_layers_number_stays_in_its_place() -> None:
    # Another layer than the fourth has the other kind of angles, say.
    model = model_of("aaaaaabaaaaabaaa")
    for layer, kind in zip(model.layers, "aaaaaabaaaaabaaa", strict=True):
        layer.kind = kind
    template = template_of(model)
    assert template is not None
    assert template.chosen == list(range(len(template.chosen)))


def model_of(kinds: str) -> torch.nn.Module:
    """Layers of a kind for each letter."""
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(4, ord(each)) for each in kinds)
    return model
