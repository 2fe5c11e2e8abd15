"""Core ML: the whole model is one delegate, the cache its state; what it cannot do is refused.

Core ML runs on Apple's systems only: what is checked elsewhere is the lowering by coremltools.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmx import Artifact, ConfigError, ExportJob
from llmx.plugins import load

OLD = {
    "backend.coreml.ios": 15,
    "backend.coreml.enable_state": False,
    "backend.coreml.preserve_sdpa": False,
}


def delegated(artifact: Artifact, operator: str) -> tuple[int, int]:
    """Calls of an operator inside and outside of the delegate."""
    rows = artifact.manifest["delegation"]["operators"]
    found = [row for row in rows if row["operator"] == operator]
    return sum(row["delegated"] for row in found), sum(row["other"] for row in found)


def test_the_default_recipe_delegates_everything_with_the_cache_as_state(tiny_export: Any) -> None:
    artifact = tiny_export(backend="coreml", recipe="default")
    assert artifact.manifest["delegation"]["subgraphs"] == 1
    assert artifact.manifest["delegation"]["other_nodes"] == 1  # taking the result out
    assert delegated(artifact, "aten_index_put_default") == (4, 0)
    assert delegated(artifact, "aten_scaled_dot_product_attention_default") == (2, 0)


def test_weights_of_4_bits_make_a_smaller_program(tiny_export: Any) -> None:
    blocks, floats = (
        tiny_export(backend="coreml", recipe=recipe).program.stat().st_size
        for recipe in ("default", "float")
    )
    assert blocks < 0.8 * floats


def test_older_systems_get_attention_in_parts_and_the_cache_outside(tiny_export: Any) -> None:
    artifact = tiny_export(backend="coreml", recipe="float", **OLD)
    assert delegated(artifact, "aten_scaled_dot_product_attention_default") == (0, 0)
    assert delegated(artifact, "aten__softmax_default") == (2, 0)


def test_a_quantized_graph_is_one_delegate_too(tiny_export: Any) -> None:
    artifact = tiny_export(
        backend="coreml",
        recipe="float",
        config={"num_hidden_layers": 1},
        pt2e_quantize="coreml_baseline_8a_c4w",
        calibration_limit=1,
        calibration_seq_length=4,
    )
    assert artifact.manifest["delegation"]["subgraphs"] == 1
    assert artifact.manifest["delegation"]["other_nodes"] == 1
    weights = artifact.manifest["weights"]["modules"]
    assert {each["bits"] for each in weights if each["kind"] == "linear"} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend.coreml.ios": 17}, "enable_state needs iOS 18, not 17"),
        ({**OLD, "backend.coreml.quantize": "b4w"}, "blocks from iOS 18"),
        ({"enable_dynamic_shape": True}, "one length"),
        ({"use_sdpa_with_kv_cache": True}, "own attention operators"),
        ({"qmode": "8da4w"}, "own weight formats"),
        ({"dtype_override": "fp16"}, "a model in fp32"),
        ({"pt2e_quantize": "coreml_baseline_8a_c8w"}, "quantize=b4w contradicts"),
    ],
)
def test_jobs_that_core_ml_cannot_do_are_refused(options: dict[str, Any], message: str) -> None:
    job = ExportJob.create("smollm2", random_weights=True, backend="coreml", **options)
    with pytest.raises(ConfigError, match=message) as raised:
        load("smollm2", "coreml").backend.check(job=job)
    assert raised.value.remedy


def test_a_system_that_does_not_exist_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"'ios' must be in \(15, 16, 17, 18\) \(got 19\)$"):
        ExportJob.create(
            "smollm2", random_weights=True, backend="coreml", **{"backend.coreml.ios": 19}
        )
