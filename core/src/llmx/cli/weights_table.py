"""What became of every weight, layers that fared alike in one row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmx.cli.console import table

LAYER = re.compile(r"\blayers\.\d+\.")
MEGA = 1e6


def weights_table(modules: Sequence[Mapping[str, Any]]) -> Table:
    """Linears and embeddings by what they are, with bits, group, bytes and rounding error.

    Args:
        modules: ``weights.modules`` of an artifact's record.
    """
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in modules:
        if each["kind"] != "other":
            name = LAYER.sub("layers.*.", each["name"])
            rows.setdefault((name, each["bits"], each["group"], each["shares"]), []).append(each)
    made = table("weights", "count", "bits", "group", "MB", "error", "worst")
    for (name, bits, group, shares), members in rows.items():
        errors = [each["error"] for each in members]
        made.add_row(
            escape(name) + ("" if shares is None else f" (shares {escape(shares)})"),
            str(len(members)),
            str(bits),
            "float" if group is None else str(group),
            f"{sum(each['stored_bytes'] for each in members) / MEGA:.2f}",
            f"{sum(errors) / len(errors):.2%}",
            f"{max(errors):.2%}",
        )
    return made
