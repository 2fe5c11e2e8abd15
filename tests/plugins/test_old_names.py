"""Every ``model_class`` of the older tool names a family here, and a size where it holds one."""

from __future__ import annotations

from pathlib import Path

import pytest
from executorch.extension.llm.export.config.llm_config import ModelType

from llmx.config import load_job
from llmx.errors import PluginError
from llmx.plugins import load

OLD_NAMES = {
    "stories110m": ("stories110m", None),
    "llama2": ("llama2", None),
    "llama3": ("llama3", None),
    "llama3_1": ("llama3_1", None),
    "llama3_2": ("llama3_2", None),
    "qwen2_5_0_5b": ("qwen2_5", "0.5b"),
    "qwen2_5_1_5b": ("qwen2_5", "1.5b"),
    "qwen2_5_coder_32b": ("qwen2_5", "coder-32b"),
    "qwen3_0_6b": ("qwen3", "0.6b"),
    "qwen3_1_7b": ("qwen3", "1.7b"),
    "qwen3_4b": ("qwen3", "4b"),
    "phi_4_mini": ("phi_4_mini", None),
    "smollm2": ("smollm2", None),
}


@pytest.mark.parametrize(("old", "expected"), OLD_NAMES.items(), ids=OLD_NAMES)
def test_an_old_name_in_a_file(old: str, expected: tuple[str, str | None], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"base: {{model_class: {old}}}\n")
    base = load_job(config=file).job.base
    assert (base.model_class, base.size) == expected
    assert load(base.model_class, None).family.hub_repo(size=base.size)


BEYOND = {each.value for each in ModelType} - OLD_NAMES.keys()


@pytest.mark.parametrize("old", sorted(BEYOND))
def test_what_is_not_here_is_not_taken_for_something_else(old: str) -> None:
    """Vision, hybrid, fixed-shape and mixture models are no sizes of these families."""
    with pytest.raises(PluginError, match="unknown family"):
        load_job(family=old)
