"""Options keep the names, defaults and limits of ExecuTorch's ``LlmConfig``."""

from __future__ import annotations

import dataclasses
import enum

import attrs
import pytest

from llmx.config import (
    BaseOptions,
    ExportJob,
    ExportOptions,
    ModelOptions,
    QuantizationOptions,
    load_job,
)
from llmx.config.keys import core_keys
from llmx.config.metadata import parse_metadata
from llmx.errors import ConfigError, PluginError

OURS = {
    "debug.report",
    "base.size",
    "base.revision",
    "base.random_weights",
    "export.replicate_layers",
    "quantization.bits",
    "quantization.calibration_file",
    "quantization.extra_bits",
    "quantization.head_quantize",
    "quantization.imported",
    "quantization.method",
    "quantization.target_size",
    "recipe",
}
BASE = BaseOptions(model_class="any")


def cached(**options: object) -> ModelOptions:
    return ModelOptions(use_kv_cache=True, **options)


def older_defaults() -> dict[str, object]:
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    found = {}
    for section in dataclasses.fields(LlmConfig):
        if section.name == "backend":
            continue
        options = getattr(LlmConfig(), section.name)
        for each in dataclasses.fields(options):
            value = getattr(options, each.name)
            value = value.value if isinstance(value, enum.Enum) else value
            found[f"{section.name}.{each.name}"] = tuple(value) if value == [] else value
    return found


def test_every_key_of_the_older_config_is_here_with_its_default():
    older = older_defaults()
    ours = {name: key.default for name, key in core_keys().items() if name not in OURS}
    assert ours.keys() == older.keys()
    assert ours.pop("base.model_class") is attrs.NOTHING
    assert older.pop("base.model_class")
    # The artifact is a folder of its own; the older tool drops a file where it runs.
    assert (older.pop("export.output_dir"), ours.pop("export.output_dir")) == (".", None)
    # As good in less time: see docs/quantization.md.
    assert (older.pop("quantization.use_hqq"), ours.pop("quantization.use_hqq")) == (True, None)
    assert ours == older


def test_every_option_is_documented():
    assert [name for name, key in core_keys().items() if not key.doc.endswith(".")] == []


@pytest.mark.parametrize(
    ("section", "options", "key"),
    [
        ("model", ModelOptions(static_quantize_kv_cache=True), "static_quantize_kv_cache"),
        ("model", ModelOptions(use_moe_quantized_op=True), "use_moe_quantized_op"),
    ],
)
def test_options_that_are_not_there_yet_are_refused(section, options, key):
    with pytest.raises(ConfigError, match=f"^{section}.{key} is not supported yet") as caught:
        ExportJob(**{"base": BASE, section: options})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("model", ModelOptions(use_sdpa_with_kv_cache=True), "needs model.use_kv_cache"),
        ("model", ModelOptions(enable_dynamic_shape=False), "needs model.use_kv_cache"),
        ("model", ModelOptions(quantize_kv_cache=True), "quantize_kv_cache needs model.use_kv"),
        ("model", ModelOptions(use_attention_sink="4,64"), "attention_sink needs model.use_kv"),
        ("model", ModelOptions(local_global_attention=[8]), "attention needs model.use_kv_cache"),
        ("model", cached(local_global_attention=[]), "must have one window or more"),
        ("model", cached(local_global_attention=[0, -1]), r"is \[0, -1\]"),
        ("model", cached(use_attention_sink="4"), "'4' is not '<sink>,<window>'"),
        ("model", cached(use_attention_sink="4,2044,1024"), "is not '<sink>,<window>'"),
        ("model", cached(use_attention_sink="0,64"), "must both be at least 1 token"),
        ("model", cached(use_attention_sink="4,0"), "must both be at least 1 token"),
        ("model", cached(use_attention_sink="4,125"), "128 is shorter than sink and window"),
        (
            "model",
            cached(use_attention_sink="4,64", local_global_attention=[0, 64]),
            "use_attention_sink 4,64 contradicts model.local_global_attention",
        ),
        ("export", ExportOptions(max_seq_length=256), "128 is shorter than .*max_seq_length 256"),
        ("export", ExportOptions(max_seq_length=0), "max_seq_length is 0"),
        (
            "export",
            ExportOptions(lora_weights_file="x", export_only=True),
            "lora_weights_file contradicts export.export_only",
        ),
        ("export", ExportOptions(max_context_length=-1), "max_context_length is -1"),
        ("quantization", QuantizationOptions(group_size=32), "needs quantization.qmode"),
        ("quantization", QuantizationOptions(head_quantize="8,0"), "needs quantization.qmode"),
        ("quantization", QuantizationOptions(head_quantize="3,0"), "is not .* of 4 or 8 bits"),
        ("quantization", QuantizationOptions(qmode="8da4w", group_size=-1), "group_size is -1"),
        ("quantization", QuantizationOptions(qmode="8da4ww"), "unknown .*did you mean 8da4w"),
        ("quantization", QuantizationOptions(qmode="torchao:8da9w"), "unknown .*qmode"),
        ("quantization", QuantizationOptions(embedding_quantize="4"), "is not '<bits>,<group"),
        ("quantization", QuantizationOptions(embedding_quantize="torchao:9,32"), "9 bits"),
        ("model", ModelOptions(use_shared_embedding=True), "needs .*embedding_quantize"),
        ("quantization", QuantizationOptions(embedding_quantize="5,32"), "cannot have 5 bits"),
        (
            "base",
            BaseOptions(model_class="any", checkpoint="a", random_weights=True),
            "random_weights contradicts",
        ),
    ],
)
def test_contradictions_are_refused(section, options, message):
    with pytest.raises(ConfigError, match=message):
        ExportJob(**{"base": BASE, section: options})


