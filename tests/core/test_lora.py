"""LoRA adapters: merged as PEFT does it, under any name of the layers, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmx import CheckpointError, ConfigError, ExportJob
from llmx.checkpoint.lora import open_lora
from llmx.config.adapter import Adapter, parse_adapter
from llmx.lower.adapter import merged
from llmx.lower.build import draw, fill
from llmx.lower.context import resolve_lengths
from llmx.lower.source import file_hashes, open_source
from llmx.plugins import load
from llmx.progress import Silent, Stages
from llmx.quantize.rounding import rounding_for_linears
from llmx.testing.reference import random_model, save_checkpoint

FIELDS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
TOKENS = torch.randint(320, (1, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_checkpoint(random_model("llama", FIELDS), folder, eos=[2], bos=1)
    return folder


def write_adapter(
    folder: Path, tensors: dict[str, Tensor] | None = None, **described: Any
) -> Adapter:
    """An adapter of rank 2 on q_proj of the first layer, unless said otherwise."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    generator = torch.Generator().manual_seed(1)
    made = {
        name.format("A"): torch.randn(2, 64, generator=generator),
        name.format("B"): torch.randn(64, 2, generator=generator),
    }
    folder.mkdir(exist_ok=True)
    save_file(made if tensors is None else tensors, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **described}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return Adapter(adapter_checkpoint=str(folder))


def exported_model(base: Path, adapter: Path) -> nn.Module:
    """The float model that an export with this adapter would lower."""
    job = ExportJob.create(
        "smollm2",
        checkpoint=str(base),
        lora_config=str(adapter),
        qmode=None,
        embedding_quantize=None,
        generate_full_logits=True,
    )
    plugins = load(job.base.model_class, job.backend.name)
    source = open_source(job.base, plugins.family, Silent())
    blueprint = draw(resolve_lengths(job, source.params), source, plugins)
    for _ in fill(blueprint, Stages(), rounding_for_linears(job.quantization)):
        pass
    return blueprint.model


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
        {
            "target_modules": ["k_proj", "down_proj", "gate_proj"],
            "rank_pattern": {"down_proj": 6},
            "alpha_pattern": {"layers.1.mlp.gate_proj": 20},
        },
    ],
    ids=["attention", "all linears, rank-stabilised", "patterns"],
)
@torch.no_grad()
def test_logits_are_pefts(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (requirements-dev.txt)")
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = reference(TOKENS).logits
    config = peft.LoraConfig(r=4, init_lora_weights=False, **{"lora_alpha": 8, **options})
    torch.manual_seed(3)
    adapted = peft.get_peft_model(reference, config).eval()
    adapted.save_pretrained(tmp_path)
    expected = adapted(TOKENS).logits
    assert float((expected - plain).abs().max()) > 0.1
    actual = exported_model(base, tmp_path)(TOKENS, torch.tensor([0]))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_what_is_added_is_the_scaled_product(tmp_path: Path) -> None:
    adapter = open_lora(write_adapter(tmp_path))
    factors = load_file(tmp_path / "adapter_model.safetensors")
    down, up = (factors[key] for key in sorted(factors))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert set(adapter.tensors) == {name}
    torch.testing.assert_close(adapter.read(name), up @ down * 4 / 2)


def test_fused_layers_are_split_like_their_weights(tmp_path: Path) -> None:
    family = load("phi_4_mini", None).family
    params = family.default_params(size=None)
    q, kv = params.n_heads * params.head_dim, params.n_kv_heads * params.head_dim
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_{}.weight"
    factors = {
        name.format("A"): torch.randn(1, params.dim),
        name.format("B"): torch.randn(q + 2 * kv, 1),
    }
    adapter = open_lora(write_adapter(tmp_path, factors, r=1, lora_alpha=1))
    attention = "layers.0.attention"
    shapes = {
        f"{attention}.q_proj.weight": (q, params.dim),
        f"{attention}.k_proj.weight": (kv, params.dim),
        f"{attention}.v_proj.weight": (kv, params.dim),
    }
    zeros = ((key, torch.zeros(shape)) for key, shape in shapes.items())
    changed = dict(merged(zeros, adapter, family, params, shapes))
    whole = torch.cat([changed[key] for key in shapes])  # type: ignore[arg-type]
    torch.testing.assert_close(whole, factors[name.format("B")] @ factors[name.format("A")])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "IA3"),
        ("fan_in_fan_out", True),
    ],
)
def test_more_than_plain_lora_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{field}=.*more than plain LoRA") as raised:
        open_lora(write_adapter(tmp_path, **{field: value}))
    assert "merge_and_unload" in str(raised.value.remedy)


