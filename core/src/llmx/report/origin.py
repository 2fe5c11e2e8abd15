"""Where in the eager model a node of a lowered graph comes from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch.fx import Node

FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>\S+)\n +(?P<code>.+)')
LAYER = re.compile(r"\blayers\.(\d+)\b")
TORCH = Path(torch.__file__).parent


@frozen
class Source:
    """A line of Python; ``file`` begins with the package's name."""

    file: str
    line: int
    function: str
    code: str


def source_of(node: Node) -> Source | None:
    """The line that called the operator, in the model's own code rather than in PyTorch's."""
    return source_in(node.meta.get("stack_trace"))


def source_in(trace: str | None) -> Source | None:
    """The innermost line of a stack trace that is not PyTorch's."""
    frames = [each for each in FRAME.finditer(trace or "") if not _is_torch(each["file"])]
    if not frames:
        return None
    last = frames[-1]
    code = last["code"].partition("  #")[0].strip()
    return Source(in_package(last["file"]), int(last["line"]), last["function"], code)


def module_of(node: Node) -> str:
    """Path of the module that called the operator, such as ``layers.3.attention``; may be empty."""
    return module_in(node.meta.get("nn_module_stack"))


def module_in(stack: Any) -> str:
    """The innermost module's path in a node's stack of modules."""
    paths = [str(path) for path, *_ in (stack or {}).values()]
    # Nodes that PyTorch adds itself have an underscored word in place of a path.
    return next((each for each in reversed(paths) if not each.startswith("_")), "")


def layer_of(module: str) -> int | None:
    """Number of the decoder layer that a module's path leads into."""
    found = LAYER.search(module)
    return int(found[1]) if found else None


def _is_torch(file: str) -> bool:
    return Path(file).is_relative_to(TORCH)


def in_package(file: str) -> str:
    """The path as its importer sees it: the same on every machine."""
    path = Path(file)
    roots = [root for root in _roots() if path.is_relative_to(root)]
    root = max(roots, key=lambda each: len(each.parts), default=None)
    return path.name if root is None else path.relative_to(root).as_posix()


def _roots() -> Iterator[Path]:
    yield from (Path(entry).absolute() for entry in sys.path if entry)
