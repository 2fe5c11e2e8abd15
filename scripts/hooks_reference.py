"""Signature and docstring of every hook, from the specifications."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator

from llmx import hookspecs


def hooks_of(spec: type) -> str:
    """One section for each hook of a class of specifications."""
    tree = ast.parse(inspect.getsource(hookspecs))
    definition = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == spec.__name__
    )
    functions = [node for node in definition.body if isinstance(node, ast.FunctionDef)]
    return "\n".join(line for function in functions for line in _section(function))


def _section(function: ast.FunctionDef) -> Iterator[str]:
    yield f"### {function.name}\n"
    yield f"```python\n{_signature(function)}\n```\n"
    yield f"{ast.get_docstring(function)}\n"


def _signature(function: ast.FunctionDef) -> str:
    """The signature as an implementation writes it: without ``self``."""
    arguments = [
        f"{each.arg}: {ast.unparse(each.annotation)}"
        for each in function.args.args
        if each.annotation is not None
    ]
    assert function.returns is not None
    result = ast.unparse(function.returns)
    line = f"def {function.name}({', '.join(arguments)}) -> {result}: ..."
    if len(line) <= 88:
        return line
    broken = textwrap.indent(",\n".join(arguments), "    ")
    return f"def {function.name}(\n{broken},\n) -> {result}: ..."
