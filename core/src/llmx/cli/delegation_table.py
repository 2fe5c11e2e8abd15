"""What the backend took over, operator by operator, and why it left the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmx.cli.console import table

KILO = 1e3


def operator_table(delegation: Mapping[str, Any]) -> Table:
    """Calls of each operator inside and outside delegated subgraphs, the costliest outside first.

    Args:
        delegation: ``delegation`` of an artifact's record.
    """
    made = table("operator", "delegated", "other", "kB a token")
    for each in delegation["operators"]:
        made.add_row(
            escape(each["operator"]),
            str(each["delegated"]),
            str(each["other"]),
            _kilobytes(each["other_bytes"]) if each["other"] else "",
        )
    made.add_row(
        "total",
        str(delegation["delegated_nodes"]),
        str(delegation["other_nodes"]),
        _kilobytes(sum(each["other_bytes"] for each in delegation["operators"])),
    )
    return made


def outside_table(outside: Sequence[Mapping[str, Any]]) -> Table:
    """What runs outside of delegates, with its line in the model and the partitioner's reason.

    Args:
        outside: ``delegation.outside`` of an artifact's record.
    """
    made = table("left outside", "calls", "kB a token", "called in", "why")
    for each in outside:
        made.add_row(
            escape(each["operator"]),
            str(each["calls"]),
            _kilobytes(each["bytes"]),
            escape(source_text(each["source"])),
            escape(each["reason"] or ""),
        )
    return made


def source_text(source: Mapping[str, Any] | None) -> str:
    """A line of the model in short: file and number."""
    return "" if source is None else f"{source['file']}:{source['line']}"


def _kilobytes(size: int) -> str:
    return f"{size / KILO:.2f}"
