"""The export job: its schema, and the ways to say it."""

from __future__ import annotations

from llmx.config.loading import ResolvedJob, load_job
from llmx.config.recipe import Recipe
from llmx.config.schema import (
    BaseOptions,
    DebugOptions,
    ExportJob,
    ExportOptions,
    ModelOptions,
    MultimethodOptions,
    QuantizationOptions,
    SelectedBackend,
)

__all__ = [
    "BaseOptions",
    "DebugOptions",
    "ExportJob",
    "ExportOptions",
    "ModelOptions",
    "MultimethodOptions",
    "QuantizationOptions",
    "Recipe",
    "ResolvedJob",
    "SelectedBackend",
    "load_job",
]
