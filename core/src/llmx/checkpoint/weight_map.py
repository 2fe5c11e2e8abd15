"""From stored tensors to the decoder's: a declarative map, checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, field, frozen

from llmx.checkpoint.base import Checkpoint
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from llmx.checkpoint.integers import IntegerWeight

Rows = TypeVar("Rows", "torch.Tensor", "torch.Tensor | IntegerWeight")

LAYER = "{i}"
SHOWN = 3


@frozen
class Interleaved:
    """A target whose rows are stored with rotary pairs as neighbours.

    Its rows are ``n_heads`` groups; in each the first ``rotary_dim`` rows (all, if ``None``) are
    reordered from (0, half, 1, half+1, …) to (0, 1, …, half, half+1, …), as the decoder has them.
    """

    name: str
    n_heads: int
    rotary_dim: int | None = None


def interleaved(name: str, n_heads: int, rotary_dim: int | None = None) -> Interleaved:
    """Say that a q or k projection, or its bias, is stored in interleaved order."""
    return Interleaved(name, n_heads, rotary_dim)


Target = str | Interleaved
Targets = Target | tuple[Target, ...] | None


def _check_patterns(_: WeightMap, __: object, entries: Mapping[str, Targets]) -> None:
    for source, targets in entries.items():
        for target in _as_tuple(targets):
            if source.count(LAYER) > 1 or source.count(LAYER) != _name(target).count(LAYER):
                raise ValueError(f"{source} -> {_name(target)}: one {LAYER} on both sides, or none")


@frozen
class WeightMap:
    """What becomes of each tensor of a checkpoint.

    Keys are stored names, in which ``{i}`` stands for a layer number between dots. Values are
    llmx names; ``interleaved(name, n_heads)`` for reordered rows; a tuple for a fused tensor that
    splits along its first dimension, in this order; ``None`` for one that is not needed.
    """

    entries: Mapping[str, Targets] = field(validator=_check_patterns)

    def updated(self, entries: Mapping[str, Targets]) -> WeightMap:
        """The same map with some entries added or replaced."""
        return WeightMap({**self.entries, **entries})

    def find(self, name: str) -> tuple[Target, ...] | None:
        """Targets of a stored tensor with the layer number filled in; ``None`` if unmapped."""
        if name in self.entries:
            return _as_tuple(self.entries[name])
        parts = name.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                pattern = ".".join([*parts[:position], LAYER, *parts[position + 1 :]])
                if pattern in self.entries:
                    return tuple(
                        _in_layer(target, part) for target in _as_tuple(self.entries[pattern])
                    )
        return None


@frozen
class Step:
    """One stored tensor and what is cut from it: targets, and the rows that each one takes."""

    source: str
    targets: tuple[Target, ...]
    rows: tuple[int, ...]


def plan(
    weight_map: WeightMap, checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]
) -> list[Step]:
    """Match a checkpoint with a model, by names and shapes alone.

    Args:
        expected: shape of every parameter of the model by its llmx name.

    Returns:
        Steps in the order embedding, layers, everything after them.

    Raises:
        CheckpointError: names every kind of disagreement, with the first few tensors of each.
    """
    steps: list[Step] = []
    unmapped: list[str] = []
    unwanted: list[str] = []
    misshapen: list[str] = []
    provided: dict[str, str] = {}
    for source, info in checkpoint.tensors.items():
        targets = weight_map.find(source)
        if targets is None:
            unmapped.append(source)
            continue
        extra = [_name(target) for target in targets if _name(target) not in expected]
        if extra:
            unwanted.append(f"{source} (the model has no {', '.join(extra)})")
            continue
        if not targets:
            continue
        wanted = [expected[_name(target)] for target in targets]
        if problem := _shape_problem(info.shape, wanted, targets):
            misshapen.append(f"{source} {problem}")
        for target in targets:
            if _name(target) in provided:
                unwanted.append(
                    f"{source} ({_name(target)} comes from {provided[_name(target)]} already)"
                )
            provided[_name(target)] = source
        steps.append(Step(source, targets, tuple(shape[0] for shape in wanted)))
    missing = [name for name in expected if name not in provided]
    problems = [
        _listed("has no tensor for", missing),
        _listed("has tensors that nothing maps", unmapped),
        _listed("has tensors that the model does not take", unwanted),
        _listed("has tensors of the wrong shape", misshapen),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(
            f"{checkpoint.source} does not fit the model: it {'; it '.join(found)}",
            remedy="Check family and size, and the checkpoint's config.json or params.json.",
        )
    order = {name: position for position, name in enumerate(expected)}
    return sorted(steps, key=lambda step: _place(_name(step.targets[0]), order))


def apply(steps: Sequence[Step], checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the planned tensors one after the other; a fused one is read once.

    Tensors keep their stored type, quantized ones are expanded. Pieces of a fused tensor share
    its memory.
    """
    return _apply(steps, checkpoint.read)


def apply_stored(
    steps: Sequence[Step], checkpoint: Checkpoint
) -> Iterator[tuple[str, torch.Tensor | IntegerWeight]]:
    """The same, with quantized tensors as the integers that are stored."""
    return _apply(steps, checkpoint.read_stored)


def _apply(steps: Sequence[Step], read: Callable[[str], Rows]) -> Iterator[tuple[str, Rows]]:
    for step in steps:
        stored, start = read(step.source), 0
        for target, count in zip(step.targets, step.rows, strict=True):
            piece = stored[start : start + count]
            start += count
            if isinstance(target, Interleaved):
                piece = piece[_half_split(count, target)]
            yield _name(target), piece


def _half_split(rows: int, target: Interleaved) -> torch.Tensor:
    """Indices that bring interleaved rows into the decoder's order."""
    import torch

    heads = torch.arange(rows).view(target.n_heads, -1)
    rotary_dim = target.rotary_dim or heads.shape[1]
    rotated, rest = heads[:, :rotary_dim], heads[:, rotary_dim:]
    return torch.cat((rotated[:, 0::2], rotated[:, 1::2], rest), dim=1).flatten()


def _shape_problem(
    stored: tuple[int, ...], wanted: Sequence[tuple[int, ...]], targets: Sequence[Target]
) -> str | None:
    whole = (sum(shape[0] for shape in wanted), *wanted[0][1:])
    if any(shape[1:] != wanted[0][1:] for shape in wanted) or stored != whole:
        names = " + ".join(_name(target) for target in targets)
        return f"is {list(stored)}, {names} is {' + '.join(str(list(shape)) for shape in wanted)}"
    for target, shape in zip(targets, wanted, strict=True):
        if isinstance(target, Interleaved) and shape[0] % (2 * target.n_heads):
            return f"has {shape[0]} rows, which do not make {target.n_heads} heads of pairs"
    return None


def _listed(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{kind}: {', '.join(items[:SHOWN])}{more}"


def _place(name: str, order: Mapping[str, int]) -> tuple[int, int, int]:
    """Sort key: what comes before the layers, each layer, what comes after."""
    first, *rest = name.split(".")
    if first == "layers" and rest and rest[0].isdigit():
        return (1, int(rest[0]), order[name])
    return (0 if first == "embedding" else 2, 0, order[name])


def _name(target: Target) -> str:
    return target if isinstance(target, str) else target.name


def _in_layer(target: Target, layer: str) -> Target:
    if isinstance(target, str):
        return target.replace(LAYER, layer)
    return evolve(target, name=target.name.replace(LAYER, layer))


def _as_tuple(targets: Targets) -> tuple[Target, ...]:
    if targets is None:
        return ()
    return targets if isinstance(targets, tuple) else (targets,)
