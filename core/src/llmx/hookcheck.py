"""Whether what a plugin implements is what llmx calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmx.compatibility import implementations
from llmx.errors import PluginError
from llmx.hookspecs import PROJECT
from llmx.names import did_you_mean


def check_hooks(
    plugin: object,
    label: str,
    group: str,
    specs: Mapping[str, type],
    required: Iterable[str],
) -> None:
    """Refuse a plugin whose functions would never be called, or be called wrongly.

    Args:
        plugin: the module or object.
        label: the plugin and its distribution, for messages.
        group: the entry-point group, a key of ``specs``.
        specs: every group's class of hook specifications.
        required: hooks that must be there.

    Raises:
        PluginError: names the plugin, the function and what would be right.
    """
    if inspect.isclass(plugin):
        raise PluginError(
            f"{label}: the entry point names the class {plugin.__name__}",
            remedy="name a module or an instance of the class",
        )
    _refuse_hidden(plugin, label, specs[group])
    functions = implementations(plugin)
    for name, function in functions.items():
        if not hasattr(specs[group], name):
            _refuse_unknown(label, name, group, specs)
        _check_arguments(label, function, name, specs[group])
    missing = [name for name in required if name not in functions]
    if missing:
        raise PluginError(
            f"{label} does not implement {', '.join(missing)}",
            remedy="these hooks are required; mark the functions with @llmx.hookimpl",
        )


def _refuse_hidden(plugin: object, label: str, spec: type) -> None:
    """A submodule takes the place of the package's function of that name once it is imported."""
    for name in _hooks(spec):
        if inspect.ismodule(getattr(plugin, name, None)):
            raise PluginError(
                f"{label}: the module {name} hides the hook of that name",
                remedy=f"rename {name}.py",
            )


def _refuse_unknown(label: str, name: str, group: str, specs: Mapping[str, type]) -> None:
    for other, spec in specs.items():
        if other != group and hasattr(spec, name):
            raise PluginError(
                f"{label}: {name} is a hook of the group {other}, not of {group}",
                remedy="move it to a plugin of that group",
            )
    raise PluginError(
        f"{label}: {name} is not a hook{did_you_mean(name, _hooks(specs[group]))}",
        remedy=f"hooks: {', '.join(_hooks(specs[group]))}",
    )


def _check_arguments(label: str, function: Callable[..., Any], name: str, spec: type) -> None:
    known = [each for each in inspect.signature(getattr(spec, name)).parameters if each != "self"]
    hook = f"{name}({', '.join(known)})"
    for parameter in inspect.signature(function).parameters.values():
        has_default = parameter.default is not inspect.Parameter.empty
        if parameter.name in known and has_default:
            # pluggy passes no argument that has a default: it would be ignored without a word.
            raise PluginError(
                f"{label}: {name} gives its argument {parameter.name} a default value",
                remedy=f"the hook is {hook}; an argument with a default is never passed",
            )
        if parameter.name not in known and not has_default:
            raise PluginError(
                f"{label}: {name} takes an unknown argument {parameter.name}"
                f"{did_you_mean(parameter.name, known)}",
                remedy=f"the hook is {hook}; an implementation may take fewer arguments",
            )


def _hooks(spec: type) -> list[str]:
    return [name for name in vars(spec) if hasattr(getattr(spec, name), f"{PROJECT}_spec")]
