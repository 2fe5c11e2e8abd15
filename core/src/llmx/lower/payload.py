"""Delegate payloads that refer to weights by key: compare them, and point them at other weights."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from attrs import field, frozen
from executorch.exir._serialize._cord import FileBackedData
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import nn

from llmx.lower.template import IrregularError
from llmx.spool import SMALLEST, Spool

Content: TypeAlias = bytes | FileBackedData
DelegateData = Callable[[nn.Module], Mapping[str, tuple[str, bytes]] | None]
Role = tuple[str, str]
"""Name of a module within its layer, and what of it (weight, scale, …)."""
Roles = frozenset[tuple[int, Role]]
"""Whose a datum is: how many layers after the delegate's own, and what of it."""


@frozen
class LayerData:
    """The named data of every layer's weights, by role, and who owns a key."""

    layers: Sequence[Mapping[Role, tuple[str, Content]]]
    owners: Mapping[str, frozenset[tuple[int, Role]]] = field(repr=False)

    @classmethod
    def collect(cls, layers: Sequence[nn.Module], data: DelegateData, spool: Spool) -> LayerData:
        """Ask the backend for each module of each layer; what it gives waits in ``spool``."""
        tables = [dict(_layer_data(layer, data, spool)) for layer in layers]
        owners: dict[str, set[tuple[int, Role]]] = defaultdict(set)
        for index, table in enumerate(tables):
            for role, (key, _) in table.items():
                owners[key].add((index, role))
        return cls(tables, {key: frozenset(found) for key, found in owners.items()})

    def key(self, layer: int, role: Role) -> str:
        return self.layers[layer][role][0]

    def content(self, layer: int, role: Role) -> Content:
        return self.layers[layer][role][1]


def _layer_data(
    layer: nn.Module, data: DelegateData, spool: Spool
) -> Iterator[tuple[Role, tuple[str, Content]]]:
    for name, module in layer.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        for what, (key, content) in (data(module) or {}).items():
            yield (name, what), (key, _waiting(content, spool.folder))
    spool.let_go()


def _waiting(content: bytes, folder: Path) -> Content:
    """Bytes in a file that goes when they are no longer needed, unless they are few."""
    if len(content) < SMALLEST:
        return content
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
    return FileBackedData(file.name, cleanup=True)


def keys_in_order(module: LoweredBackendModule) -> list[tuple[int, str]]:
    """(position, key) of every named datum that the payload mentions, by position."""
    output = module.named_data_store_output
    if output is None or not output.pte_data:
        return []
    # Longest first: one key may be a part of another, as in "scale_<key>".
    keys = sorted(output.pte_data, key=len, reverse=True)
    pattern = re.compile(b"|".join(re.escape(key.encode()) for key in keys))
    return [
        (match.start(), match.group().decode())
        for match in pattern.finditer(module.processed_bytes)
    ]


def same_but_for_keys(first: LoweredBackendModule, second: LoweredBackendModule) -> bool:
    """Whether two payloads do the same with weights that may differ.

    Debug handles number the nodes of a graph: from one layer to the next they may all have grown
    by one and the same amount.
    """
    if first.backend_id != second.backend_id or first.compile_specs != second.compile_specs:
        return False
    places = [[(at, len(key)) for at, key in keys_in_order(each)] for each in (first, second)]
    if places[0] != places[1] or len(first.processed_bytes) != len(second.processed_bytes):
        return False
    words = zip(_words(first, places[0]), _words(second, places[1]), strict=True)
    return len({after - before for before, after in words if before != after}) <= 1


def _words(module: LoweredBackendModule, places: Sequence[tuple[int, int]]) -> memoryview:
    """The payload as 32-bit words, with its keys blanked."""
    payload = bytearray(module.processed_bytes)
    for at, length in places:
        payload[at : at + length] = bytes(length)
    payload.extend(bytes(-len(payload) % 4))
    return memoryview(payload).cast("I")


def roles_of(
    modules: Sequence[tuple[LoweredBackendModule, int]], data: LayerData, chosen: Sequence[int]
) -> list[Roles]:
    """What each key is in the payloads of delegates that are the same but for their layers.

    Args:
        modules: each with the place of its layer in the template.
        chosen: layers of the whole model by their places in the template.

    Returns:
        for every key, in order: whose datum it is, layers counted from the delegate's own. Empty
        for a constant that all layers share.

    Raises:
        IrregularError: a key changes from layer to layer and no layer owns it.
    """
    found = []
    for keys in zip(*([key for _, key in keys_in_order(each)] for each, _ in modules), strict=True):
        places = [place for _, place in modules]
        roles = frozenset.intersection(
            *(_near(key, place, data, chosen) for key, place in zip(keys, places, strict=True))
        )
        if not roles and len(set(keys)) > 1:
            raise IrregularError("the backend does not say how its payloads refer to weights")
        found.append(roles)
    return found


def _near(key: str, place: int, data: LayerData, chosen: Sequence[int]) -> Roles:
    owners = data.owners.get(key, frozenset())
    steps = {chosen[place + step]: step for step in (-1, 0, 1) if 0 <= place + step < len(chosen)}
    return frozenset((steps[layer], role) for layer, role in owners if layer in steps)


def rekeyed(
    module: LoweredBackendModule, roles: Sequence[Roles], layer: int, data: LayerData
) -> LoweredBackendModule:
    """A copy of ``module`` for the weights of ``layer`` of the whole model.

    Raises:
        IrregularError: a key stands for several weights that differ there.
    """
    output = module.named_data_store_output
    if output is None:
        return module
    store = NamedDataStore()
    payload = bytearray(module.processed_bytes)
    for (position, key), owners in zip(keys_in_order(module), roles, strict=True):
        entry = output.pte_data[key]
        content = output.buffers[entry.buffer_index]
        wanted = {data.key(layer + step, role) for step, role in owners} or {key}
        if len(wanted) > 1:
            raise IrregularError("one datum stands for several weights that differ elsewhere")
        (new_key,) = wanted
        if owners:
            step, role = next(iter(owners))
            content = data.content(layer + step, role)
        if len(new_key) != len(key):
            raise IrregularError("keys of different lengths cannot be exchanged")
        payload[position : position + len(key)] = new_key.encode()
        store.add_named_data(new_key, content, alignment=entry.alignment)
    return LoweredBackendModule(
        edge_program=module.original_module,
        backend_id=module.backend_id,
        processed_bytes=bytes(payload),
        compile_specs=module.compile_specs,
        named_data_store_output=store.get_named_data_store_output(),
    )
