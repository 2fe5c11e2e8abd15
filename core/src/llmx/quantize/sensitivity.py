"""How much a model's predictions change for what rounding does to each of its linear layers.

The Kullback-Leibler divergence of a model from the one with a weight changed by D is, to second
order, half the expected square of the derivative of the log-probability along D, tokens being
drawn from the model itself (the Fisher information; see Amari, "Natural gradient works efficiently
in learning", 1998). One pass forward and back per text measures it for all layers: with inputs x
and derivatives g at a layer's output, the derivative is the sum of ``g . (D x)`` over positions,
which are taken as independent of each other. (They are, nearly, but for the values of attention,
for which the estimate can be too low by half.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]
"""A weight to the changed one."""


def divergences(
    model: nn.Module, texts: Iterable[Tensor], changes: Mapping[str, Change], *, seed: int = 0
) -> dict[str, float]:
    """Mean divergence, in nats per token, that the change of each layer would cause by itself.

    Args:
        model: in float, maps token ids [1, S] to logits [1, S, vocab] of every position.
        texts: token ids [1, S] each.
        changes: of linear layers, by name.
        seed: of the tokens that are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    differences: dict[str, Tensor] = {}
    for name, change in changes.items():
        weight = model.get_parameter(f"{name}.weight").detach()
        differences[name] = change(weight).to(weight.dtype) - weight
    totals = dict.fromkeys(changes, 0.0)
    positions = 0
    for text in texts:
        positions += text.shape[1]
        with _differentiated(model, changes) as seen:
            logits: Tensor = model(text)[0]
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
            score: Any = logits.log_softmax(-1).gather(1, drawn).sum()
            score.backward()
        for name, pairs in seen.items():
            for x, slope in pairs:
                along = ((x @ differences[name].T) * slope).sum(-1)
                totals[name] += float(along.square().sum())
    return {name: total / (2 * positions) for name, total in totals.items()}


@contextmanager
def _differentiated(
    model: nn.Module, names: Iterable[str]
) -> Iterator[Mapping[str, Sequence[tuple[Tensor, Tensor]]]]:
    """Collect inputs [S, in] and derivatives at outputs [S, out] of layers, by name."""
    seen: defaultdict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def note(_: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
            x = given[0].detach().flatten(0, -2)
            # Weights need no derivatives: they begin at the first of these layers.
            output.requires_grad_()
            output.register_hook(lambda slope: seen[name].append((x, slope.flatten(0, -2))))

        return note

    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.enable_grad():
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
