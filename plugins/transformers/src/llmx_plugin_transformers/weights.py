"""From the names under which ``transformers`` stores tensors to those of llmx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from llmx import Checkpoint, CheckpointError, WeightMap
from llmx_plugin_transformers.building import build_without_attention
from llmx_plugin_transformers.experts import is_experts
from llmx_plugin_transformers.parameters import REMEDY, TransformersParams

if TYPE_CHECKING:
    import torch

# What one stored expert or a stack of them is called in ``transformers``, and its parts here.
EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
# Buffers that older versions stored.
COMPUTED = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$|attention\.(masked_)?bias$")


def convert(
    checkpoint: Checkpoint, params: TransformersParams
) -> WeightMap | Iterator[tuple[str, torch.Tensor]]:
    """A map where names are all that differs, else the tensors in the order of the layers."""
    if checkpoint.layout != "hf":
        raise CheckpointError(
            f"{checkpoint.source} has the tensors of another format ({checkpoint.layout})",
            remedy="use the model's safetensors, as transformers stores them",
        )
    names = _Names.of(params)
    entries = {stored: names.target(stored) for stored in checkpoint.tensors}
    if not any(isinstance(each, _Rearranged) for each in entries.values()):
        plain = {key: each for key, each in entries.items() if not isinstance(each, _Rearranged)}
        return WeightMap({key: each for key, each in plain.items() if each != key})
    return _stream(checkpoint, entries)


@frozen
class _Rearranged:
    """A tensor that is stored transposed, or as the stack of all experts' weights."""

    name: str
    parts: tuple[str, ...] = ()

    def pieces(self, stored: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        if not self.parts:
            yield f"{self.name}.weight", stored.T
            return
        for expert, matrix in enumerate(stored):
            for part, rows in zip(self.parts, matrix.chunk(len(self.parts)), strict=True):
                yield f"{self.name}.{expert}.{part}.weight", rows


@frozen
class _Names:
    """The names of a model's parameters, and the rules by which stored names become these."""

    known: Mapping[str, str]
    transposed: frozenset[str]
    stacks: frozenset[str]
    prefix: str
    renamings: tuple[WeightRenaming, ...]
    converters: tuple[WeightConverter, ...]
    unneeded: tuple[str, ...]

    @classmethod
    def of(cls, params: TransformersParams) -> _Names:
        model, original, anatomy = build_without_attention(params.config)
        tied = f"{anatomy.head}.weight" if params.tied_embeddings else None
        rules = get_model_conversion_mapping(original)
        return cls(
            known={
                name: "" if name == tied else llmx_name(name, anatomy)
                for name, _ in model.named_parameters(remove_duplicate=False)
            },
            transposed=frozenset(
                name for name, each in original.named_modules() if type(each).__name__ == "Conv1D"
            ),
            stacks=frozenset(name for name, each in original.named_modules() if is_experts(each)),
            prefix=original.base_model_prefix,
            renamings=tuple(each for each in rules if isinstance(each, WeightRenaming)),
            converters=tuple(each for each in rules if isinstance(each, WeightConverter)),
            unneeded=tuple(original._keys_to_ignore_on_load_unexpected or ()),
        )

    def target(self, stored: str) -> str | _Rearranged | None:
        """What becomes of a stored tensor; its own name if nothing is known of it."""
        name = stored
        for rule in self.renamings:
            name, _ = rule.rename_source_key(name)
        name = self._of_one_expert(name)
        for each in (name, f"{self.prefix}.{name}", name.removeprefix(f"{self.prefix}.")):
            owner, _, last = each.rpartition(".")
            if owner in self.stacks and last in EXPERTS:
                inside = self._llmx_owner(owner)
                return _Rearranged(inside, EXPERTS[last])
            if owner in self.transposed and last == "weight":
                return _Rearranged(self.known[each].removesuffix(".weight"))
            if each in self.known:
                return self.known[each] or None
        if COMPUTED.search(name) or any(re.search(each, stored) for each in self.unneeded):
            return None
        return stored

    def _llmx_owner(self, stack: str) -> str:
        example = f"{stack}.0.{EXPERTS['down_proj'][0]}.weight"
        return self.known[example].removesuffix(example.removeprefix(stack))

    def _of_one_expert(self, name: str) -> str:
        """A tensor of one expert, under any of the names that models give to its parts."""
        for rule in self.converters:
            target = rule.target_patterns[0]
            owner, _, last = target.rpartition(".")
            parts = EXPERTS.get(last, ())
            for pattern, part in zip(rule.source_patterns, parts, strict=False):
                found = re.search(re.escape(pattern).replace(r"\*", r"(\d+)"), name)
                if found and found.lastindex == 1:
                    start, end = found.span()
                    return f"{name[:start]}{owner}.{found[1]}.{part}.weight{name[end:]}"
        return name


def llmx_name(name: str, anatomy: Any) -> str:
    """A parameter of the model as ``TransformersModel`` has it."""
    for place, ours in ((anatomy.embedding, "embedding"), (anatomy.head, "head")):
        if name.startswith(f"{place}."):
            return ours + name.removeprefix(place)
    if name.startswith(f"{anatomy.layers}."):
        index, _, rest = name.removeprefix(f"{anatomy.layers}.").partition(".")
        return f"layers.{index}.block.{rest}"
    return f"rest.{name}"


def _stream(
    checkpoint: Checkpoint, entries: Mapping[str, str | _Rearranged | None]
) -> Iterator[tuple[str, torch.Tensor]]:
    unknown = [stored for stored, each in entries.items() if each == stored]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.source} has tensors that the model does not take: "
            f"{', '.join(unknown[:3])}",
            remedy=REMEDY,
        )

    def place(stored: str) -> tuple[int, int]:
        target = entries[stored]
        name = target.name if isinstance(target, _Rearranged) else target or ""
        first, _, rest = name.partition(".")
        if first == "layers":
            return 1, int(rest.partition(".")[0])
        return (0 if first == "embedding" else 2), 0

    for stored in sorted(entries, key=place):
        target = entries[stored]
        if isinstance(target, _Rearranged):
            yield from target.pieces(checkpoint.read(stored))
        elif target is not None:
            yield target, checkpoint.read(stored)