def test_automatic_lengths_are_not_compared():
    job = ExportJob(base=BASE, export=ExportOptions(max_seq_length=256, max_context_length=None))
    assert job.export.max_context_length is None


@pytest.mark.parametrize(
    "value",
    [
        {"get_bos_id": 1, "get_eos_ids": [2, 3]},
        '{"get_bos_id": 1, "get_eos_ids": [2, 3]}',
        '"{\\"get_bos_id\\": 1, \\"get_eos_ids\\": [2, 3]}"',
    ],
)
def test_metadata_is_a_mapping_or_its_json(value):
    assert parse_metadata(value) == {"get_bos_id": 1, "get_eos_ids": [2, 3]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"get_bos_id": }', "not valid JSON: Expecting value at column 16"),
        ("[1, 2]", "expected a mapping"),
        ({"a": {"b": 1}}, "a cannot be"),
        ({"a": [1, "b"]}, "a cannot be"),
        ({"a": None}, "a cannot be None"),
        ({"a": 2**63}, "a cannot be"),
        ({"a": float("nan")}, "a cannot be nan"),
        ({"forward": 1}, "'forward' cannot be the name"),
        ({3: 1}, "3 cannot be the name"),
    ],
)
def test_metadata_that_a_program_cannot_return(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_metadata(value)


BASIC = """# path/to/config.yaml
base:
  model_class: llama3_2
  checkpoint: path/to/consolidated.00.pth
  params: path/to/params.json
  metadata: '{"get_bos_id":128000, "get_eos_ids":[128009, 128001]}'
"""
CACHE = BASIC + "model:\n  use_kv_cache: True\n  use_sdpa_with_kv_cache: True\n"
QUANTIZED = CACHE + "quantization:\n  embedding_quantize: 4,32\n  qmode: 8da4w\n"
DELEGATED = QUANTIZED + (
    "backend:\n  xnnpack:\n    enabled: True\n    extended_ops: True  # Take more operators.\n"
)
VERBOSE = "# path/to/config.yaml\n...\ndebug:\n  verbose: True\n...\n"
MISSPELT = "unknown key model.use_sdpa_withp_kv_cache, did you mean model.use_sdpa_with_kv_cache?"


class TestDocumentedConfigs:
    """The YAML files on ExecuTorch's page about exporting LLMs."""

    @pytest.fixture(autouse=True)
    def plugins(self, monkeypatch):
        monkeypatch.setenv("LLMX_LOAD_PLUGINS", "llama3_2,xnnpack")

    def test_basic_export(self, write):
        job = load_job(config=write(BASIC)).job
        assert job.base.checkpoint == "path/to/consolidated.00.pth"
        assert job.base.params == "path/to/params.json"
        assert job.base.metadata == {"get_bos_id": 128000, "get_eos_ids": [128009, 128001]}
        assert (job.backend.name, job.quantization.qmode) == (None, None)
        assert not job.model.use_kv_cache

    def test_optimizations(self, write):
        job = load_job(config=write(CACHE)).job
        assert job.model.use_kv_cache
        assert job.model.use_sdpa_with_kv_cache

    def test_quantization(self, write):
        job = load_job(config=write(QUANTIZED)).job
        assert job.quantization.embedding_quantize == "4,32"
        assert job.quantization.qmode == "8da4w"

    def test_backend(self, write):
        backend = load_job(config=write(DELEGATED)).job.backend
        assert backend.name == "xnnpack"
        assert backend.options.extended_ops

    def test_debugging(self, write):
        assert load_job(family="llama3_2", config=write(VERBOSE)).job.debug.verbose

    @pytest.mark.parametrize("text", [QUANTIZED, DELEGATED])
    def test_the_pages_misspelt_key(self, write, text):
        misspelt = text.replace("use_sdpa_with_kv_cache", "use_sdpa_withp_kv_cache")
        with pytest.raises(ConfigError) as caught:
            load_job(config=write(misspelt))
        assert caught.value.message == MISSPELT

    def test_the_misspelt_key_is_found_without_the_family(self, write, monkeypatch):
        monkeypatch.setenv("LLMX_LOAD_PLUGINS", "")
        misspelt = CACHE.replace("use_sdpa_with_kv_cache", "use_sdpa_withp_kv_cache")
        with pytest.raises(ConfigError, match="did you mean"):
            load_job(config=write(misspelt))

    def test_a_family_that_is_not_installed(self, write, monkeypatch):
        monkeypatch.setenv("LLMX_LOAD_PLUGINS", "xnnpack")
        with pytest.raises(PluginError, match="'llama3_2'"):
            load_job(config=write(CACHE))
