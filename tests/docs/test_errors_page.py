"""The page of errors quotes messages that the program really has."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^```text\nerror: (.+)\n(?:  (.+)\n)?```$", PAGE, re.MULTILINE)
LINES = [line for pair in QUOTED for line in pair if line]
TELLING = 10  # letters that a message must have besides what it fills in


@functools.cache
def messages() -> list[re.Pattern[str]]:
    """Every text in the sources, with anything in place of what it fills in."""
    found = []
    for folder in ("core/src", "plugins", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tests" not in path.parts:
                found += [_pattern(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    return [each for each in found if each is not None]


def _pattern(node: ast.AST) -> re.Pattern[str] | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        pieces = [node.value]
    elif isinstance(node, ast.JoinedStr):
        pieces = [each.value if isinstance(each, ast.Constant) else None for each in node.values]
    else:
        return None
    if sum(len(re.findall(r"[A-Za-z]", each)) for each in pieces if each) < TELLING:
        return None
    return re.compile("".join(".*" if each is None else re.escape(each) for each in pieces))


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 15
    assert PAGE.count("```text\n") == len(QUOTED)


@pytest.mark.parametrize("line", LINES)
def test_a_quoted_message_is_in_the_sources(line: str) -> None:
    assert any(each.fullmatch(line) for each in messages()), line
