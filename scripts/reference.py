"""``make docs``: write the generated parts of the pages in ``docs/`` anew.

A part stands between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``; the rest is by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import cli_reference
import config_reference
import families_reference
import hooks_reference

from llmx.hookspecs import BackendSpec, FamilySpec

DOCS = Path(__file__).parent.parent / "docs"
PART = re.compile(r"(<!-- begin: (?P<name>\S+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)
PARTS: Mapping[str, Callable[[], str]] = {
    "options": config_reference.sections,
    "coreml": lambda: config_reference.backend_table("coreml"),
    "ethosu": lambda: config_reference.backend_table("ethosu"),
    "mlx": lambda: config_reference.backend_table("mlx"),
    "openvino": lambda: config_reference.backend_table("openvino"),
    "portable": lambda: config_reference.backend_table("portable"),
    "qnn": lambda: config_reference.backend_table("qnn"),
    "tosa": lambda: config_reference.backend_table("tosa"),
    "torchao": lambda: config_reference.backend_table("torchao"),
    "vgf": lambda: config_reference.backend_table("vgf"),
    "vulkan": lambda: config_reference.backend_table("vulkan"),
    "xnnpack": lambda: config_reference.backend_table("xnnpack"),
    "commands": cli_reference.commands,
    "families": families_reference.families,
    "family-hooks": lambda: hooks_reference.hooks_of(FamilySpec),
    "backend-hooks": lambda: hooks_reference.hooks_of(BackendSpec),
}


def pages() -> dict[Path, str]:
    """The pages that have generated parts, as they should be."""
    current = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {path: PART.sub(_fill, text) for path, text in current.items() if PART.search(text)}


def _fill(found: re.Match[str]) -> str:
    return f"{found[1]}\n{PARTS[found['name']]().strip()}\n\n{found[3]}"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(DOCS.parent)}\n")
