"""A method's state, such as its KV caches, and the bytes of its parts between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from llmx.pte.methods import Method, Step

CACHES_PER_LAYER = 2  # keys and values, where the program does not say how many layers it has


@frozen
class State:
    """Tensors that survive a call, by layer.

    Attributes:
        bytes: all of them.
        bytes_per_token: of those that have a place for each token of the context; ``None`` if
            there is none, or the program does not tell its context length.
    """

    layers: tuple[tuple[int, ...], ...]
    bytes: int
    bytes_per_token: int | None


@frozen
class Part:
    """Consecutive steps up to and with a layer's attention, or behind the last one.

    Attributes:
        kernels, delegates: calls.
        constant_bytes: of kernels; ``delegate_bytes``: payloads and named data. What several
            parts use counts for the first.
    """

    kernels: int
    delegates: int
    constant_bytes: int
    delegate_bytes: int


def find_state(method: Method, context: int | None, layers: int | None) -> State:
    """State is what a kernel reads although no step before it has written it.

    State that a delegate keeps to itself is not seen.
    """
    found = tuple(_unwritten(method))
    # The last dimension is that of a token's elements, however many there are.
    caches = [each for each in found if context in method.tensors[each].sizes[:-1]]
    per_layer = CACHES_PER_LAYER
    if layers and caches and len(caches) % layers == 0:
        per_layer = len(caches) // layers
    total = sum(method.tensors[each].bytes for each in caches)
    return State(
        layers=tuple(
            tuple(caches[start : start + per_layer]) for start in range(0, len(caches), per_layer)
        ),
        bytes=sum(method.tensors[each].bytes for each in found),
        bytes_per_token=total // context if context and caches else None,
    )


def _unwritten(method: Method) -> Iterator[int]:
    written = _storages(method, method.inputs)
    for step in method.steps:
        if step.kind == "kernel":
            for item in _read(method, step):
                tensor = method.tensors.get(item)
                if tensor and tensor.storage and tensor.storage not in written:
                    written.add(tensor.storage)
                    yield item
        written |= _storages(method, step.values)


def _read(method: Method, step: Step) -> Iterator[int]:
    """A kernel's arguments without its results, which come last; it may change the first one."""
    results = method.items(step.values[-1]) if step.values else ()
    for at, value in enumerate(step.values):
        items = method.items(value)
        if items != results or at == 0:
            yield from items


def _storages(method: Method, values: Sequence[int]) -> set[tuple[int, int]]:
    tensors = (method.tensors.get(item) for each in values for item in method.items(each))
    return {each.storage for each in tensors if each and each.storage}


def find_parts(
    method: Method,
    state: State,
    constants: Sequence[int],
    payloads: Sequence[int],
    named: Sequence[Mapping[str, int]],
) -> tuple[Part, ...]:
    """Bytes in the order of execution.

    Args:
        constants: bytes of each constant of the program.
        payloads: bytes of each delegate's payload.
        named: bytes of the named data of each delegate.
    """
    counted: set[int | str] = set()
    return tuple(
        _sum(steps, method, constants, payloads, named, counted) for steps in _split(method, state)
    )


def _split(method: Method, state: State) -> Iterator[Sequence[Step]]:
    """Cut behind the last use of each layer's caches."""
    layer_of = {value: index for index, layer in enumerate(state.layers) for value in layer}
    last: dict[int, int] = {}
    for at, step in enumerate(method.steps):
        for layer in {layer_of[value] for value in step.values if value in layer_of}:
            last[layer] = at
    start = 0
    for end in sorted(last.values()):
        yield method.steps[start : end + 1]
        start = end + 1
    yield method.steps[start:]


def _sum(
    steps: Sequence[Step],
    method: Method,
    constants: Sequence[int],
    payloads: Sequence[int],
    named: Sequence[Mapping[str, int]],
    counted: set[int | str],
) -> Part:
    constant_bytes = delegate_bytes = 0
    for step in steps:
        for value in step.values:
            tensor = method.tensors.get(value)
            index = tensor.constant if tensor and tensor.storage is None else 0
            if 0 < index < len(constants) and index not in counted:
                counted.add(index)
                constant_bytes += constants[index]
        if step.kind == "delegate":
            delegate_bytes += payloads[step.index]
            for key, size in named[step.index].items():
                if key not in counted:
                    counted.add(key)
                    delegate_bytes += size
    return Part(
        kernels=sum(step.kind == "kernel" for step in steps),
        delegates=sum(step.kind == "delegate" for step in steps),
        constant_bytes=constant_bytes,
        delegate_bytes=delegate_bytes,
    )
