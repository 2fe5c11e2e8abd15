"""What the pages tell people to type works."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from llmx.cli import group, invoke

PARSED_ONLY = ("run", "chat", "serve", "inspect", "reweight", "verify", "eval", "bench", "profile")
WORK = re.compile(
    r"^.*\b(?:llmx\.export|TextGenerator\.open|client\.chat\.completions\.create)\(", re.MULTILINE
)
SHOWN_BY = {"export": "config"}  # the same words, without the work
OF_THE_WORK = {"--no-cache", "--force"}  # which are no part of the job


@pytest.fixture(autouse=True)
def workplace(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, with the tutorial's plugins installed."""
    monkeypatch.syspath_prepend(str(tutorial))
    monkeypatch.chdir(tmp_path)


def test_a_command_is_one_that_exists(
    command: tuple[Path, str],
    root: Path,
    tmp_path: Path,
    write_titled: Callable[[Path, Path], None],
) -> None:
    page, line = command
    program, *words = shlex.split(line, comments=True)
    if program == "make":
        targets = [word for word in words if "=" not in word]
        rules = (root / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", rules, re.MULTILINE) for target in targets)
    elif program == "pip":
        folders = [after for before, after in pairwise(words) if before == "-e"]
        at = tmp_path if folders == ["."] else root
        assert all((at / folder).is_dir() for folder in folders)
    elif program == "llmx":
        write_titled(page, tmp_path)
        _try_llmx(words)
    else:
        assert program in {"python3", ".", ".venv/bin/python", "export"}


def _try_llmx(words: list[str]) -> None:
    name, *rest = words
    if name in PARSED_ONLY:
        with click.Context(group, info_name="llmx", **group.context_settings) as parent:
            inner = group.get_command(parent, name)
            assert inner is not None
            inner.make_context(name, rest, parent=parent)
    else:
        words = [word for word in rest if name not in SHOWN_BY or word not in OF_THE_WORK]
        assert invoke([SHOWN_BY.get(name, name), *words]) == 0


def test_python_runs_as_far_as_it_needs_no_weights(
    code: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_work = WORK.split(code.text)[0]
    compile(code.text, code.page.name, "exec")
    if "..." in code.text:
        return  # a signature
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    namespace = {"__name__": "example"}
    exec(compile(before_work, code.page.name, "exec"), namespace)
    assert len(namespace) > 2
