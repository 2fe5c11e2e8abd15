"""Discovery of families and backends: what is installed, and loading the two that a job names."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from importlib.metadata import EntryPoint, entry_points
from typing import cast

import pluggy
from attrs import field, frozen

from llmx.compatibility import check_version, with_present_names
from llmx.defaults import BackendDefaults, FamilyDefaults
from llmx.errors import PluginError
from llmx.hookcheck import check_hooks
from llmx.hookspecs import PROJECT, BackendSpec, FamilySpec
from llmx.names import nearest, normalised

FAMILIES = "llmx.families"
BACKENDS = "llmx.backends"
ALLOW_LIST_VARIABLE = "LLMX_LOAD_PLUGINS"
TRACE_VARIABLE = "LLMX_TRACE_PLUGINS"

_KINDS = {FAMILIES: "family", BACKENDS: "backend"}
_SPECS: dict[str, type] = {FAMILIES: FamilySpec, BACKENDS: BackendSpec}
_REQUIRED_HOOKS = {
    FAMILIES: ("sizes", "convert_weights", "token_ids"),
    BACKENDS: ("options", "partitioners"),
}


@frozen
class Installed:
    """A plugin as its distribution's metadata describes it; nothing of it is imported.

    ``value`` is the entry point's target, ``module`` or ``module:object``.
    """

    name: str
    distribution: str
    version: str
    value: str
    group: str
    entry_point: EntryPoint = field(repr=False, eq=False)

    @property
    def kind(self) -> str:
        """``family`` or ``backend``."""
        return _KINDS[self.group]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.distribution} {self.version})"


@frozen
class Plugins:
    """The hooks of one family and one backend over core's defaults.

    ``family`` and ``backend`` take keyword arguments only. The sources say which distributions
    answer; ``None`` leaves core's defaults alone.
    """

    family: FamilySpec
    backend: BackendSpec
    family_source: Installed | None
    backend_source: Installed | None


def installed(group: str) -> list[Installed]:
    """All plugins of a group by name, from metadata alone, within ``LLMX_LOAD_PLUGINS``."""
    allowed = os.environ.get(ALLOW_LIST_VARIABLE)
    found = _all_installed(group)
    if allowed is None:
        return found
    names = {normalised(name) for name in allowed.split(",") if name.strip()}
    return [plugin for plugin in found if normalised(plugin.name) in names]


def find(group: str, name: str) -> Installed:
    """The installed plugin of that name, in any spelling.

    Raises:
        PluginError: it is not installed, or two distributions claim the name.
    """
    found = installed(group)
    matches = [plugin for plugin in found if normalised(plugin.name) == normalised(name)]
    if not matches:
        raise _unknown(group, name, [plugin.name for plugin in found])
    if len(matches) > 1:
        owners = " and ".join(
            sorted(f"{plugin.distribution} {plugin.version}" for plugin in matches)
        )
        raise PluginError(
            f"{matches[0].kind} {name!r} is installed twice, by {owners}",
            remedy="uninstall one of them",
        )
    return matches[0]


def duplicates(plugins: list[Installed]) -> set[str]:
    """Names that more than one of these plugins claims."""
    count = Counter(normalised(plugin.name) for plugin in plugins)
    return {plugin.name for plugin in plugins if count[normalised(plugin.name)] > 1}


def import_plugin(plugin: Installed) -> object:
    """The module or object that the entry point names, with its hooks checked.

    Raises:
        PluginError: it is made for another version of llmx, it cannot be imported (the cause is
            chained), or its hooks are not hooks.
    """
    check_version(str(plugin), plugin.entry_point.dist)
    try:
        value: object = plugin.entry_point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{plugin} cannot be imported: {type(error).__name__}: {error}",
            remedy=f"reinstall {plugin.distribution}, or report this to its authors",
        ) from error
    value = with_present_names(value, str(plugin))
    check_hooks(value, str(plugin), plugin.group, _SPECS, _REQUIRED_HOOKS[plugin.group])
    return value


def load(family: str | None, backend: str | None) -> Plugins:
    """Load exactly this family and this backend, with core's defaults behind them.

    Raises:
        PluginError: unknown, broken or doubly installed plugin.
    """
    family_source = find(FAMILIES, family) if family is not None else None
    backend_source = find(BACKENDS, backend) if backend is not None else None
    family_manager = _manager(FAMILIES, family_source)
    backend_manager = _manager(BACKENDS, backend_source)
    family_hooks = cast(FamilySpec, family_manager.hook)
    backend_hooks = cast(BackendSpec, backend_manager.hook)
    family_manager.register(FamilyDefaults(family_hooks), "llmx-core")
    backend_manager.register(BackendDefaults(), "llmx-core")
    return Plugins(family_hooks, backend_hooks, family_source, backend_source)


def _manager(group: str, plugin: Installed | None) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(_SPECS[group])
    if plugin is not None:
        manager.register(import_plugin(plugin), plugin.name)
        manager.check_pending()
    if os.environ.get(TRACE_VARIABLE) == "1":
        manager.trace.root.setwriter(sys.stderr.write)
        manager.enable_tracing()
    return manager


def _all_installed(group: str) -> list[Installed]:
    found = [
        Installed(
            name=entry.name,
            distribution=entry.dist.name if entry.dist else "?",
            version=entry.dist.version if entry.dist else "?",
            value=entry.value,
            group=group,
            entry_point=entry,
        )
        for entry in entry_points(group=group)
    ]
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def _unknown(group: str, name: str, names: list[str]) -> PluginError:
    kind = _KINDS[group]
    if normalised(name) in {normalised(plugin.name) for plugin in _all_installed(group)}:
        return PluginError(
            f"{kind} {name!r} is installed, but {ALLOW_LIST_VARIABLE} leaves it out",
            remedy=f"add it to the list, or unset {ALLOW_LIST_VARIABLE}",
        )
    suggestion, package = nearest(name, names), likely_package(group, name)
    if package in {plugin.distribution for plugin in _all_installed(group)}:
        package = None
    match suggestion, package:
        case None, None:
            remedy = None
        case None, _:
            remedy = f"it usually comes with: pip install {package}"
        case _, None:
            remedy = f"did you mean {suggestion}?"
        case _:
            usual = f"{name} usually comes with: pip install {package}"
            remedy = f"did you mean {suggestion}? If not, {usual}"
    return PluginError(
        f"unknown {kind} {name!r} (installed: {', '.join(names) or 'none'})", remedy=remedy
    )


def likely_package(group: str, name: str) -> str | None:
    """The distribution's name by the convention that plugins follow."""
    if group == FAMILIES:
        letters = re.match(r"[a-z]+", name.casefold())
        return f"llmx-plugin-{letters.group()}" if letters else None
    words = re.fullmatch(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*", name.casefold())
    return f"llmx-backend-{re.sub(r'[-_.]', '-', words.group())}" if words else None
