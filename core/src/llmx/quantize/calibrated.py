"""Quantizing layer by layer with the inputs that each layer has when the text gets there.

Texts pass through the layers that are quantized already, and what comes out is what the next layer
is rounded for. Only one layer is held in float at a time, besides a head of few bits.

A layer is not asked to make up for the error of those before it (as in GPTAQ, Li et al.,
https://arxiv.org/abs/2504.02692): with a text of a few thousand tokens that fits the text itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from llmx.memory import give_back
from llmx.model.kv_cache import cores_of
from llmx.quantize.account import WeightRecord
from llmx.quantize.codes import Codes
from llmx.quantize.gptq import Gptq, Moments, relative_output_error
from llmx.quantize.plan import ROW_BITS, Scheme
from llmx.quantize.probing import (
    arguments_of,
    arguments_of_each,
    buffers_kept,
    int8_inputs,
    replaced,
)
from llmx.quantize.recollection import Recollection, parts_without, recollection
from llmx.quiet import native_stderr_captured

LAYERS = "layers"


class Finisher(Protocol):
    """Puts integers into the model in place of a float module, and accounts for it."""

    schemes: Mapping[str, Scheme]

    def widened(self, tensor: Tensor) -> Tensor: ...

    def finish(
        self,
        name: str,
        module: nn.Module,
        codes: Codes | None = None,
        output_error: float | None = None,
    ) -> WeightRecord: ...


@frozen
class _Text:
    """One text on its way through the model: hidden states, and what else each layer is given."""

    hidden: Tensor
    rest: Sequence[tuple[Any, ...]]

    def through(self, layer: nn.Module, index: int) -> Tensor:
        """The hidden states after the layer of this index."""
        out: Tensor = layer(self.hidden, *self.rest[index])
        return out


Rounded = tuple[Codes, float]
"""A weight's integers and scales, and the relative error of its layer's output."""


class Results(Protocol):
    """What came out for weights, texts and settings that were the same."""

    def find(self, name: str, scheme: Scheme) -> Rounded | None: ...

    def keep(self, name: str, rounded: Rounded) -> None: ...


class NoResults:
    """Of a calibration that nobody remembers."""

    def find(self, name: str, scheme: Scheme) -> Rounded | None:
        return None

    def keep(self, name: str, rounded: Rounded) -> None:
        pass


@frozen
class Calibration:
    """What layers are rounded for: ``texts``, token ids [1, S] each.

    ``call``: (model, tokens) runs a model on a text from its beginning. ``solver``: how one weight
    is rounded. ``results``: of an earlier run, which need not be found again.
    """

    texts: Sequence[Tensor]
    call: Callable[[nn.Module, Tensor], object]
    solver: Gptq = field(factory=Gptq)
    results: Results = field(factory=NoResults)


@define
class CalibratedLayers:
    """Takes modules as their weights arrive and finishes each as soon as that can be done.

    Texts wait before the first layer that they have yet to pass through, until one comes that has
    something to be rounded.

    Args:
        model: has a list of ``layers``; each maps hidden states, its first argument, to new ones.
        finisher: what installs the result.
        calibration: the texts.
    """

    model: nn.Module
    finisher: Finisher
    calibration: Calibration
    _missing: dict[int, set[str]] = field(init=False)
    _waiting: dict[str, nn.Module] = field(factory=dict, init=False)
    _heads: dict[str, nn.Linear] = field(factory=dict, init=False)
    _states: list[_Text] = field(factory=list, init=False)
    _ahead: list[int] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._missing = {}
        for name, module in self.model.named_modules():
            layer = _layer_of(name)
            if layer is not None and next(module.parameters(recurse=False), None) is not None:
                self._missing.setdefault(layer, set()).add(name)

    def held(self, name: str, tensor: Tensor) -> Tensor:
        """In the type that the layers compute in."""
        return self.finisher.widened(tensor)

    def take(self, name: str, module: nn.Module, *, finished: bool) -> Iterator[WeightRecord]:
        """A module has its weights; records of those that are finished by it, or none yet.

        ``finished``: there is nothing to be done about it any more.
        """
        layer = _layer_of(name)
        if not finished and layer is not None:
            self._waiting[name] = module
        elif not finished and self._is_calibrated(module, name):
            self._heads[name] = module
        elif not finished:
            yield self.finisher.finish(name, module)
        if layer is not None:
            self._missing[layer].remove(name)
            if not self._missing[layer]:
                yield from self._finish_layer(layer)

    def end(self) -> Iterator[WeightRecord]:
        """All weights have arrived."""
        for name, head in self._heads.items():
            results = self._known({name: head})
            if results is None:
                # Not while records are taken: whoever takes them shows progress on that stream.
                with torch.no_grad(), native_stderr_captured():
                    self._catch_up()
                    results = self._kept(self._head(name, head))
            yield self.finisher.finish(name, head, *results[name])
        self._heads.clear()

    def _finish_layer(self, index: int) -> Iterator[WeightRecord]:
        waiting, self._waiting = self._waiting, {}
        linears = {
            name: module
            for name, module in waiting.items()
            if isinstance(module, nn.Linear) and name in self.finisher.schemes
        }
        results = self._known(linears)
        if results is None:
            with torch.no_grad(), native_stderr_captured():
                self._catch_up()
                results = self._kept(self._rounded(index, linears))
        else:
            self._ahead.append(index)
        for name, module in waiting.items():
            yield self.finisher.finish(name, module, *results.get(name, (None, None)))

    def _known(self, linears: Mapping[str, nn.Linear]) -> dict[str, Rounded] | None:
        """What an earlier run found for all of them, or nothing."""
        found = {}
        for name in linears:
            known = self.calibration.results.find(name, self.finisher.schemes[name])
            if known is None:
                return None
            found[name] = known
        return found

    def _kept(self, results: dict[str, Rounded]) -> dict[str, Rounded]:
        for name, each in results.items():
            self.calibration.results.keep(name, each)
        return results

    def _is_calibrated(self, module: nn.Module, name: str) -> TypeGuard[nn.Linear]:
        # Rounding to 8 bits leaves nothing to gain.
        scheme = self.finisher.schemes.get(name)
        return isinstance(module, nn.Linear) and scheme is not None and scheme.bits < ROW_BITS

    # Before the layers.

    def _catch_up(self) -> None:
        """Let the texts pass through all layers that are finished."""
        if not self._states:
            self._states = [self._before_layers(tokens) for tokens in self.calibration.texts]
        for index in self._ahead:
            layer = self._layers[index]
            with buffers_kept(layer):
                self._pass(layer, index, self._states)
        self._ahead.clear()

    def _pass(self, layer: nn.Module, index: int, texts: Iterable[_Text]) -> None:
        self._states = [_Text(each.through(layer, index), each.rest) for each in texts]

    def _before_layers(self, tokens: Tensor) -> _Text:
        given = arguments_of_each(self._layers, lambda: self.calibration.call(self.model, tokens))
        return _Text(given[0][0], [each[1:] for each in given])

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.model.get_submodule(LAYERS).children())

    # One layer.

    def _rounded(self, index: int, linears: Mapping[str, nn.Linear]) -> dict[str, Rounded]:
        """Round a layer's linear layers; the texts are behind the rounded layer then."""
        layer = self._layers[index]
        results: dict[str, Rounded] = {}
        originals = {name: module.weight for name, module in linears.items()}
        with (
            buffers_kept(layer),
            int8_inputs(linears, self.finisher.schemes),
            recollection() as known,
        ):
            # What is called before the linear layer whose inputs are asked for is settled.
            known.keep(cores_of(layer))
            pending = set(linears.values())
            for group in self._same_inputs(index, linears):
                mean = self._mean(index, linears[group[0]], known)
                results.update(self._solve({name: linears[name] for name in group}, mean))
                give_back()
                for name in group:
                    rounded = results[name][0].dequantize().to(originals[name].dtype)
                    linears[name].weight = nn.Parameter(rounded, requires_grad=False)
                    pending.remove(linears[name])
                known.keep(parts_without(layer, pending, set(linears.values())))
            self._pass(layer, index, known.each(self._states))
        for name, linear in linears.items():
            linear.weight = originals[name]
        return results

    def _same_inputs(self, index: int, linears: Mapping[str, nn.Linear]) -> list[list[str]]:
        """Names of linear layers in order of use; those that are given one tensor together."""
        names: dict[nn.Module, str] = {module: name for name, module in linears.items()}
        used: list[tuple[str, Tensor]] = []

        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            used.append((names[module], given[0]))

        # Before the hook that rounds: it makes a tensor for each.
        hooks = [each.register_forward_pre_hook(note, prepend=True) for each in names]
        self._states[0].through(self._layers[index], index)
        for hook in hooks:
            hook.remove()
        groups: dict[int, list[str]] = {}
        for name, tensor in used:
            groups.setdefault(id(tensor), []).append(name)
        return list(groups.values())

    def _mean(self, index: int, linear: nn.Linear, known: Recollection) -> Tensor:
        """The mean of x x^T [width, width] over all that the linear layer is given."""
        mean = _Mean(linear.in_features)
        for each in known.each(self._states):
            run = partial(each.through, self._layers[index], index)
            mean.add(arguments_of(linear, run)[0])
        return mean.value

    def _solve(
        self, linears: Mapping[str, nn.Linear], mean: Tensor
    ) -> Iterator[tuple[str, Rounded]]:
        """Round layers that are given the same inputs, and tell the errors of their outputs."""
        moments = Moments.of(mean, self.calibration.solver.damping)
        schemes = self.finisher.schemes
        for scheme in dict.fromkeys(schemes[name] for name in linears):
            names = [name for name in linears if schemes[name] == scheme]
            weights = [linears[name].weight.detach().float() for name in names]
            together = self.calibration.solver.solve(torch.cat(weights), moments, scheme)
            start = 0
            for name, weight in zip(names, weights, strict=True):
                rows = slice(start, start + len(weight))
                start = rows.stop
                # Copies: a slice would keep all of them.
                codes = Codes(together.values[rows].clone(), together.scales[rows].clone(), scheme)
                yield name, (codes, relative_output_error(codes, weight, mean))

    # After the layers.

    def _head(self, name: str, head: nn.Linear) -> dict[str, Rounded]:
        def inputs() -> Iterator[Tensor]:
            for tokens, each in zip(self.calibration.texts, self._states, strict=True):
                # Every position takes the place of the last one, which alone may give logits.
                states = each.hidden.transpose(0, 1)
                run = partial(self.calibration.call, self.model, tokens)
                with replaced(self._layers, lambda *_, given=states: given):
                    yield arguments_of(head, run)[0]

        mean = _Mean(head.in_features)
        with int8_inputs({name: head}, self.finisher.schemes):
            for each in inputs():
                mean.add(each)
        return dict(self._solve({name: head}, mean.value))


@define
class _Mean:
    """The mean of x x^T [width, width] over vectors that come some at a time."""

    width: int
    count: int = 0
    total: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = torch.zeros(self.width, self.width)

    def add(self, vectors: Tensor) -> None:
        x = vectors.reshape(-1, self.width).float()
        self.total.addmm_(x.T, x)
        self.count += len(x)

    @property
    def value(self) -> Tensor:
        return self.total / self.count


def _layer_of(name: str) -> int | None:
    first, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if first == LAYERS and rest else None
