"""A model of ``transformers`` with the signature of llmx's programs."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from llmx import CheckpointError
from llmx.model.cache_layout import layout_of
from llmx.model.decoder import positions_of
from llmx.model.kv_cache import AttentionCore, UncachedAttention
from llmx.model.ops import AttentionShape, BuildOptions, ModelOps
from llmx.model.vocabulary import InputTokens, OutputTokens
from llmx_plugin_transformers.attention import CORE, NAME, KeptCache, OwnArithmetic, Places, placed
from llmx_plugin_transformers.building import build_on_meta, kind_of_layer
from llmx_plugin_transformers.parameters import TransformersParams
from llmx_plugin_transformers.probe import Anatomy, own_attention

Hidden = Any
"""Hidden states, or a tuple that begins with them, as a model's layers give them."""


class Layer(nn.Module):
    """A layer of the model. Layers of equal ``kind`` and shapes compute the same.

    Attributes:
        block: as ``transformers`` made it.
        core: keeps its keys and values.
    """

    def __init__(self, block: nn.Module, core: AttentionCore, kind: Hashable) -> None:
        super().__init__()
        self.block = block
        self.kind = kind
        self._core = (core,)  # in a tuple: it belongs to the attention module

    @property
    def core(self) -> AttentionCore:
        return self._core[0]

    def forward(
        self, hidden: Tensor, places: Places, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """hidden [1, S, dim] and whatever else the model gives its layers."""
        with placed(places):
            given: Hidden = self.block(hidden, *args, **kwargs)
        out: Tensor = given[0] if isinstance(given, tuple) else given
        return out


class _Stand(nn.Module):
    """Stands in the model where a layer was, and hands its calls on."""

    def __init__(self, layer: nn.Module, block: nn.Module, places: Places, gives: bool) -> None:
        super().__init__()
        self._layer = (layer, block)
        self._places, self._gives_tuple = places, gives

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][1], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Hidden:
        out = self._layer[0](hidden, self._places, args, kwargs)
        return (out, None) if self._gives_tuple else out


class TransformersModel(nn.Module):
    """Embedding, layers and head under llmx's names, and ``rest``, the model around them.

    The model's own code runs, with these parts put into their places for the time of a call: so
    they can be quantized, pruned and repeated like those of any other family.
    """

    def __init__(self, params: TransformersParams, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__()
        if build.sinks is not None:
            raise CheckpointError(
                "attention sinks turn keys that are kept, which only llmx's own decoder does",
                remedy="leave model.use_attention_sink out",
            )
        model, anatomy = build_on_meta(params.config, NAME, build)
        self.anatomy: Anatomy = anatomy
        self.full_logits = build.full_logits
        inputs, outputs, vocab_size = build.inputs, build.outputs, params.vocab_size
        self.inputs = nn.Identity() if inputs is None else InputTokens(inputs, vocab_size)
        table, head = model.get_submodule(anatomy.embedding), model.get_submodule(anatomy.head)
        self.embedding: nn.Module = nn.Embedding(len(inputs or range(vocab_size)), params.dim)
        # Some models scale rows in the table's own module, which a quantized one replaces.
        self.row_scale = float(getattr(table, "scalar_embed_scale", 1.0))
        self.layers = nn.ModuleList()
        for index, block in enumerate(model.get_submodule(anatomy.layers).children()):
            core = _attach_core(index, block, params, anatomy, ops, build)
            self.layers.append(Layer(block, core, kind_of_layer(model.config, block, index)))
        bias = head.bias is not None
        self.head: nn.Module = nn.Linear(params.dim, len(outputs or range(vocab_size)), bias=bias)
        self.outputs = nn.Identity() if outputs is None else OutputTokens(outputs, vocab_size)
        for name in (anatomy.embedding, anatomy.head):
            model.set_submodule(name, nn.Identity())
        model.set_submodule(anatomy.layers, nn.ModuleList())
        if anatomy.by_cache:
            model.config._attn_implementation = own_attention(model)
        self.last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.rest = model

    def forward(self, tokens: Tensor, input_pos: Tensor | None = None) -> Tensor:
        """tokens [1, S] int64, input_pos [1] int64 (position of the first; absent: 0).

        Returns logits [1, vocab] of the last position, or [1, S, vocab] with ``full_logits``.
        """
        positions, start = positions_of(tokens, input_pos)
        rows = self.embedding(self.inputs(tokens))
        if self.row_scale != 1.0:
            rows = rows * self.row_scale
        cores = [layer.core for layer in self._layers]
        places = {
            core.kind: core.place(positions, start, None)
            for core in {core.kind: core for core in cores}.values()
        }
        options: dict[str, Any] = {"use_cache": False}
        if self.anatomy.by_cache:
            mask = next(iter(places.values()))[1]
            options = {"use_cache": True, "past_key_values": KeptCache(cores)}
            options["attention_mask"] = mask
        if self.last_only and not self.full_logits:
            options["logits_to_keep"] = 1
        with self._assembled(places):
            logits = self.rest(
                inputs_embeds=rows, position_ids=positions.unsqueeze(0), **options
            ).logits
        if not self.full_logits:
            logits = logits[:, -1]
        out: Tensor = self.outputs(logits)
        return out

    @property
    def _layers(self) -> list[Any]:
        return list(self.layers)

    @contextmanager
    def _assembled(self, places: Places) -> Iterator[None]:
        """The model complete: what is quantized or repeated meanwhile is another module."""
        stands = [
            _Stand(layer, layer.block, places, self.anatomy.returns_tuple) for layer in self._layers
        ]
        list_slot, head_slot = self._slot(self.anatomy.layers), self._slot(self.anatomy.head)
        list_slot[0][list_slot[1]] = nn.ModuleList(stands)
        head_slot[0][head_slot[1]] = self.head
        try:
            yield
        finally:
            list_slot[0][list_slot[1]] = nn.ModuleList()
            head_slot[0][head_slot[1]] = nn.Identity()

    def _slot(self, path: str) -> tuple[dict[str, nn.Module | None], str]:
        """Where a module of ``rest`` is kept, and under which name."""
        owner, _, name = path.rpartition(".")
        # torch.export puts proxies around modules, whose _modules is a copy; __dict__ is not.
        modules = self.rest.get_submodule(owner).__dict__["_modules"]
        return modules, name


def _attach_core(
    index: int,
    block: nn.Module,
    params: TransformersParams,
    anatomy: Anatomy,
    ops: ModelOps,
    build: BuildOptions,
) -> AttentionCore:
    attention = anatomy.attention[index]
    shape = AttentionShape(
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        head_dim=attention.key_dim,
        layout=layout_of(index, params, build),
        dtype=build.dtype,
    )
    core = ops.attention(shape)
    if attention.own:
        cached = not isinstance(core, UncachedAttention)
        core = OwnArithmetic(shape, attention.value_dim, cached=cached)
    owner: Any = block.get_submodule(attention.module)
    setattr(owner, CORE, core)
    return core
