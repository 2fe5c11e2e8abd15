"""Keys of cached results: digests of everything that has a say in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmx.cache.settings import decisive_settings
from llmx.config import ExportJob
from llmx.model.params import DecoderParams
from llmx.plugins import Installed, Plugins
from llmx.report.manifest import versions


def digest(value: Any) -> str:
    """SHA-256 in hexadecimal of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def toolchain(plugins: Plugins) -> Mapping[str, Any]:
    """The versions of everything that takes part, and the state of llmx's and the plugins' code.

    The code counts beside its version, since a checkout changes without a new version.
    """
    sources = [each for each in (plugins.family_source, plugins.backend_source) if each is not None]
    packages = sorted({"llmx", *(_package(each) for each in sources)})
    return {
        "versions": versions(plugins),
        "code": {name: _state_of_code(name) for name in packages},
    }


def program_key(
    job: ExportJob,
    params: DecoderParams,
    constant_methods: Mapping[str, Any],
    plugins: Plugins,
    weights: Mapping[str, Any],
) -> str:
    """The key of a finished program.

    Args:
        job: with its lengths resolved.
        weights: JSON-able; what identifies them, such as the SHA-256 of each file by name. Empty
            for random weights, which are the same ones every time.
    """
    return digest(
        {
            "toolchain": toolchain(plugins),
            "family": job.base.model_class,
            "settings": decisive_settings(job),
            "params": repr(params),
            "constant methods": constant_methods,
            "weights": weights,
        }
    )


def skeleton_key(
    job: ExportJob,
    params: DecoderParams,
    constant_methods: Mapping[str, Any],
    plugins: Plugins,
    schemes: Mapping[str, Any],
) -> str:
    """The key of a lowered program without its weights: what shapes it.

    Args:
        job: with its lengths resolved.
        schemes: how each module is quantized, by name.
    """
    settings = decisive_settings(job)
    # What metadata means is in the constant methods.
    settings["base"].pop("metadata")
    return digest(
        {
            "toolchain": toolchain(plugins),
            "family": job.base.model_class,
            "settings": settings,
            "params": repr(params),
            "constant methods": constant_methods,
            "schemes": repr(sorted(schemes.items())),
        }
    )


def calibration_key(
    job: ExportJob,
    params: DecoderParams,
    plugins: Plugins,
    schemes: Mapping[str, Any],
    weights: Mapping[str, Any],
    texts: Sequence[Sequence[int]],
) -> str:
    """The key of weights that are rounded for texts, whatever the program's context is.

    Args:
        schemes: how each module is quantized, by name.
        weights: as of ``program_key``.
        texts: token ids.
    """
    settings = decisive_settings(job)
    return digest(
        {
            "toolchain": toolchain(plugins),
            "family": job.base.model_class,
            "settings": {name: settings[name] for name in ("model", "quantization", "backend")},
            "params": repr(params),
            "schemes": repr(sorted(schemes.items())),
            "weights": weights,
            "texts": texts,
        }
    )


def _package(plugin: Installed) -> str:
    return plugin.value.partition(":")[0].partition(".")[0]


def _state_of_code(package: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return "unknown"
    origin = Path(spec.origin)
    is_folder = bool(spec.submodule_search_locations)
    files = sorted(origin.parent.rglob("*.py")) if is_folder else [origin]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest(states)
