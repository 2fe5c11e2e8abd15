"""Plugins that were made for another version of llmx: kept working, or refused in one line.

A plugin says what it is made for by its requirement of ``llmx-core``, as pip reads it. Within a
major version hooks are added and gain arguments; what has another name now is still called.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution
from types import SimpleNamespace
from typing import Any

import pluggy
from attrs import frozen

from llmx import __version__
from llmx.errors import PluginError
from llmx.hookspecs import PROJECT

CORE = "llmx-core"


class LlmxDeprecationWarning(FutureWarning):
    """Something still works, and will not in a later version; the message says what to use."""


@frozen
class Renamed:
    """What became of a hook.

    Attributes:
        name: its present name, with the same arguments.
        goes_in: the version that no longer knows the old name.
        result: the present hook's result from the old one's.
    """

    name: str
    goes_in: str
    result: Callable[[Any], Any]


def _as_section(rules: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if rules is None else {"pre_tokenizer": rules}


RENAMED = {"gguf_pre_tokenizer": Renamed("gguf_tokenizer", goes_in="1.0", result=_as_section)}


def deprecated(what: str, *, instead: str, goes_in: str) -> None:
    """Warn that ``what`` is on its way out; Python shows the same warning once."""
    warnings.warn(
        f"{what} is deprecated and goes in llmx {goes_in}: use {instead}",
        LlmxDeprecationWarning,
        stacklevel=2,
    )


def check_version(label: str, distribution: Distribution | None) -> None:
    """Refuse a plugin whose distribution requires another version of ``llmx-core``.

    Raises:
        PluginError: names both versions, and which of the two to upgrade.
    """
    if distribution is None:
        return
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for requirement in map(Requirement, distribution.requires or ()):
        if canonicalize_name(requirement.name) != CORE or requirement.marker:
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            newer = _is_newer(each.version for each in requirement.specifier)
            outdated = CORE if newer else distribution.name
            raise PluginError(
                f"{label} is made for {CORE} {requirement.specifier}, and this is {__version__}",
                remedy=f"pip install --upgrade {outdated}",
            )


def _is_newer(versions: Iterable[str]) -> bool:
    """Whether a version that a requirement names is later than this one."""
    from packaging.version import Version

    return any(Version(each.removesuffix(".*")) > Version(__version__) for each in versions)


def with_present_names(plugin: object, label: str) -> object:
    """The plugin, or a stand-in with the same hooks if some have names of an earlier version."""
    if inspect.isclass(plugin):
        return plugin
    functions = implementations(plugin)
    if not RENAMED.keys() & functions.keys():
        return plugin
    return SimpleNamespace(**dict(_present(each, functions[each], label) for each in functions))


def implementations(plugin: object) -> dict[str, Callable[..., Any]]:
    """A plugin's functions that are marked as hook implementations, by name."""
    manager = pluggy.PluginManager(PROJECT)
    return {
        name: getattr(plugin, name)
        for name in dir(plugin)
        if manager.parse_hookimpl_opts(plugin, name) is not None
    }


def _present(name: str, function: Callable[..., Any], label: str) -> tuple[str, Callable[..., Any]]:
    if name not in RENAMED:
        return name, function
    now = RENAMED[name]
    deprecated(f"{label}: the hook {name}", instead=now.name, goes_in=now.goes_in)

    @functools.wraps(function)
    def renamed(*arguments: Any) -> Any:
        return now.result(function(*arguments))

    return now.name, renamed
