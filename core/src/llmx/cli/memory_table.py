"""What the memory plan of a program holds when it holds most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmx.cli.console import table
from llmx.cli.delegation_table import source_text

KILO = 1e3


def peak_table(memory: Mapping[str, Any]) -> Table:
    """Tensors at the peak, the largest first; those of layers that are alike in one row.

    Args:
        memory: ``memory`` of an artifact's record.
    """
    rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for each in memory["peak_tensors"]:
        line = source_text(each["source"])
        where = "state of all layers" if each["operator"] == "state" else each["module"]
        rows.setdefault((each["operator"], where, line), []).append(each)
    made = table("at the peak of memory", "count", "kB", "module", "made in")
    ordered = sorted(rows.items(), key=lambda row: -sum(each["bytes"] for each in row[1]))
    for (operator, where, line), members in ordered:
        size = sum(each["bytes"] for each in members)
        made.add_row(
            escape(operator), str(len(members)), f"{size / KILO:.1f}", escape(where), escape(line)
        )
    if memory["other_tensors"]:
        made.add_row("smaller ones", str(memory["other_tensors"]), "", "", "")
    made.add_row("total", "", f"{memory['peak_bytes'] / KILO:.1f}", "", "")
    return made
