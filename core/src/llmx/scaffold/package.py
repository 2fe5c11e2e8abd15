"""The name of a new plugin, and its files written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from attrs import frozen

from llmx import __version__
from llmx.errors import ConfigError
from llmx.names import SEPARATORS, normalised
from llmx.plugins import installed

NAME = re.compile(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*")


@frozen
class PackageName:
    """What one plugin is called in different places.

    Attributes:
        name: its entry point, and so its name on the command line.
        distribution: as ``pip install`` takes it.
        module: as ``import`` takes it.
    """

    name: str
    distribution: str
    module: str

    @property
    def title(self) -> str:
        """For prose and class names: ``TinyModel3``."""
        words = re.split(f"[{re.escape(SEPARATORS)}]", self.name)
        return "".join(word.capitalize() for word in words)


def package_name(name: str, prefix: str, group: str) -> PackageName:
    """Check a name and derive the others; ``prefix`` is ``llmx-plugin`` or ``llmx-backend``.

    Raises:
        ConfigError: it is no name, or taken by what is installed.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin",
            remedy="use small letters and digits, separated by - or _, a letter first",
        )
    for plugin in installed(group):
        if normalised(plugin.name) == normalised(name):
            raise ConfigError(f"{plugin} is installed already", remedy="choose another name")
    words = re.sub(f"[{re.escape(SEPARATORS)}]", "_", name)
    distribution = f"{prefix}-{words.replace('_', '-')}"
    return PackageName(words, distribution, f"{prefix.replace('-', '_')}_{words}")


def render(template: str, values: Mapping[str, str]) -> str:
    """The template of that file name with ``$name`` filled in."""
    text = (files("llmx.scaffold") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def common_values(package: PackageName) -> dict[str, str]:
    """What every template may ask for."""
    return {
        "name": package.name,
        "title": package.title,
        "distribution": package.distribution,
        "module": package.module,
        # Any later minor version will do.
        "version": __version__.rpartition(".")[0],
    }


def write_package(folder: Path, contents: Mapping[str, str]) -> None:
    """Write files by their path within ``folder``, all or none.

    Raises:
        ConfigError: the folder is there already, or cannot be made.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already", remedy="name another folder with --output")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for name, text in contents.items():
                path = Path(scratch) / "package" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            (Path(scratch) / "package").rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
