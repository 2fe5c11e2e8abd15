"""Why partitioners leave operators alone, in their own words."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import Factory, define
from executorch.exir.backend.canonical_partitioners.config_partitioner import (
    ConfigerationBasedPartitioner,
    format_target_name,
)
from executorch.exir.backend.utils import WhyNoPartition
from torch.export import ExportedProgram
from torch.fx import Node

REASON = "llmx_not_delegated"
"""Key of a node's ``meta``; copies of a node keep it."""
HEARD = ("", "executorch")
NO_RULE = "the partitioner has no rule for this operator"
LONGEST = 200


@define
class Reasons:
    """What partitioners said: of single nodes, and messages that name operators."""

    by_node: dict[str, str] = Factory(dict)
    messages: list[str] = Factory(list)

    def annotate(self, program: ExportedProgram, partitioners: Sequence[Any]) -> None:
        """Leave with each node outside of delegates the reason, where there is one."""
        for node in program.graph.nodes:
            if node.op == "call_function":
                reason = self.by_node.get(node.name) or self._of_operator(node, partitioners)
                if reason is not None:
                    node.meta[REASON] = reason

    def _of_operator(self, node: Node, partitioners: Sequence[Any]) -> str | None:
        name = operator_name(node)
        named = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w])", re.IGNORECASE)
        said = next((each for each in self.messages if named.search(each)), None)
        if said is not None:
            return said
        if partitioners and all(_has_no_rule(each, name) for each in partitioners):
            return NO_RULE
        return None


@contextmanager
def partitioners_heard() -> Iterator[Reasons]:
    """Listen to what partitioners log meanwhile; only errors reach the usual handlers."""
    reasons = Reasons()
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in HEARD]
    levels, handlers = [each.level for each in loggers], root.handlers[:]
    try:
        for each in loggers:
            each.setLevel(logging.DEBUG)
        root.handlers[:] = [_Listener(reasons, handlers)]
        yield reasons
    finally:
        root.handlers[:] = handlers
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def operator_name(node: Node) -> str:
    """As ExecuTorch spells it: ``aten.mean.dim``, or the operator that writes in place."""
    if getattr(node.target, "__name__", "").startswith("auto_functionalized"):
        return str(node.args[0])
    return str(getattr(node.target, "__name__", node.target))


def _has_no_rule(partitioner: Any, operator: str) -> bool:
    return (
        isinstance(partitioner, ConfigerationBasedPartitioner)
        and format_target_name(operator) not in partitioner.target_partitioner_configs
    )


class _Listener(logging.Handler):
    def __init__(self, reasons: Reasons, usual: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._reasons = reasons
        self._usual = usual

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            for each in self._usual:
                each.handle(record)
            return
        said: Any = record.msg
        if isinstance(said, WhyNoPartition):
            if said.node is not None:
                self._reasons.by_node.setdefault(said.node.name, said.reason)
                # It is one object for all that a module has to say: it would keep this program's
                # graph, and with it the weights in its payloads, until the next one's.
                said.node = None
        elif record.levelno >= logging.INFO:
            self._reasons.messages.append(record.getMessage().strip()[:LONGEST])
