"""Checkpoints as Meta publishes Llama 3.2 quantized: integers stay, and rotations are done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchao.quantization.quant_primitives import dequantize_affine

from llmx import Artifact, ExportJob, export
from llmx.checkpoint import open_checkpoint
from llmx.errors import CheckpointError, ConfigError, LlmxError
from llmx.progress import Stages
from llmx.run.feeding import FedProgram
from llmx.verify.finding import distance
from llmx.verify.reference import Reference

DIM, HIDDEN, HEADS, KV_HEADS, LAYERS, VOCAB, GROUP = 64, 128, 4, 2, 4, 128, 32
HEAD_DIM = DIM // HEADS
PARAMS = {
    "dim": DIM, "hidden_dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
    "vocab_size": VOCAB, "norm_eps": 1e-5, "rope_theta": 500000.0,
    "quantization_args": {"group_size": GROUP},
}  # fmt: skip
LINEARS = {
    "attention.wq": (DIM, DIM), "attention.wk": (KV_HEADS * HEAD_DIM, DIM),
    "attention.wv": (KV_HEADS * HEAD_DIM, DIM), "attention.wo": (DIM, DIM),
    "feed_forward.w1": (HIDDEN, DIM), "feed_forward.w3": (HIDDEN, DIM),
    "feed_forward.w2": (DIM, HIDDEN),
}  # fmt: skip
NAMES = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
Published = dict[str, Tensor]


def draw_tensors() -> Published:
    generator = torch.Generator().manual_seed(3)
    tensors: Published = {}

    def integers(name: str, shape: tuple[int, int], bits: int, groups: int) -> None:
        top = 1 << bits - 1
        tensors[f"{name}.weight"] = torch.randint(
            -top, top, shape, dtype=torch.int8, generator=generator
        )
        steps = (torch.rand(shape[0], groups, generator=generator) + 0.5) / top / 8
        # What is stored is exact in bf16.
        tensors[f"{name}.scales"] = steps.bfloat16().float()

    for layer in range(LAYERS):
        for name, shape in LINEARS.items():
            integers(f"layers.{layer}.{name}", shape, 4, shape[1] // GROUP)
        for name in ("attention_norm", "ffn_norm"):
            tensors[f"layers.{layer}.{name}.weight"] = torch.rand(DIM, generator=generator) + 0.5
    integers("tok_embeddings", (VOCAB, DIM), 8, 1)
    integers("output", (VOCAB, DIM), 8, 1)
    tensors["norm.weight"] = torch.rand(DIM, generator=generator) + 0.5
    return tensors


RANK, SCALE = 4, 2.0


def draw_adapted() -> Published:
    """The same with an adapter for every layer, its rows in Meta's order like those of weights."""
    generator = torch.Generator().manual_seed(7)
    tensors = draw_tensors()
    for layer in range(LAYERS):
        for name, (rows, width) in LINEARS.items():
            for part, shape in (("A", (RANK, width)), ("B", (rows, RANK))):
                values = torch.randn(shape, generator=generator) / 16
                tensors[f"layers.{layer}.{name}.adaptor.{part}.weight"] = values.bfloat16()
    return tensors


def write(tensors: Published, folder: Path, **params: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps({**PARAMS, **params}))
    return folder / "consolidated.00.pth"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    return write(draw_adapted(), folder, lora_args={"rank": RANK, "scale": SCALE})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(draw_tensors(), tmp_path_factory.mktemp("published"))


def job(checkpoint: Path, **options: Any) -> ExportJob:
    lengths = {"export.max_seq_length": 32, "export.max_context_length": 32}
    # The published ids are far outside of so small a vocabulary.
    ids = {"base.metadata": {"get_bos_id": 1, "get_eos_ids": [127]}}
    folder = str(checkpoint.parent / f"out-{len(list(checkpoint.parent.iterdir()))}")
    return ExportJob.create(
        "llama3", checkpoint=str(checkpoint), output_dir=folder, **lengths, **ids, **options
    )


