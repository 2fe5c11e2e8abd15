"""Where settings are written: YAML files, flags and dotted overrides, as flat dotted keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmx.config.keys import BACKEND, core_sections
from llmx.config.values import Given
from llmx.errors import ConfigError

Settings = dict[str, Given]

COMMAND_LINE = "the command line"
ARTIFACT_RECORD = "llmx.json"  # keeps the job that made the artifact under "config"


def read_file(path: Path) -> Settings:
    """The settings in a YAML or JSON file, or an artifact's ``llmx.json``; none in an empty one.

    Raises:
        ConfigError: it cannot be read, is not YAML, is not a mapping, or says a key twice.
    """
    root = _parse(path)
    if root is None:
        return {}
    if path.name == ARTIFACT_RECORD:
        root = _stored_job(root, path)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            f"{path} does not hold a mapping of options",
            remedy="it should look like: base: {model_class: NAME}",
        )
    found: Settings = {}
    for name, node in _leaves(root, "", path):
        origin = f"{path}, line {node.start_mark.line + 1}"
        if name in found:
            raise ConfigError(
                f"{name} is set twice", remedy=f"in {found[name].origin} and again in {origin}"
            )
        found[name] = Given.from_node(node, origin)
    return found


def parse_overrides(overrides: Iterable[str]) -> Settings:
    """``key=value`` words; a leading ``+`` or ``++`` means nothing, the last of a key wins.

    Raises:
        ConfigError: a word without ``=``.
    """
    found: Settings = {}
    for word in overrides:
        name, equals, text = word.partition("=")
        name = name.strip().lstrip("+")
        if not equals or not name:
            raise ConfigError(
                f"{word!r} is not KEY=VALUE", remedy="for example model.use_kv_cache=true"
            )
        found[name] = Given.from_text(text, COMMAND_LINE)
    return found


def from_mapping(settings: Mapping[str, Any], origin: str) -> Settings:
    """Settings that already are dotted keys with Python values."""
    return {name: Given.from_python(value, origin) for name, value in settings.items()}


def _parse(path: Path) -> yaml.Node | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Three dots end a document, but people write them for "and so on".
        text = re.sub(r"^\.\.\.[ \t]*$", "", text, flags=re.MULTILINE)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"no such config file: {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not a text file: byte {error.start} is not UTF-8",
            remedy="--config takes a YAML file",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or "nested too deeply"
        raise ConfigError(f"{path} is not YAML: {reason}") from error
    return node


def _stored_job(root: yaml.Node, path: Path) -> yaml.Node:
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "config":
            node: yaml.Node = value
            return node
    raise ConfigError(f"{path} holds no job under 'config'")


def _leaves(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """Dotted keys and value nodes; a mapping that is not a section is itself a value."""
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {key.start_mark.line + 1}: a key must be a name")
        name = f"{prefix}{key.value}"
        if not _is_section(name):
            yield name, value
        elif isinstance(value, yaml.MappingNode):
            yield from _leaves(value, f"{name}.", path)
        elif name == BACKEND:
            yield name, value
        elif not (isinstance(value, yaml.ScalarNode) and Given.from_node(value, "").is_null):
            raise ConfigError(
                f"{name}: expected a mapping of options (from {path},"
                f" line {value.start_mark.line + 1})"
            )


def _is_section(name: str) -> bool:
    parent, _, child = name.rpartition(".")
    return name in core_sections() or name == BACKEND or (parent == BACKEND and bool(child))
