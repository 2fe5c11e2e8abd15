"""Which installed family a checkpoint belongs to, judged by its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.errors import CheckpointError
from llmx.model.matching import STAND_IN
from llmx.plugins import FAMILIES, duplicates, installed, likely_package, load


@frozen
class Candidates:
    """Families that fit a configuration best, and why others could not be asked.

    ``failures`` are messages of plugins that are broken or installed twice.
    """

    names: tuple[str, ...]
    failures: tuple[str, ...]


def find_candidates(config: Mapping[str, Any]) -> Candidates:
    """Ask every installed family; those that fit best are the candidates, stand-ins at worst."""
    levels: dict[str, int] = {}
    plugins = installed(FAMILIES)
    twice = duplicates(plugins)
    failures = [f"{name} is installed twice" for name in sorted(twice)]
    for plugin in plugins:
        if plugin.name in twice:
            continue
        try:
            # A family that does not say is no candidate.
            levels[plugin.name] = load(plugin.name, None).family.match_config(config=config) or 0
        except Exception as error:  # a broken plugin must not hide the others
            failures.append(str(error).splitlines()[0] or f"{plugin}: {type(error).__name__}")
    best = max(levels.values(), default=0) or STAND_IN
    names = tuple(name for name, level in levels.items() if level == best)
    return Candidates(names, tuple(failures))


def detect_family(source: str, revision: str | None, params: Path | None) -> str:
    """The family of the checkpoint ``source``, a path or hub id.

    Args:
        revision: branch, tag or commit of a hub id.
        params: file that describes the model instead of the checkpoint's own.

    Raises:
        CheckpointError: no installed family reads it, or several do; the message lists them.
    """
    from llmx.checkpoint.peek import read_config

    config = read_config(source, revision=revision, params=params)
    candidates = find_candidates(config)
    if len(candidates.names) == 1:
        return candidates.names[0]
    if candidates.names:
        raise CheckpointError(
            f"{source} fits several families: {', '.join(candidates.names)}",
            remedy=f"name one of them: llmx export {candidates.names[0]} --checkpoint {source}",
        )
    model_type = config.get("model_type")
    hints = [f"not asked: {failure}" for failure in candidates.failures]
    package = likely_package(FAMILIES, model_type) if isinstance(model_type, str) else None
    if package:
        hints.append(f"a family for it usually comes with: pip install {package}")
    hints.append(
        f"name one to try it all the same: {', '.join(each.name for each in installed(FAMILIES))}"
    )
    raise CheckpointError(
        f"{source} is {described(config)}, which no installed family reads",
        remedy="; ".join(hints),
    )


def refuse_mismatch(source: str, config: Mapping[str, Any], family: str) -> CheckpointError:
    """The error for a checkpoint of another architecture than ``family`` reads."""
    names = find_candidates(config).names
    if names:
        remedy = f"use `llmx export {names[0]}`" + (
            f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        )
    else:
        model_type = config.get("model_type")
        package = likely_package(FAMILIES, model_type) if isinstance(model_type, str) else None
        remedy = (
            f"a family for it usually comes with: pip install {package}"
            if package
            else "check --checkpoint; `llmx models` lists the families"
        )
    return CheckpointError(f"{source} is {described(config)}, not {family}", remedy=remedy)


def described(config: Mapping[str, Any]) -> str:
    """The kind of model, as its configuration calls it."""
    model_type = config.get("model_type")
    if model_type is not None:
        return f"a {model_type} checkpoint (model_type {model_type!r})"
    architectures = config.get("architectures")
    if architectures:
        return f"a checkpoint of {', '.join(map(str, architectures))}"
    return "a checkpoint of an unnamed architecture"