def test_a_description_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ranks 2 and 2, the adapter's description says 3"):
        open_lora(write_adapter(tmp_path, r=3))


def test_tensors_that_are_no_factors_are_refused(tmp_path: Path) -> None:
    stray = {"base_model.model.lm_head.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match=r"lm_head\.weight belongs to no linear"):
        open_lora(write_adapter(tmp_path, stray))


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    half = {"base_model.model.a.lora_A.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match="only one of the two factors of a"):
        open_lora(write_adapter(tmp_path, half))


def test_layers_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.7.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 64), name.format("B"): torch.ones(64, 2)}
    write_adapter(tmp_path, factors)
    with pytest.raises(CheckpointError, match=r"layers\.7\.self_attn\.q_proj"):
        exported_model(base, tmp_path)


def test_a_tied_head_is_refused(base: Path, tmp_path: Path) -> None:
    name = "base_model.model.lm_head.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 64), name.format("B"): torch.ones(320, 2)}
    write_adapter(tmp_path, factors)
    with pytest.raises(CheckpointError, match="changes lm_head, which this model does not have"):
        exported_model(base, tmp_path)


def test_other_shapes_are_refused(base: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 32), name.format("B"): torch.ones(64, 2)}
    write_adapter(tmp_path, factors)
    with pytest.raises(CheckpointError, match=r"is \[64, 32\], .*q_proj.weight is \[64, 64\]"):
        exported_model(base, tmp_path)


def test_an_adapter_without_its_description_needs_rank_and_alpha(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json beside it"):
        open_lora(Adapter(adapter_checkpoint=str(tmp_path)))
    weights = str(tmp_path / "adapter_model.safetensors")
    adapter = open_lora(Adapter(adapter_checkpoint=weights, lora_rank=2, lora_alpha=6))
    assert list(adapter.scales.values()) == [3.0]


def test_a_job_that_contradicts_the_description_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path).adapter_checkpoint
    with pytest.raises(ConfigError, match="lora_rank is 8"):
        open_lora(Adapter(adapter_checkpoint=folder, lora_rank=8))
    with pytest.raises(ConfigError, match="also changes q_proj"):
        open_lora(Adapter(adapter_checkpoint=folder, target_modules=("v_proj",)))


def test_a_missing_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors or"):
        open_lora(Adapter(adapter_checkpoint=str(tmp_path)))


class TestConfig:
    OLDER: Any = {  # noqa: RUF012
        "adapter_checkpoint": "a.safetensors",
        "adapter_config": "adapter_config.json",
        "lora_rank": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
    }

    def test_the_older_tools_mapping_is_read(self) -> None:
        job = ExportJob.create("smollm2", random_weights=True, lora_config=self.OLDER)
        assert job.base.lora_config == parse_adapter(self.OLDER)
        stored = job.to_dict()["base"]["lora_config"]
        again = ExportJob.create("smollm2", random_weights=True, lora_config=stored)
        assert again.base.lora_config == job.base.lora_config

    def test_a_path_is_enough(self) -> None:
        assert parse_adapter("folder") == Adapter(adapter_checkpoint="folder")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"adapter_checkpoint": "a", "lora_rnk": 1}, "did you mean lora_rank"),
            ({"lora_rank": 1}, "adapter_checkpoint"),
            ({"adapter_checkpoint": "a", "lora_rank": "x"}, "expected a number"),
            ({"adapter_checkpoint": "a", "target_modules": "q"}, "list of texts"),
        ],
    )
    def test_other_values_are_refused(self, value: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse_adapter(value)


def test_description_and_weights_both_tell_adapters_apart(base: Path, tmp_path: Path) -> None:
    def identity(**described: Any) -> object:
        write_adapter(tmp_path, **described)
        job = ExportJob.create("smollm2", checkpoint=str(base), lora_config=str(tmp_path))
        source = open_source(job.base, load("smollm2", None).family, Silent())
        hashes = file_hashes(source)
        assert "adapter/adapter_model.safetensors" in hashes
        return source.identity(hashes, None)

    assert identity() == identity()
    assert identity() != identity(lora_alpha=5)
