"""From files, flags and overrides to one checked job and the plugins that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.config.backends import choose_backend, options_of, read_sections
from llmx.config.keys import BACKEND, RECIPE, Key, core_keys, core_sections, unknown_key
from llmx.config.schema import ExportJob
from llmx.config.sources import COMMAND_LINE, Settings, from_mapping, parse_overrides, read_file
from llmx.config.values import structure
from llmx.errors import ConfigError, PluginError
from llmx.names import did_you_mean, match_size, split_model_class
from llmx.plugins import FAMILIES, Plugins, installed, likely_package, load

MODEL_CLASS = "base.model_class"
SIZE = "base.size"
CHECKPOINT, REVISION, PARAMS = "base.checkpoint", "base.revision", "base.params"
QMODE = "quantization.qmode"
FOLLOWS_QMODE = tuple(
    f"quantization.{key}"
    for key in ("group_size", "head_quantize", "method", "bits", "target_size", "extra_bits")
)
DEFAULT_RECIPE = "default"


@frozen
class ResolvedJob:
    """A job, the plugins that carry it out, and who set each key that is not at its default."""

    job: ExportJob
    plugins: Plugins
    origins: Mapping[str, str]


def load_job(
    *,
    family: str | None = None,
    config: Path | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    origin: str = COMMAND_LINE,
) -> ResolvedJob:
    """Resolve a job; later sources win: recipe, config file, settings, overrides.

    Args:
        family: a family's name, which may hold a size; else ``base.model_class`` names it, and
            without that the checkpoint's own configuration does.
        config: YAML or JSON file. Without one, the job starts from the recipe ``default``.
        recipe: another recipe of the backend to start from.
        settings: values by dotted key; ``backend`` holds a backend's name or ``None``.
        overrides: words of the form ``key=value``.
        origin: where ``settings`` come from, for messages.

    Raises:
        ConfigError: an unknown key, a value that does not fit, or options that contradict.
        PluginError: the family or backend is unknown or broken.
        CheckpointError: no family is named and the checkpoint does not tell it.
    """
    outline = _outline(family, config, recipe, settings or {}, overrides, origin)
    layers, values = outline.layers, outline.values
    plugins = load(outline.family, outline.backend)
    if outline.recipe is not None:
        layers = [_recipe(outline.recipe, plugins, outline.backend), *layers]
        values = _structured(layers, core_keys())
    _forget_what_qmode_needs(layers, values)

    values |= {MODEL_CLASS: outline.family, SIZE: outline.size}
    job = ExportJob(
        **{
            section: options(**_fields(values, section))
            for section, options in core_sections().items()
        },
        backend=options_of(outline.backend, layers),
        recipe=outline.recipe,
    )
    origins = {name: given.origin for layer in layers for name, given in layer.items()}
    return ResolvedJob(job, plugins, origins)


def selected_backend(
    *,
    family: str | None,
    config: Path | None,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
) -> str | None:
    """The backend that :func:`load_job` would take, for the same arguments and errors."""
    return _outline(family, config, None, settings, overrides, COMMAND_LINE).backend


def settings_from_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys for options that may be named by their field alone.

    Raises:
        ConfigError: no key, or more than one, has that name.
    """
    by_field: dict[str, list[str]] = {BACKEND: [BACKEND]}
    for name, key in core_keys().items():
        by_field.setdefault(key.field, []).append(name)
    settings = {}
    for name, value in options.items():
        matches = [name] if "." in name else by_field.get(name, [])
        if len(matches) != 1:
            raise ConfigError(
                f"unknown option {name}{did_you_mean(name, by_field)}",
                remedy=f"it could be: {', '.join(matches)}" if matches else None,
            )
        settings[matches[0]] = value
    return settings


@frozen
class _Outline:
    """What must be known before plugins can be asked: names, and settings weakest first."""

    family: str
    size: str | None
    backend: str | None
    recipe: str | None
    layers: list[Settings]
    values: dict[str, Any]


