"""Which tokens a layer attends to, and in which slot of its cache each of them is kept.

Positions count the tokens of the whole text. What a slot holds follows from the position of the
last token alone, so nothing has to be remembered or reset between calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

if TYPE_CHECKING:
    from llmx.model.ops import BuildOptions
    from llmx.model.params import DecoderParams


@frozen(eq=False)
class Placement:
    """``slots`` [N] int64 that a call writes, and ``visible`` [S, all slots] bool to its queries.

    N is S, the number of tokens, unless a layout keeps copies.
    """

    slots: Tensor
    visible: Tensor


@frozen
class WholeContext:
    """All tokens so far; each has a slot of its own."""

    slots: int

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [S, 1] and [T] -> [S, T] of bool."""
        return queries >= keys

    def place(self, positions: Tensor) -> Placement:
        """For consecutive positions [S]."""
        slots = torch.arange(self.slots, device=positions.device)
        return Placement(positions, self.visible(positions.unsqueeze(1), slots))


@frozen
class SlidingWindow:
    """The last ``window`` tokens, the own one included; the oldest slot is used again.

    A call writes all its tokens before the first of them attends. So that this one still finds
    its window, there must be as many more slots as a call has further tokens, unless the whole
    context has slots anyway.
    """

    window: int
    slots: int

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [S, 1] and [T] -> [S, T] of bool."""
        return (queries >= keys) & (queries - keys < self.window)

    def place(self, positions: Tensor) -> Placement:
        """For consecutive positions [S]."""
        slots = torch.arange(self.slots, device=positions.device)
        last = positions[-1:]
        # The latest position that falls on each slot; negative where none has yet.
        held = last - (last - slots) % self.slots
        visible = self.visible(positions.unsqueeze(1), held) & (held >= 0)
        return Placement(positions % self.slots, visible)


@frozen
class SinksAndWindow:
    """The first ``sinks`` tokens and the last ``window`` ones (https://arxiv.org/abs/2309.17453).

    Every query sees the sinks right before its window. It takes turned copies of them for that,
    whose slots come first, ``sinks`` for each of the ``longest_call`` queries of a call.
    """

    sinks: int
    window: int
    longest_call: int

    @property
    def ring(self) -> SlidingWindow:
        return SlidingWindow(self.window, self.window + self.longest_call - 1)

    @property
    def slots(self) -> int:
        return self.sinks * self.longest_call + self.ring.slots

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [S, 1] and [T] -> [S, T] of bool."""
        return (queries >= keys) & ((queries - keys < self.window) | (keys < self.sinks))

    def turns(self, positions: Tensor) -> Tensor:
        """Tokens by which a sink has to come closer to each position [S] int64."""
        return (positions - (self.sinks + self.window - 1)).clamp(min=0)

    def place(self, positions: Tensor) -> Placement:
        """For consecutive positions [S]; ``slots`` [S * sinks + S], copies first."""
        ring = self.ring.place(positions)
        queries = positions.unsqueeze(1)
        first = self.sinks * self.longest_call
        call = positions - positions[:1]
        copies = torch.arange(first, device=positions.device)
        sinks = copies % self.sinks
        # A sink that is in the window too is seen there.
        own = (copies // self.sinks == call.unsqueeze(1)) & (queries - sinks >= self.window)
        written = call.unsqueeze(1) * self.sinks + sinks[: self.sinks]
        return Placement(
            torch.cat((written.view(-1), ring.slots + first)),
            torch.cat((own, ring.visible), dim=1),
        )


CacheLayout = WholeContext | SlidingWindow | SinksAndWindow


def layout_of(layer: int, params: DecoderParams, build: BuildOptions) -> CacheLayout:
    """The layout of a layer, from the model's windows and the job's."""
    context = build.max_context_length
    if build.sinks is not None:
        return SinksAndWindow(build.sinks.sinks, build.sinks.window, build.longest_call)
    windows = [params.layer_window(layer)]
    if build.windows:
        windows.append(build.windows[layer % len(build.windows)] or None)
    narrowest = min((each for each in windows if each is not None), default=context)
    if narrowest >= context:
        return WholeContext(context)
    return SlidingWindow(narrowest, min(narrowest + build.longest_call - 1, context))
