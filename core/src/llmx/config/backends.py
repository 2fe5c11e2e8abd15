"""The ``backend`` section: which backend a job selects, and that backend's options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmx.config.keys import BACKEND, Key, keys_of, unknown_key
from llmx.config.schema import SelectedBackend
from llmx.config.sources import Settings
from llmx.config.values import Given, structure
from llmx.errors import ConfigError
from llmx.hookspecs import FamilySpec
from llmx.names import normalised
from llmx.plugins import BACKENDS, find, installed, load

ENABLED = "enabled"


def backend_keys(name: str) -> dict[str, Key]:
    """The keys ``backend.<name>.*`` of an installed backend, ``enabled`` among them."""
    prefix = f"{BACKEND}.{name}"
    enabled = Key(f"{prefix}.{ENABLED}", bool, False, False, "Select this backend.")
    return {enabled.name: enabled} | keys_of(load(None, name).backend.options(), prefix)


def read_sections(layers: Iterable[Settings]) -> list[Settings]:
    """The same settings with every ``backend.*`` key checked and spelt as installed.

    Sections of backends that are not installed may say ``enabled: false``; they are left out.

    Raises:
        ConfigError: an unknown key or a value that does not fit.
        PluginError: settings for a backend that is not installed.
    """
    return [dict(_read_layer(layer)) for layer in layers]


def _read_layer(layer: Settings) -> Iterator[tuple[str, Given]]:
    names = {normalised(plugin.name) for plugin in installed(BACKENDS)}
    for key, given in layer.items():
        section, _, rest = key.partition(".")
        name, _, field = rest.partition(".")
        if section != BACKEND:
            yield key, given
        elif key == BACKEND:
            yield key, _named(given)
        elif normalised(name) not in names and field == ENABLED and given.value is False:
            continue
        else:
            plugin = find(BACKENDS, name)
            known = backend_keys(plugin.name)
            canonical = f"{BACKEND}.{plugin.name}.{field}"
            if canonical not in known:
                raise unknown_key(canonical, known, given.origin)
            structure(known[canonical], given)
            yield canonical, given


def _named(given: Given) -> Given:
    """``backend: NAME`` in the spelling of the installed plugin."""
    if given.is_null:
        return given
    if given.text is None:
        raise ConfigError(f"{BACKEND}: expected a mapping or a name (from {given.origin})")
    return Given.from_python(find(BACKENDS, given.text).name, given.origin)


def choose_backend(layers: Iterable[Settings], family: FamilySpec | None) -> str | None:
    """The name of the selected backend.

    Args:
        layers: settings that :func:`read_sections` gave, weakest first.
        family: asked for its default where no setting selects a backend or says none;
            ``None`` for jobs that have no default.

    Raises:
        ConfigError: two backends are enabled.
    """
    enabled: dict[str, Given] = {}
    disabled: set[str] = set()
    has_default = family is not None
    for layer in layers:
        if BACKEND in layer:
            given = layer[BACKEND]
            enabled = {} if given.is_null else {str(given.text): given}
            has_default = False
        for key, given in layer.items():
            if not _is_switch(key):
                continue
            name = key.split(".")[1]
            if given.value:
                enabled[name] = given
                disabled.discard(name)
            else:
                enabled.pop(name, None)
                disabled.add(name)
    if len(enabled) > 1:
        raise ConfigError(
            f"two backends are enabled: {' and '.join(enabled)}",
            remedy="enable one; "
            + ", ".join(f"{name} comes from {given.origin}" for name, given in enabled.items()),
        )
    if enabled:
        return next(iter(enabled))
    if not has_default or family is None:
        return None
    name = find(BACKENDS, family.default_backend()).name
    return None if name in disabled else name


def options_of(name: str | None, layers: Iterable[Settings]) -> SelectedBackend:
    """The selected backend's options.

    Raises:
        ConfigError: options of a backend that is neither selected nor switched off, or a
            combination that the backend's own class refuses.
    """
    merged: Settings = {}
    for layer in layers:
        merged |= layer
    prefix = f"{BACKEND}.{name}."
    for key, given in merged.items():
        owner = key.split(".")[1] if key.startswith(f"{BACKEND}.") else name
        if owner != name and f"{BACKEND}.{owner}.{ENABLED}" not in merged:
            raise ConfigError(
                f"{key} is set, but the backend {owner} is not selected (from {given.origin})",
                remedy=f"add {BACKEND}.{owner}.{ENABLED}=true, or leave it out",
            )
    if name is None:
        return SelectedBackend()
    options = load(None, name).backend.options()
    known = keys_of(options, f"{BACKEND}.{name}")
    values = {
        key.removeprefix(prefix): structure(known[key], given)
        for key, given in merged.items()
        if key in known
    }
    if f"{prefix}{ENABLED}" in known:
        values[ENABLED] = True
    try:
        return SelectedBackend(name, options(**values))
    except (TypeError, ValueError) as error:
        # attrs' own validators give more than words.
        raise ConfigError(f"{BACKEND}.{name}: {error.args[0] if error.args else error}") from error


def _is_switch(key: str) -> bool:
    parts = key.split(".")
    return len(parts) == 3 and parts[0] == BACKEND and parts[2] == ENABLED
