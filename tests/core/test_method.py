"""A job that leaves it open is rounded for a text where that takes minutes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmx import ConfigError
from llmx.config import BaseOptions, ExportJob, QuantizationOptions
from llmx.lower.method import MOST_WEIGHTS, resolve_method
from llmx.progress import Stages
from llmx.quantize.plan import Scheme

TOKENIZER = Path("tokenizer.json")


def resolved(
    *,
    tokenizer: Path | None = TOKENIZER,
    weights: int = 1000,
    bits: int = 4,
    random: bool = False,
    **quantization: Any,
) -> tuple[str | None, list[str]]:
    """The method, and what is said about it."""
    options: dict[str, Any] = {"qmode": "8da4w", "method": "auto", **quantization}
    job = ExportJob(
        base=BaseOptions(model_class="any", random_weights=random),
        quantization=QuantizationOptions(**options),
    )
    blueprint: Any = SimpleNamespace(
        shapes={"one": (weights // 10, 10)}, schemes={"one": Scheme(bits, 0)}
    )
    stages = Stages()
    job = resolve_method(job, blueprint, tokenizer, stages)
    return job.quantization.method, list(stages.notes)


def test_a_small_model_is_rounded_for_a_text_and_it_is_said() -> None:
    method, (note,) = resolved()
    assert method == "gptq"
    assert "quantization.method=search" in note


def test_a_large_one_is_not_and_it_is_said() -> None:
    method, (note,) = resolved(weights=2 * MOST_WEIGHTS)
    assert method == "search"
    assert note.startswith("4.0 billion weights are not rounded for a text")


def test_without_a_tokenizer_there_is_no_text() -> None:
    method, (note,) = resolved(tokenizer=None)
    assert method == "search"
    assert "without a tokenizer" in note


@pytest.mark.parametrize(
    "given", [{"random": True}, {"bits": 8, "qmode": "8da8w"}, {"imported": "keep"}]
)
def test_where_texts_have_no_say_nothing_is_said(given: dict[str, Any]) -> None:
    assert resolved(**given) == ("search", [])


@pytest.mark.parametrize("method", ["rounding", "hqq", "search", "gptq", None])
def test_a_job_that_says_how_is_left_alone(method: str | None) -> None:
    assert resolved(method=method, weights=2 * MOST_WEIGHTS) == (method, [])


@pytest.mark.parametrize("given", [{"use_hqq": True}, {"use_hqq": False}, {"qmode": None}])
def test_older_keys_and_float_weights_decide(given: dict[str, Any]) -> None:
    assert resolved(**given) == (None, [])


def test_a_text_that_is_given_is_used_whatever_it_takes() -> None:
    given = {"calibration_limit": 3}
    assert resolved(weights=2 * MOST_WEIGHTS, tokenizer=None, **given) == ("gptq", [])


@pytest.mark.parametrize("given", [{"use_hqq": True}, {"qmode": None}])
def test_a_text_that_nothing_is_rounded_for_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="calibration_limit needs a method that calibrates"):
        resolved(calibration_limit=3, **given)


def test_the_older_tools_mode_is_more_than_automatic() -> None:
    assert QuantizationOptions(qmode="8da4w-gptq", method="auto").method == "gptq"