def _outline(
    family: str | None,
    config: Path | None,
    recipe: str | None,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
    origin: str,
) -> _Outline:
    flags = dict(settings)
    if family is not None:
        flags[MODEL_CLASS] = family
    if recipe is not None:
        flags[RECIPE] = recipe
    file = read_file(config) if config is not None else {}
    layers = [file, from_mapping(flags, origin), parse_overrides(overrides)]
    # What needs no plugin is checked first: a misspelt key is the nearer cause.
    values = _structured(layers, core_keys())
    family_name, size = _find_model(layers, values)
    layers = read_sections(layers)
    recipe_name = values.get(RECIPE, DEFAULT_RECIPE if config is None else None)
    default_from = load(family_name, None).family if recipe_name is not None else None
    backend = choose_backend(layers, default_from)
    return _Outline(family_name, size, backend, recipe_name, layers, values)


def _structured(layers: Iterable[Settings], known: Mapping[str, Key]) -> dict[str, Any]:
    """Typed values of all keys outside ``backend``; every layer is checked, the last wins."""
    values = {}
    for layer in layers:
        for name, given in layer.items():
            if name.partition(".")[0] == BACKEND:
                continue
            if name not in known:
                raise unknown_key(name, known, given.origin)
            values[name] = structure(known[name], given)
    return values


def _find_model(layers: list[Settings], values: Mapping[str, Any]) -> tuple[str, str | None]:
    """Canonical names of family and size; size is ``None`` if nothing names one."""
    names = [plugin.name for plugin in installed(FAMILIES)]
    wanted = values.get(MODEL_CLASS) or _detected(values)
    if wanted is None:
        raise ConfigError(
            "no model family is named",
            remedy=f"name one of: {', '.join(names) or 'none installed'}; "
            "or give --checkpoint, from which it can be told",
        )
    family, hint = split_model_class(wanted, names)
    sizes = load(family, None).family.sizes()
    size = values.get(SIZE)
    if hint is None:
        return family, match_size(size, sizes) if size is not None else None
    try:
        hinted = match_size(hint, sizes)
    except ConfigError as error:
        package = likely_package(FAMILIES, wanted)
        raise PluginError(
            f"unknown family {wanted!r}; {family} is installed, but has no size {hint!r}",
            remedy=f"sizes of {family}: {', '.join(sizes)};"
            f" a family {wanted} usually comes with: pip install {package}",
        ) from error
    size_rank, hint_rank = _rank(layers, SIZE), _rank(layers, MODEL_CLASS)
    if size is None or hint_rank > size_rank:
        return family, hinted
    matched = match_size(size, sizes)
    if size_rank == hint_rank and matched != hinted:
        raise ConfigError(
            f"{MODEL_CLASS} {wanted} names the size {hinted}, {SIZE} names {matched}",
            remedy="leave one of them out",
        )
    return family, matched


def _detected(values: Mapping[str, Any]) -> str | None:
    """The family that the checkpoint's own configuration tells; ``None`` without a checkpoint."""
    if values.get(CHECKPOINT) is None:
        return None
    from llmx.detect import detect_family

    params = values.get(PARAMS)
    return detect_family(
        values[CHECKPOINT], values.get(REVISION), None if params is None else Path(params)
    )


def _recipe(name: str, plugins: Plugins, backend: str | None) -> Settings:
    recipes = plugins.backend.recipes()
    if name not in recipes:
        raise ConfigError(
            f"no recipe {name!r} of {backend or 'llmx'}{did_you_mean(name, recipes)}",
            remedy=f"recipes: {', '.join(recipes)}",
        )
    return from_mapping(recipes[name].settings, f"recipe {name}")


def _forget_what_qmode_needs(layers: list[Settings], values: dict[str, Any]) -> None:
    """``qmode=none`` said on top of a recipe or file takes away what that one says about it."""
    for key in FOLLOWS_QMODE:
        if values.get(QMODE) is None and _rank(layers, QMODE) > _rank(layers, key):
            values.pop(key, None)


def _rank(layers: list[Settings], name: str) -> int:
    """Index of the last source that sets ``name``; -1 if none does."""
    return max((rank for rank, layer in enumerate(layers) if name in layer), default=-1)


def _fields(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
