"""Export LLMs to ExecuTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.artifact import Artifact
    from llmx.checkpoint import Checkpoint, TokenIds, WeightMap
    from llmx.config import ExportJob
    from llmx.config.recipe import Recipe
    from llmx.errors import (
        ArtifactError,
        CheckpointError,
        ConfigError,
        LlmxError,
        LoweringError,
        PluginError,
        UserError,
    )
    from llmx.hookspecs import hookimpl
    from llmx.lower import export
    from llmx.model.params import DecoderParams, ModelSize

__all__ = [
    "Artifact",
    "ArtifactError",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "DecoderParams",
    "ExportJob",
    "LlmxError",
    "LoweringError",
    "ModelSize",
    "PluginError",
    "Recipe",
    "TokenIds",
    "UserError",
    "WeightMap",
    "__version__",
    "export",
    "hookimpl",
]

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "llmx.artifact",
    "ArtifactError": "llmx.errors",
    "Checkpoint": "llmx.checkpoint",
    "CheckpointError": "llmx.errors",
    "ConfigError": "llmx.errors",
    "DecoderParams": "llmx.model.params",
    "ExportJob": "llmx.config",
    "LlmxError": "llmx.errors",
    "LoweringError": "llmx.errors",
    "ModelSize": "llmx.model.params",
    "PluginError": "llmx.errors",
    "Recipe": "llmx.config.recipe",
    "TokenIds": "llmx.checkpoint",
    "UserError": "llmx.errors",
    "WeightMap": "llmx.checkpoint",
    "export": "llmx.lower",
    "hookimpl": "llmx.hookspecs",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: plugins and listings must start fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
