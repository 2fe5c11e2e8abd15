"""A program's methods: what goes in and comes out, which values are constant, what is executed.

Format: ExecuTorch's ``schema/program.fbs`` and ``scalar_type.fbs``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from attrs import frozen

from llmx.pte.flatbuffer import MalformedError, Table

Constant = int | bool | float | str | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...] | None

SCALAR_TYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32",
    7: "float64", 11: "bool", 12: "qint8", 13: "quint8", 14: "qint32", 15: "bfloat16",
    16: "quint4x2", 17: "quint2x4", 22: "bits16", 23: "float8_e5m2", 24: "float8_e4m3fn",
    25: "float8_e5m2fnuz", 26: "float8_e4m3fnuz", 27: "uint16", 28: "uint32", 29: "uint64",
}  # fmt: skip
WIDTHS = {
    "int16": 2, "int32": 4, "int64": 8, "float16": 2, "float32": 4, "float64": 8,
    "qint32": 4, "bfloat16": 2, "bits16": 2, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip
# Members of KernelTypes and InstructionArguments.
INT, BOOL, DOUBLE, TENSOR, STRING, INT_LIST, DOUBLE_LIST, BOOL_LIST = range(2, 10)
TENSOR_LIST, OPTIONAL_TENSOR_LIST = 10, 11
KERNEL_CALL, DELEGATE_CALL = 1, 2
# Fields of ExecutionPlan, and of what an instruction calls.
DELEGATES, CALLED = 7, 0
KINDS = {1: "none", INT: "int", BOOL: "bool", DOUBLE: "float", STRING: "string",
         INT_LIST: "int list", DOUBLE_LIST: "float list", BOOL_LIST: "bool list",
         TENSOR_LIST: "tensor list", OPTIONAL_TENSOR_LIST: "tensor list"}  # fmt: skip


@frozen
class Tensor:
    """A tensor value.

    Attributes:
        sizes: the largest ones where ``dynamic``.
        constant: index of its data in the program's constants, 0 if it has none.
        storage: (memory, offset) that the runtime gives it; ``None`` for constants, and where the
            caller brings the memory. Tensors that view one another have the same.
        external: key of its data in a file beside the program, or "".
    """

    dtype: str
    sizes: tuple[int, ...]
    dynamic: bool
    constant: int
    storage: tuple[int, int] | None
    external: str

    @property
    def bytes(self) -> int:
        return math.prod(self.sizes) * WIDTHS.get(self.dtype, 1)

    def __str__(self) -> str:
        # Which of the sizes may be smaller is not stored.
        sizes = (f"≤{size}" if self.dynamic and size > 1 else str(size) for size in self.sizes)
        return f"{self.dtype}[{', '.join(sizes)}]"


@frozen
class Step:
    """One instruction: a kernel or a delegate, by name, and the values that it is given."""

    kind: Literal["kernel", "delegate"]
    name: str
    index: int
    values: tuple[int, ...]


@frozen
class Delegate:
    """A subgraph of a backend; its payload is a segment, or stands in the flatbuffer.

    Attributes:
        at: index of the segment, or of the inline payload.
        compile_specs: keys of what the backend was told.
    """

    backend: str
    inline: bool
    at: int
    compile_specs: tuple[str, ...]


class Method:
    """An entry point of the program."""

    def __init__(self, plan: Table) -> None:
        self.name = plan.text(0)
        self._values = tuple(plan.tables(2))
        self.inputs: tuple[int, ...] = plan.numbers(3, "i")
        self.outputs: tuple[int, ...] = plan.numbers(4, "i")
        operators = [_operator_name(each) for each in plan.tables(6)]
        self.delegates = tuple(delegate(each) for each in plan.tables(DELEGATES))
        self.steps = tuple(_steps(plan, operators, self.delegates))
        self.planned_bytes = sum(plan.numbers(8, "q"))
        self.kernel_calls = {
            name: sum(step.kind == "kernel" and step.name == name for step in self.steps)
            for name in operators
        }
        self.tensors: Mapping[int, Tensor] = dict(self._all_tensors())

    def describe(self, index: int) -> Tensor | str:
        """A tensor, or the name of another value's type."""
        if index in self.tensors:
            return self.tensors[index]
        return KINDS.get(self._value(index)[0], "unknown")

    @property
    def constants(self) -> tuple[Constant, ...] | None:
        """What a method without inputs and instructions returns; ``None`` for any other."""
        if self.inputs or self.steps or any(each in self.tensors for each in self.outputs):
            return None
        return tuple(_constant(*self._value(index)) for index in self.outputs)

    def constant_at(self, output: int) -> int | None:
        """Where in the file the integer is that a constant method returns; ``None`` for 0, which
        is not stored."""
        kind, value = self._value(self.outputs[output])
        return None if value is None or kind != INT else value.field(0)

    def text_at(self, output: int) -> tuple[int, int]:
        """Where in the file the text is that a constant method returns, and its bytes."""
        kind, value = self._value(self.outputs[output])
        if value is None or kind != STRING:
            raise MalformedError(f"output {output} of {self.name} is no text")
        return value.span(0)

    def items(self, index: int) -> tuple[int, ...]:
        """The values in a list of tensors; just ``index`` for anything else."""
        kind, value = self._value(index)
        if value is not None and kind in (TENSOR_LIST, OPTIONAL_TENSOR_LIST):
            return value.numbers(0, "i")
        return (index,)

    def _all_tensors(self) -> Iterator[tuple[int, Tensor]]:
        for index in range(len(self._values)):
            kind, value = self._value(index)
            if kind == TENSOR and value is not None:
                yield index, _tensor(value)

    def _value(self, index: int) -> tuple[int, Table | None]:
        if not 0 <= index < len(self._values):
            raise MalformedError(f"{self.name} refers to value {index} of {len(self._values)}")
        return self._values[index].union(1)


