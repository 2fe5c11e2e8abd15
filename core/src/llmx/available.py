"""Backends that exist beside those that are installed, from llmx-core's own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires

from llmx.plugins import BACKENDS, installed

EXTRA = re.compile(r"""(?P<name>[\w.-]+).*;\s*extra\s*==\s*['"]backends['"]""")
PREFIX = "llmx-backend-"


def absent_backends() -> dict[str, str]:
    """Backends by name that the extra ``backends`` would bring, with the command for just one."""
    try:
        declared = requires("llmx-core") or []
    except PackageNotFoundError:
        return {}
    return absent(declared, {each.distribution for each in installed(BACKENDS)})


def absent(requirements: Iterable[str], distributions: Iterable[str]) -> dict[str, str]:
    """The same of requirements as metadata states them, without the ``distributions``."""
    have = {each.casefold().replace("_", "-") for each in distributions}
    matches = (EXTRA.match(each) for each in requirements)
    names = [match["name"].casefold().replace("_", "-") for match in matches if match]
    return {
        name.removeprefix(PREFIX): f"pip install {name}"
        for name in sorted(names)
        if name.startswith(PREFIX) and name not in have
    }