@pytest.fixture(scope="module")
def rotated(published: Path) -> Artifact:
    return export(job(published, use_spin_quant="native"))


def dequantize(tensors: Published, name: str) -> Tensor:
    """By torchao's definition of the format, in whose terms Meta's own code reads it."""
    codes, scales = tensors[f"{name}.weight"], tensors[f"{name}.scales"]
    block = (1, codes.shape[1] // scales.shape[1])
    values: Tensor = dequantize_affine(
        codes, block, scales, None, torch.int8, -128, 127, output_dtype=torch.float32
    )
    return values


def hadamard(size: int) -> Tensor:
    """Sylvester's construction, orthonormal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / size**0.5


def half_split(weight: Tensor) -> Tensor:
    """Rows of rotary pairs from neighbours to half a head apart."""
    return weight.view(-1, HEAD_DIM // 2, 2, DIM).transpose(1, 2).reshape(-1, DIM)


@torch.no_grad()
def theirs(tokens: list[int], *, rotation: Tensor, tensors: Published | None = None) -> Tensor:
    """Logits of transformers' model with these weights; rotation and adapters are in them there."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=DIM,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            vocab_size=VOCAB,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=False,
        )
    ).eval()
    tensors = tensors or draw_tensors()
    state = {
        "model.embed_tokens.weight": dequantize(tensors, "tok_embeddings"),
        "lm_head.weight": dequantize(tensors, "output"),
        "model.norm.weight": tensors["norm.weight"],
    }
    for layer in range(LAYERS):
        for ours, name in NAMES.items():
            stored = f"layers.{layer}.{ours}"
            weight = dequantize(tensors, stored) if ours in LINEARS else tensors[f"{stored}.weight"]
            if f"{stored}.adaptor.A.weight" in tensors:
                down, up = (tensors[f"{stored}.adaptor.{each}.weight"].float() for each in "AB")
                weight = weight + SCALE * up @ down
            if ours in ("attention.wq", "attention.wk"):
                weight = half_split(weight)
            if ours == "feed_forward.w2":
                weight = weight @ rotation
            state[f"model.layers.{layer}.{name}.weight"] = weight
    model.load_state_dict(state)
    logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


TOKENS = [5, 99, 23, 7, 64, 101, 3, 88, 40, 12]


def test_every_integer_stays_as_it_is(rotated: Artifact) -> None:
    modules = [each for each in rotated.manifest["weights"]["modules"] if each["kind"] != "other"]
    assert len(modules) == LAYERS * len(LINEARS) + 2
    assert {(each["error"], each["obstacle"]) for each in modules} == {(0, None)}
    formats = {each["name"]: (each["bits"], each["group"]) for each in modules}
    assert formats.pop("embedding") == formats.pop("head") == (8, DIM)
    assert set(formats.values()) == {(4, GROUP)}


def test_values_are_bit_for_bit_what_the_format_says(published: Path) -> None:
    checkpoint, tensors = open_checkpoint(str(published)), draw_tensors()
    for name in [each.removesuffix(".scales") for each in tensors if each.endswith(".scales")]:
        assert torch.equal(checkpoint.read(f"{name}.weight"), dequantize(tensors, name))


def test_the_model_is_that_of_transformers(published: Path) -> None:
    for options, rotation in (
        ({"use_spin_quant": "native"}, hadamard(HIDDEN)),
        ({"use_qat": True}, torch.eye(HIDDEN)),
    ):
        found = Reference(job(published, **options), Stages()).logits(TOKENS)
        torch.testing.assert_close(found, theirs(TOKENS, rotation=rotation), rtol=1e-4, atol=1e-4)


def test_the_adapted_model_is_that_of_transformers(adapted: Path) -> None:
    found = Reference(job(adapted, use_qat=True), Stages()).logits(TOKENS)
    expected = theirs(TOKENS, rotation=torch.eye(HIDDEN), tensors=draw_adapted())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_program_rotates(rotated: Artifact) -> None:
    found = torch.stack(list(FedProgram(rotated.program).walk(TOKENS)))
    right = distance(found, theirs(TOKENS, rotation=hadamard(HIDDEN)))
    wrong = distance(found, theirs(TOKENS, rotation=torch.eye(HIDDEN)))
    assert right < 0.2
    assert wrong > 3 * right