def _tensor(value: Table) -> Tensor:
    code = value.number(0, "b")
    extra = value.table(9)
    external = extra.text(1) if extra is not None and extra.number(2, "b") == 1 else ""
    return Tensor(
        dtype=SCALAR_TYPES.get(code, f"type {code}"),
        sizes=value.numbers(2, "i"),
        dynamic=value.number(8, "b") != 0,
        # With external data, the number is one of theirs.
        constant=0 if external else value.number(5, "I"),
        storage=_storage(value.table(6)),
        external=external,
    )


def _storage(allocation: Table | None) -> tuple[int, int] | None:
    if allocation is None:
        return None
    low, high = allocation.number(1, "I"), allocation.number(2, "I")
    return allocation.number(0, "I"), high << 32 | low


def calls(plan: Table) -> Iterator[tuple[int, Table]]:
    """(kind, what is called with what) of the instructions that call a kernel or a delegate."""
    for chain in plan.tables(5):
        for instruction in chain.tables(2):
            kind, call = instruction.union(1)
            if call is not None and kind in (KERNEL_CALL, DELEGATE_CALL):
                yield kind, call


def _steps(plan: Table, operators: Sequence[str], delegates: Sequence[Delegate]) -> Iterator[Step]:
    for kind, call in calls(plan):
        index, values = call.number(CALLED, "i"), call.numbers(1, "i")
        known = len(operators) if kind == KERNEL_CALL else len(delegates)
        if not 0 <= index < known:
            raise MalformedError(f"it calls number {index} of {known} operators or delegates")
        if kind == KERNEL_CALL:
            yield Step("kernel", operators[index], index, values)
        else:
            yield Step("delegate", delegates[index].backend, index, values)


def _operator_name(operator: Table) -> str:
    name, overload = operator.text(0), operator.text(1)
    return f"{name}.{overload}" if overload else name


def delegate(table: Table) -> Delegate:
    """A member of a plan's ``DELEGATES``."""
    payload = table.table(1)
    return Delegate(
        backend=table.text(0),
        inline=payload is None or payload.number(0, "b") == 0,
        at=0 if payload is None else payload.number(1, "I"),
        compile_specs=tuple(each.text(0) for each in table.tables(2)),
    )


def _constant(kind: int, value: Table | None) -> Constant:
    if value is None:
        return None
    if kind == BOOL:
        return bool(value.number(0, "B"))
    if kind == STRING:
        return value.text(0)
    if kind in (INT, DOUBLE):
        number: int | float = value.number(0, "q" if kind == INT else "d")
        return number
    if kind in (INT_LIST, DOUBLE_LIST, BOOL_LIST):
        return value.numbers(0, {INT_LIST: "q", DOUBLE_LIST: "d", BOOL_LIST: "?"}[kind])
    return None
