"""The conformance kit passes somebody else's right family and finds the mistakes in a wrong one.

The families are throw-away distributions; pytest runs on them in a process of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FAMILY = """
import attrs
from llmx import DecoderParams, ModelSize, TokenIds, hookimpl
from llmx.model.params import FrequencyRope, PlainRope

ROPE = FrequencyRope(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=512
)
PARAMS = DecoderParams(
    dim=1024, n_layers=4, n_heads=16, n_kv_heads=8, head_dim={head_dim}, hidden_dim=512,
    vocab_size=1000,
    max_position=4096, norm_eps=1e-6, rope_theta=1e5, rope_scaling=ROPE,
    qk_norm={qk_norm},
)
SIZES = {{"tiny": ModelSize(params=PARAMS, hub_repo="org/tiny", config_url="")}}
PUBLISHED = TokenIds(bos=None, eos=(7,))

@hookimpl
def sizes():
    return SIZES

@hookimpl
def params_from_hf(config):
    from llmx.model.hf_config import decoder_params
    params = decoder_params(config, qk_norm={qk_norm})
    {params}
    return params

@hookimpl
def match_config(config):
    from llmx.model.matching import match_sizes
    return match_sizes(config, "{model_type}", SIZES, params_from_hf)

@hookimpl
def convert_weights(checkpoint, params):
    from llmx.checkpoint import decoder_map
    entries = {{}}
    attention = "model.layers.{{i}}.self_attn."
    ours = "layers.{{i}}.attention."
    {entries}
    return decoder_map(checkpoint, params, gguf_interleaved_qk=False).updated(entries)

@hookimpl
def token_ids(checkpoint):
    from llmx.checkpoint import read_token_ids
    if checkpoint is None:
        return PUBLISHED
    {token_ids}
"""
RIGHT = {
    "params": "",
    "entries": "",
    "token_ids": "return read_token_ids(checkpoint, PUBLISHED)",
    "model_type": "qwen3",
    "head_dim": "128",
    "qk_norm": "True",
}
SWAPPED = "; ".join(
    f"entries[attention + '{a}_norm.weight'] = ours + '{b}_norm.weight'" for a, b in ("qk", "kq")
)
TWICE = "entries[attention + 'o_proj.weight'] = None"
MISTAKES = {
    "norms of q and k swapped": ({"entries": SWAPPED}, "test_logits"),
    "a tensor dropped": ({"entries": TWICE}, "test_a_checkpoint_of_full_size_fits"),
    "rope not scaled": (
        {"params": "params = attrs.evolve(params, rope_scaling=PlainRope())"},
        "test_logits",
    ),
    "the end of the text forgotten": ({"token_ids": "return PUBLISHED"}, "test_token_ids"),
}
# What a mistake is called where the logits differ, for somebody who does not know it.
TRANSPOSED = """
    def stream():
        from llmx.checkpoint import apply, plan
        from llmx.testing.shapes import meta_decoder_shapes
        import sys
        shapes = meta_decoder_shapes(load("theirs", None).family, params)
        whole = decoder_map(checkpoint, params, gguf_interleaved_qk=False)
        for name, tensor in apply(plan(whole, checkpoint, shapes), checkpoint):
            yield name, tensor.T if name.endswith("o_proj.weight") else tensor
    from llmx.plugins import load
    return stream()
"""
MLP, FEED_FORWARD = "model.layers.{i}.mlp", "layers.{i}.feed_forward"
GATES = "; ".join(
    f"entries['{MLP}.{a}_proj.weight'] = '{FEED_FORWARD}.{b}_proj.weight'"
    for a, b in (("gate", "up"), ("up", "gate"))
)
CAUSES = {
    "transposed": ({"entries": TRANSPOSED, "head_dim": "64"}, "attention.o_proj is transposed"),
    "scaling": (
        {"params": "params = attrs.evolve(params, rope_scaling=PlainRope())"},
        "rope_scaling is missing or wrong",
    ),
    "gates": ({"entries": GATES}, "gate and up are swapped"),
    "bias": ({"model_type": "qwen2", "qk_norm": "False"}, "biases that its parameters do not"),
}
MODULE = """
from llmx.testing import FamilyConformance

class TestTheirs(FamilyConformance):
    family = "theirs"
    model_type = "{model_type}"
"""


def run(site, folder: Path, selection: str, **parts: str) -> str:
    """What pytest says about the family with these parts."""
    parts = {**RIGHT, **parts}
    source = FAMILY.format(**parts)
    site.install("llmx-plugin-theirs", source, families=("theirs",))
    module = folder / "test_theirs.py"
    module.write_text(MODULE.format(**parts))
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return site.python(*arguments, "-k", selection, "--tb=line", str(module)).stdout


def test_a_right_family_passes_and_is_measured(site, tmp_path: Path) -> None:
    output = run(site, tmp_path, "not program and not generation")
    assert re.search(r"\d+ passed", output), output
    assert "failed" not in output
    assert re.search(r"theirs +tiny +33,515,520 +\d\.\de-0\d +\d\.\de[+-]0\d +-", output), output


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(site, tmp_path: Path, mistake: str) -> None:
    parts, finder = MISTAKES[mistake]
    output = run(site, tmp_path, finder, **parts)
    assert re.search(r"\d+ failed", output), output
    assert f"::{finder}" in output, output


@pytest.mark.parametrize("mistake", CAUSES)
def test_a_failure_names_its_likely_cause(site, tmp_path: Path, mistake: str) -> None:
    parts, cause = CAUSES[mistake]
    output = run(site, tmp_path, "test_logits_equal and 100", **parts)
    assert "likely cause:" in output, output
    assert cause in output, output
