"""What a ``.pte`` consists of, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from llmx.errors import ArtifactError
from llmx.pte.constants import Constants, constants_of, mapped
from llmx.pte.data_files import files_named, read_keys
from llmx.pte.flatbuffer import Buffer, MalformedError
from llmx.pte.layout import PLANS, VERSION, Layout, read_layout
from llmx.pte.methods import Method, Tensor
from llmx.pte.parts import Part, State, find_parts, find_state
from llmx.pte.payloads import DelegateInfo, Payloads

CONSTANTS, STATE, NAMED, PAYLOAD = "constants", "initial state", "named data", "payload"


@frozen
class SegmentInfo:
    """A segment: what it holds, by ``name`` where it has one."""

    kind: str
    name: str
    bytes: int


@frozen
class MethodInfo:
    """A method that computes something.

    Attributes:
        inputs, outputs: tensors, or the names of other types.
        planned_bytes: memory for activations and state.
        kernels: calls of each operator that the runtime must bring.
        external: keys of tensors whose data are in another file.
        state: what survives a call, such as KV caches.
        parts: bytes in the order of execution.
    """

    name: str
    inputs: tuple[Tensor | str, ...]
    outputs: tuple[Tensor | str, ...]
    planned_bytes: int
    kernels: Mapping[str, int]
    delegates: tuple[DelegateInfo, ...]
    external: tuple[str, ...]
    state: State
    parts: tuple[Part, ...]


@frozen
class DataFileInfo:
    """A file beside the program with weights of it: bytes in all, and of each key.

    A file that is not there has ``None`` bytes.
    """

    name: str
    bytes: int | None
    keys: Mapping[str, int]


@frozen
class Contents:
    """A program's parts.

    Attributes:
        program_bytes: header and flatbuffer, before the segments.
        metadata: what constant methods return; a single value or several.
        data_files: what the program needs beside it.
    """

    path: Path
    bytes: int
    version: int
    program_bytes: int
    metadata: Constants
    methods: tuple[MethodInfo, ...]
    segments: tuple[SegmentInfo, ...]
    data_files: tuple[DataFileInfo, ...]


def read_contents(path: Path) -> Contents:
    """Read any ``.pte``, whoever made it.

    Raises:
        ArtifactError: it cannot be read, or it is damaged.
    """
    try:
        with mapped(path) as data:
            return _read(path, data)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    except MalformedError as error:
        raise ArtifactError(f"{path}: {error}", remedy="name a complete .pte file") from error


def _read(path: Path, data: Buffer) -> Contents:
    layout = read_layout(data)
    methods = [Method(plan) for plan in layout.root.tables(PLANS)]
    metadata = constants_of(methods)
    data_files = tuple(_data_files(path, metadata))
    elsewhere = {key: size for each in data_files for key, size in each.keys.items()}
    context = metadata.get("get_max_context_len", metadata.get("get_max_seq_len"))
    layers = metadata.get("get_n_layers")
    payloads = Payloads(data, layout, elsewhere)
    working = tuple(
        _describe(
            each,
            layout,
            payloads,
            context if isinstance(context, int) else None,
            layers if isinstance(layers, int) else None,
        )
        for each in methods
        if each.name not in metadata
    )
    return Contents(
        path=path,
        bytes=len(data),
        version=layout.root.number(VERSION, "I"),
        program_bytes=layout.base,
        metadata=metadata,
        methods=working,
        segments=tuple(_segments(layout, methods)),
        data_files=data_files,
    )


def _data_files(path: Path, metadata: Constants) -> Iterator[DataFileInfo]:
    for each in files_named(path, metadata):
        if not each.path.is_file():
            yield DataFileInfo(each.path.name, None, {})
            continue
        try:
            keys = {key: where.size for key, where in read_keys(each.path).items()}
        except MalformedError as error:
            raise MalformedError(f"{each.path.name} beside it: {error}") from error
        yield DataFileInfo(each.path.name, each.path.stat().st_size, keys)


def _describe(
    method: Method, layout: Layout, payloads: Payloads, context: int | None, layers: int | None
) -> MethodInfo:
    delegates = tuple(payloads.describe(each) for each in method.delegates)
    state = find_state(method, context, layers)
    return MethodInfo(
        name=method.name,
        inputs=tuple(method.describe(each) for each in method.inputs),
        outputs=tuple(method.describe(each) for each in method.outputs),
        planned_bytes=method.planned_bytes,
        kernels=method.kernel_calls,
        delegates=delegates,
        external=tuple(sorted({each.external for each in method.tensors.values()} - {""})),
        state=state,
        parts=find_parts(
            method,
            state,
            [size for _, size in layout.constants],
            [each.payload_bytes for each in delegates],
            [{key: payloads.sizes[key] for key in each.named} for each in delegates],
        ),
    )


def _segments(layout: Layout, methods: Sequence[Method]) -> Iterator[SegmentInfo]:
    kinds: dict[int, tuple[str, str]] = {}
    if layout.constant_segment is not None:
        kinds[layout.constant_segment] = (CONSTANTS, "")
    kinds.update((index, (STATE, "")) for index in layout.mutable_segments)
    kinds.update((index, (NAMED, key)) for key, index in layout.named)
    kinds.update(
        (each.at, (PAYLOAD, each.backend))
        for method in methods
        for each in method.delegates
        if not each.inline
    )
    for index, segment in enumerate(layout.segments):
        kind, name = kinds.get(index, ("unused", ""))
        yield SegmentInfo(kind, name, segment.size)


def bytes_by_kind(segments: Sequence[SegmentInfo]) -> Mapping[tuple[str, str], tuple[int, int]]:
    """(segments, bytes) by kind and, for payloads, backend."""
    counts: Counter[tuple[str, str]] = Counter()
    sums: Counter[tuple[str, str]] = Counter()
    for each in segments:
        key = (each.kind, each.name if each.kind == PAYLOAD else "")
        counts[key] += 1
        sums[key] += each.bytes
    return {key: (counts[key], sums[key]) for key in counts}
