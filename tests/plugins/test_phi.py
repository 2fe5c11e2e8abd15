"""Phi-3, Phi-3.5 and Phi-4-mini compute what Hugging Face's implementation computes."""

from __future__ import annotations

from typing import Any

import pytest

from llmx.config import load_job
from llmx.errors import ConfigError
from llmx.lower.context import context_notes, resolve_lengths
from llmx.plugins import load
from llmx.testing import FamilyConformance

# As the hub counts the safetensors files.
PHI_3 = {"mini-4k": 3_821_079_552, "mini-128k": 3_821_079_552}
PHI_3_5 = {"mini": 3_821_079_552}
PHI_4 = {"3.8b": 3_836_021_760}


class TestPhi3(FamilyConformance):
    family = "phi_3"
    model_type = "phi3"
    published_counts = PHI_3


class TestPhi35(FamilyConformance):
    family = "phi_3_5"
    model_type = "phi3"
    published_counts = PHI_3_5
    exported_sizes = ()  # the decoder of Phi-3, but for numbers


class TestPhi4Mini(FamilyConformance):
    family = "phi_4_mini"
    model_type = "phi3"
    published_counts = PHI_4


def lengths(context: int | None) -> Any:
    """The resolved lengths of a job for Phi-3-mini with 4k."""
    params = load("phi_3", None).family.default_params(size="mini-4k")
    settings = {"export.max_context_length": context}
    return resolve_lengths(load_job(family="phi_3", settings=settings).job, params).export


def test_a_context_past_the_window_is_given_in_short_calls() -> None:
    assert (lengths(2048).max_context_length, lengths(2048).max_seq_length) == (2048, 256)
    assert (lengths(4096).max_context_length, lengths(4096).max_seq_length) == (4096, 64)


def test_a_context_past_the_models_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than the 4096 tokens"):
        lengths(4097)


@pytest.mark.parametrize(("context", "notes"), [(4096, 0), (4097, 1)])
def test_a_context_that_takes_the_long_factors_is_noted(context: int, notes: int) -> None:
    params = load("phi_3_5", None).family.default_params(size=None)
    settings = {"export.max_context_length": context}
    job = resolve_lengths(load_job(family="phi_3_5", settings=settings).job, params)
    assert len(context_notes(job, params)) == notes


@pytest.mark.parametrize("name", ["phi_4_mini", "phi4mini", "phi-4-mini"])
def test_phi_4_mini_is_a_family_of_one_size(name: str) -> None:
    job = load_job(family=name).job
    assert (job.base.model_class, job.base.size) == ("phi_4_mini", None)