def changed(published: Path, change: Callable[[Published], Any]) -> Path:
    tensors = draw_tensors()
    change(tensors)
    return write(tensors, published.parent / change.__name__)


@pytest.mark.parametrize(
    ("options", "kind", "message", "remedy"),
    [
        ({}, CheckpointError, "nothing in it says whether they are rotated", "use_qat=true"),
        (
            {"use_spin_quant": "native", "preq_group_size": 64},
            ConfigError,
            "is stored in groups of 32",
            "preq_group_size=32",
        ),
        (
            {"use_spin_quant": "native", "preq_embedding_quantize": "8,32"},
            ConfigError,
            "stored as 8,0",
            "quantize=8,0",
        ),
        (
            {"use_spin_quant": "native", "preq_mode": "8da4w"},
            ConfigError,
            "stored as in 8da4w_output_8da8w",
            "leave it out",
        ),
        ({"preq_mode": "8da4w"}, ConfigError, "is for checkpoints of Meta's", "use_qat=true"),
        ({"use_spin_quant": "native", "use_qat": True}, ConfigError, "contradicts", "leave one"),
    ],
    ids=["unsaid", "other groups", "other table", "other head", "no integers", "both"],
)
def test_what_the_job_must_say(
    options: dict[str, Any], kind: type[LlmxError], message: str, remedy: str, published: Path
) -> None:
    with pytest.raises(kind, match=message) as raised:
        export(job(published, **options))
    assert remedy in str(raised.value.remedy)


def test_an_adapter_stays_beside_its_integers(adapted: Path) -> None:
    artifact = export(job(adapted, use_qat=True, use_lora=RANK))
    modules = artifact.manifest["weights"]["modules"]
    linears = [each for each in modules if each["kind"] == "linear"]
    assert {(each["error"], each["obstacle"]) for each in linears} == {(0, None)}
    assert len([each for each in modules if each["name"].endswith(".adapter")]) == LAYERS * 7
    found = torch.stack(list(FedProgram(artifact.program).walk(TOKENS)))
    plain, whole = (
        distance(found, theirs(TOKENS, rotation=torch.eye(HIDDEN), tensors=each))
        for each in (draw_tensors(), draw_adapted())
    )
    assert whole < 0.2
    assert plain > 3 * whole


def test_an_adapter_has_its_rank_and_scale(adapted: Path, published: Path) -> None:
    with pytest.raises(CheckpointError, match="has rank 4") as raised:
        export(job(adapted, use_qat=True, use_lora=8))
    assert "use base.use_lora=4" in str(raised.value.remedy)
    with pytest.raises(CheckpointError, match="has no adapter beside its weights"):
        export(job(published, use_qat=True, use_lora=RANK))
    unsaid = write(draw_adapted(), published.parent / "unsaid")
    with pytest.raises(CheckpointError, match=r"says no rank and scale \(lora_args\)"):
        export(job(unsaid, use_qat=True))


def test_floats_are_no_such_checkpoint(published: Path) -> None:
    def floats(tensors: Published) -> None:
        for name in [each for each in tensors if each.endswith(".scales")]:
            owner = name.removesuffix(".scales")
            tensors[f"{owner}.weight"] = dequantize(tensors, owner)
        for name in [each for each in tensors if each.endswith(".scales")]:
            del tensors[name]

    with pytest.raises(CheckpointError, match="does not have"):
        export(job(changed(published, floats), use_spin_quant="native"))


def test_zero_points_are_refused(published: Path) -> None:
    def offset(tensors: Published) -> None:
        tensors["output.zeros"] = torch.ones(VOCAB, 1)

    with pytest.raises(CheckpointError, match=r"output\.zeros are not 0"):
        export(job(changed(published, offset), use_qat=True))
