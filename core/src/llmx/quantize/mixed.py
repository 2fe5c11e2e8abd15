"""Spending bits where they help most: some linear layers of 8 bits among those of few.

Choices are made for one layer at a time, or for the layers of one name all through the model. Only
a few different kinds of decoder layers result, since each kind is lowered by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve, field, frozen
from torch import nn

from llmx.errors import ConfigError
from llmx.quantize.plan import ROW_BITS, Scheme

MOST_KINDS = 5
LAYERS = "layers"


@frozen
class Upgrade:
    """What a linear layer gains from 8 bits: nats per token, for bytes."""

    name: str
    gain: float
    cost: int


@frozen
class _Unit:
    """Upgrades that are made together."""

    members: Sequence[Upgrade]
    names: frozenset[str] = field(init=False)
    worth: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(each.name for each in self.members))
        gain = sum(each.gain for each in self.members)
        object.__setattr__(self, "worth", gain / max(self.cost, 1))

    @property
    def cost(self) -> int:
        return sum(each.cost for each in self.members)

    def without(self, taken: frozenset[str]) -> _Unit:
        return _Unit([each for each in self.members if each.name not in taken])


def chosen_upgrades(
    upgrades: Sequence[Upgrade], budget: int, *, most_kinds: int = MOST_KINDS
) -> frozenset[str]:
    """Names of the layers that become 8 bits wide, within ``budget`` bytes.

    Always what gains most per byte next, of what fits and leaves at most ``most_kinds`` kinds of
    decoder layers.
    """
    units = list(_units(upgrades))
    taken: frozenset[str] = frozenset()
    while True:
        units = [each for each in (unit.without(taken) for unit in units) if each.members]
        fitting = (
            each
            for each in sorted(units, key=lambda unit: -unit.worth)
            if each.worth > 0
            and each.cost <= budget
            and _kinds(upgrades, taken | each.names) <= most_kinds
        )
        best = next(fitting, None)
        if best is None:
            return taken
        taken, budget = taken | best.names, budget - best.cost


def raised(
    schemes: Mapping[str, Scheme], names: frozenset[str], model: nn.Module
) -> dict[str, Scheme]:
    """``schemes`` with 8 bits per weight, one scale per row, for ``names``."""
    return {
        name: _wide(scheme, model.get_submodule(name)) if name in names else scheme
        for name, scheme in schemes.items()
    }


def candidates(
    model: nn.Module, schemes: Mapping[str, Scheme], shared: Mapping[str, str]
) -> list[str]:
    """Linear layers of few bits that may have more."""
    return [
        name
        for name, scheme in schemes.items()
        if isinstance(model.get_submodule(name), nn.Linear)
        and scheme.bits < ROW_BITS
        and name not in shared.values()
    ]


def planned_bytes(
    model: nn.Module, schemes: Mapping[str, Scheme], shared: Mapping[str, str], float_bytes: int
) -> int:
    """Bytes of all weights with their scales, from shapes alone."""
    total = 0
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        scheme = schemes.get(name)
        if name in shared.values():
            parameters.pop("weight")
        elif scheme is not None and isinstance(module, nn.Linear | nn.Embedding):
            parameters.pop("weight")
            total += _weight_bytes(module, scheme)
        total += sum(each.numel() for each in parameters.values()) * float_bytes
    return total


def upgrade(name: str, module: nn.Linear, scheme: Scheme, gain: float) -> Upgrade:
    """What ``module`` gains and costs with 8 bits instead of ``scheme``."""
    cost = _weight_bytes(module, _wide(scheme, module)) - _weight_bytes(module, scheme)
    return Upgrade(name, gain, cost)


def budget_of(wanted: int, least: int, what: str) -> int:
    """Bytes that may be spent beyond the ``least``.

    Raises:
        ConfigError: ``wanted`` is less than that.
    """
    if wanted < least:
        raise ConfigError(
            f"{what} leaves {wanted / 1e6:.1f} MB for weights, which take {least / 1e6:.1f} MB "
            "with no layer above the bits of quantization.qmode",
            remedy="raise it, or give the embedding fewer bits",
        )
    return wanted - least


def _wide(scheme: Scheme, module: nn.Module) -> Scheme:
    assert isinstance(module, nn.Linear)
    return evolve(scheme, bits=ROW_BITS, group=module.in_features)


def _weight_bytes(module: nn.Linear | nn.Embedding, scheme: Scheme) -> int:
    elements = module.weight.numel()
    per_scale = 4 if scheme.bits == ROW_BITS or isinstance(module, nn.Embedding) else 2
    return elements * scheme.bits // 8 + elements // scheme.group * per_scale


def _units(upgrades: Sequence[Upgrade]) -> Iterator[_Unit]:
    by_role: dict[str, list[Upgrade]] = {}
    for each in upgrades:
        yield _Unit([each])
        if (place := _place(each.name)) is not None:
            by_role.setdefault(place[1], []).append(each)
    yield from (_Unit(each) for each in by_role.values())


def _kinds(upgrades: Sequence[Upgrade], taken: frozenset[str]) -> int:
    """How many different decoder layers there are when ``taken`` have 8 bits."""
    wide: dict[str, set[str]] = {}
    for each in upgrades:
        if (place := _place(each.name)) is not None:
            roles = wide.setdefault(place[0], set())
            if each.name in taken:
                roles.add(place[1])
    return len({frozenset(roles) for roles in wide.values()})


def _place(name: str) -> tuple[str, str] | None:
    """Index of the decoder layer, and the name within it; ``None`` outside of them."""
    first, _, rest = name.partition(".")
    index, _, role = rest.partition(".")
    return (index, role) if first == LAYERS else None
