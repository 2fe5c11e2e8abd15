"""What a model of ``transformers`` does, found by running it without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from llmx import CheckpointError

PROBE = "llmx_probe"
LENGTH = 8
STACK = 3  # dimensions of weights that are several matrices
REMEDY = "a plugin for this model's own family can supply build_model"
# Arithmetic that only the model's own code does: scores that are capped, sinks that are learned.
OWN = {"softcap", "s_aux"}
KNOWN = OWN | {
    "sliding_window", "position_ids", "use_cache", "output_attentions", "cache_position",
    "is_causal", "position_embeddings", "layer_idx",
}  # fmt: skip
Note = Callable[["Attention", nn.Module], None]
_NOTE: ContextVar[Note] = ContextVar("note")


@frozen(kw_only=True)
class Attention:
    """One layer's attention, by name within the layer and by shape.

    ``window`` is in tokens; ``own`` says that scores are capped or sinks are learned, which only
    the model's own code does.
    """

    module: str
    n_heads: int
    n_kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None
    own: bool


@frozen
class Anatomy:
    """Where a model's parts are.

    ``by_cache``: it attends by itself and asks a ``Cache`` for keys and values.
    ``returns_tuple``: its layers give hidden states as the first of several results.
    """

    layers: str
    embedding: str
    head: str
    attention: tuple[Attention, ...]
    by_cache: bool
    returns_tuple: bool


def probe(model: Any) -> Anatomy:
    """Run a model on the meta device that was built with the attention ``PROBE``.

    Raises:
        CheckpointError: a part of it stands in the way; the message names that part.
    """
    layers = _layer_list(model)
    embedding, head = _tables(model)
    attention: list[Attention | None] = []
    results: list[object] = []
    hook = model.get_submodule(layers)[0].register_forward_hook(
        lambda _, __, given: results.append(given)
    )
    try:
        attention = _ask_interface(model, layers)
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        _refuse_stacks(model)
        cause: Exception | None = error
    else:
        cause = None
    by_cache = not any(attention)
    if by_cache:
        attention = _ask_cache(model, layers, cause)
    hook.remove()
    for index, found in enumerate(attention):
        if found is None:
            raise _no_attention(model.get_submodule(layers)[index], index)
    _refuse_stacks(model)
    return Anatomy(
        layers=layers,
        embedding=embedding,
        head=head,
        attention=tuple(each for each in attention if each is not None),
        by_cache=by_cache,
        returns_tuple=isinstance(results[-1], tuple),
    )


def _no_attention(block: nn.Module, index: int) -> CheckpointError:
    return CheckpointError(
        f"layer {index} ({_parts(block)}) does not attend, so it keeps a state that is no cache "
        "of keys and values",
        remedy=REMEDY,
    )


def _parts(block: nn.Module) -> str:
    parts = ", ".join(type(each).__name__ for each in block.children())
    return f"{type(block).__name__}: {parts}"


def _refuse_stacks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(each.ndim == STACK for each in module.parameters(recurse=False)):
            raise CheckpointError(
                f"{name} ({type(module).__name__}) has weights stacked in an unknown order",
                remedy=REMEDY,
            )


def _layer_list(model: Any) -> str:
    count = model.config.num_hidden_layers
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and count
    ]
    if not names:
        raise CheckpointError(
            f"{type(model).__name__} has no list of {count} layers", remedy=REMEDY
        )
    found: str = min(names, key=lambda name: name.count("."))
    return found


def _tables(model: Any) -> tuple[str, str]:
    names = {module: name for name, module in model.named_modules()}
    found = []
    for kind, module in (
        ("input embedding", model.get_input_embeddings()),
        ("output layer", model.get_output_embeddings()),
    ):
        wanted = nn.Embedding if kind == "input embedding" else nn.Linear
        if not isinstance(module, wanted):
            raise CheckpointError(
                f"{type(model).__name__} has no {kind} of the usual kind", remedy=REMEDY
            )
        found.append(names[module])
    return found[0], found[1]


@contextmanager
def _noting(model: Any, layers: str) -> Iterator[tuple[list[Attention | None], Any]]:
    """What was found for each layer, and a function that notes it for the layer that runs."""
    blocks = list(model.get_submodule(layers))
    notes: list[Attention | None] = [None] * len(blocks)
    running: list[int] = []
    hooks = []

    def leave(*_: Any) -> None:
        running.pop()

    for index, block in enumerate(blocks):

        def enter(*_: Any, index: int = index) -> None:
            running.append(index)

        hooks.append(block.register_forward_pre_hook(enter))
        hooks.append(block.register_forward_hook(leave))

    def note(attention: Attention, module: nn.Module | None) -> None:
        if not running or notes[running[-1]] is not None:
            raise CheckpointError(
                f"{type(model).__name__} attends more than once in a layer, or outside of them",
                remedy=REMEDY,
            )
        index = running[-1]
        path = next((name for name, each in blocks[index].named_modules() if each is module), "")
        notes[index] = evolve(attention, module=path)

    try:
        yield notes, note
    finally:
        for hook in hooks:
            hook.remove()


def _note_and_skip(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """As ``AttentionInterface`` asks; what it gives has the right shape only."""
    kind = type(module).__name__
    if attention_mask is not None or getattr(module, "is_causal", True) is False:
        raise CheckpointError(f"{kind} has a mask of its own, not a causal one", remedy=REMEDY)
    told = {name for name, given in others.items() if given is not None and given is not False}
    strange = sorted(told - KNOWN)
    if strange:
        raise CheckpointError(
            f"{kind} gives its attention {', '.join(strange)}, which llmx does not know",
            remedy=REMEDY,
        )
    found = Attention(
        module="",
        n_heads=query.shape[1],
        n_kv_heads=key.shape[1],
        key_dim=query.shape[-1],
        value_dim=value.shape[-1],
        window=others.get("sliding_window"),
        own=any(others.get(name) is not None for name in OWN),
    )
    _NOTE.get()(found, module)
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(PROBE, _note_and_skip)


def _ask_interface(model: Any, layers: str) -> list[Attention | None]:
    with _noting(model, layers) as (notes, note):
        token = _NOTE.set(note)
        try:
            _run(model, None)
        finally:
            _NOTE.reset(token)
    return notes


class _NotedLayer(CacheLayerMixin):  # type: ignore[misc]
    def __init__(self, note: Any) -> None:
        super().__init__()
        self.note = note

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is kept."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        heads, width = key_states.shape[1], key_states.shape[-1]
        self.note(
            Attention(
                module="",
                n_heads=heads,
                n_kv_heads=heads,
                key_dim=width,
                value_dim=value_states.shape[-1],
                window=None,
                own=True,
            ),
            None,
        )
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _ask_cache(model: Any, layers: str, cause: Exception | None) -> list[Attention | None]:
    model.config._attn_implementation = own_attention(model)
    with _noting(model, layers) as (notes, note):
        cache = Cache(layers=[_NotedLayer(note) for _ in notes])
        try:
            _run(model, cache)
        except CheckpointError:
            raise
        except Exception as error:
            block = model.get_submodule(layers)[0]
            if cause is None:
                raise CheckpointError(
                    f"layer 0 ({_parts(block)}) takes neither attention nor a cache of keys and "
                    "values from outside",
                    remedy=REMEDY,
                ) from error
            reason = str(cause).splitlines()[0]
            raise CheckpointError(
                f"{type(model).__name__} takes neither attention nor a cache from outside, "
                f"layer 0 is {_parts(block)}: {reason}",
                remedy=REMEDY,
            ) from error
    return notes


def own_attention(model: Any) -> str:
    """How a model attends by itself under any mask."""
    return "sdpa" if model._supports_sdpa else "eager"


def _run(model: Any, cache: Cache | None) -> None:
    with torch.device("meta"), torch.no_grad():
        tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
        mask = None if cache is None else torch.zeros(1, 1, LENGTH, LENGTH)
        model(
            inputs_embeds=model.get_input_embeddings()(tokens),
            position_ids=torch.arange(LENGTH).unsqueeze(0),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
