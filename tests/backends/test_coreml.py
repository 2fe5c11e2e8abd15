"""Core ML: the whole model is one delegate, the cache its state; what it cannot do is refused.

Core ML runs on Apple's systems only: what is checked elsewhere is the lowering by coremltools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.test_xnnpack_imported import write_gguf

from llmx import Artifact, ConfigError, ExportJob, export
from llmx.model.cache_layout import SlidingWindow, WholeContext
from llmx.model.kv_cache import CachedAttention
from llmx.model.ops import AttentionShape
from llmx.plugins import load
from llmx.pte import read_contents
from llmx.pte.layout import INLINE_PAYLOADS, read_layout
from llmx.run.program import read_program
from llmx_backend_coreml.attention import PieceAttention
from llmx_backend_coreml.partition import partitioner

OLD = {
    "backend.coreml.ios": 15,
    "backend.coreml.enable_state": False,
    "backend.coreml.preserve_sdpa": False,
}


ONE_LAYER = {"num_hidden_layers": 1}
CACHES = ["b_layers_0_attention_core_k_cache", "b_layers_0_attention_core_v_cache"]
SMALLEST = 1000  # bytes of a model
PIECE = 8
METHODS = [{"method_name": "forward"}, {"method_name": "prefill", "export_seq_len": PIECE}]
ADAPTED = [*METHODS[:1], {"method_name": "polite", "lora_config": "some/adapter"}]
PREFILL = {"recipe": "prefill", "multimethod.methods": METHODS}


def models(artifact: Artifact, folder: Path) -> list[tuple[Any, int]]:
    """Specification of each Core ML model in a program, and the bytes of its weights."""
    import coremltools
    from executorch.backends.apple.coreml import executorchcoreml

    data = artifact.program.read_bytes()
    layout = read_layout(data)
    inline = [bytes(each.blob(0)) for each in layout.root.tables(INLINE_PAYLOADS)]
    starts = [(layout.base + each.offset, each.size) for each in layout.segments]
    found = []
    for number, piece in enumerate([*inline, *(data[at : at + size] for at, size in starts)]):
        target = folder / str(number)
        target.mkdir(parents=True)
        if len(piece) < SMALLEST:
            continue
        if not executorchcoreml.unflatten_directory_contents(piece, str(target)):
            continue
        (package,) = target.rglob("*.mlpackage")
        model = coremltools.models.MLModel(str(package), skip_model_load=True)
        found.append((model.get_spec(), sum(f.stat().st_size for f in package.rglob("*.bin"))))
    return found


def names(features: Any) -> list[str]:
    return sorted(each.name for each in features)


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


def test_the_cache_is_state_of_the_model(tiny_export: Any, tmp_path: Path) -> None:
    artifact = tiny_export(backend="coreml", recipe="float", config=ONE_LAYER)
    ((spec, _),) = models(artifact, tmp_path)
    assert names(spec.description.input) == ["input_pos", "tokens"]
    assert len(spec.description.state) == len(CACHES)
    (method,) = read_contents(artifact.program).methods
    assert method.state.bytes == 0


@pytest.mark.parametrize(("ios", "version"), [(15, 6), (17, 8)])
def test_older_systems_get_a_model_of_their_version_with_the_cache_passed_in(
    ios: int, version: int, tiny_export: Any, tmp_path: Path
) -> None:
    older = {**OLD, "backend.coreml.ios": ios}
    artifact = tiny_export(backend="coreml", recipe="float", config=ONE_LAYER, **older)
    ((spec, _),) = models(artifact, tmp_path)
    # https://apple.github.io/coremltools/mlmodel/Format/Model.html
    assert spec.specificationVersion == version
    assert names(spec.description.input) == [*CACHES, "input_pos", "tokens"]
    assert len(spec.description.state) == 0


@pytest.mark.parametrize("units", ["cpu_only", "cpu_and_gpu", "cpu_and_ne", "all"])
def test_compute_units_are_told_to_core_ml(units: str) -> None:
    from executorch.backends.apple.coreml.compiler import CoreMLBackend

    job = ExportJob.create(
        "smollm2", random_weights=True, backend="coreml", **{"backend.coreml.compute_units": units}
    )
    specs = partitioner(job.backend.options).delegation_spec.compile_specs
    assert CoreMLBackend.compute_unit_from_compile_specs(specs).name.lower() == units


@pytest.mark.parametrize(("quantize", "share"), [("b4w", 0.4), ("c4w", 0.35)])
def test_bytes_of_weights_in_4_bits(
    quantize: str, share: float, tiny_export: Any, tmp_path: Path
) -> None:
    options = {"backend": "coreml", "recipe": "float", "config": ONE_LAYER}
    sizes = {}
    for name in (quantize, None):
        artifact = tiny_export(**options, **{"backend.coreml.quantize": name})
        ((_, sizes[name]),) = models(artifact, tmp_path / str(name))
    assert sizes[quantize] < share * sizes[None]


def test_pieces_and_tokens_are_functions_with_weights_and_caches_in_common(
    tiny_export: Any, tmp_path: Path
) -> None:
    artifact = tiny_export(backend="coreml", config=ONE_LAYER, **PREFILL)
    ((spec, weights),) = models(artifact, tmp_path / "two")
    functions = {each.name: each for each in spec.description.functions}
    assert sorted(functions) == ["forward", "prefill"]
    for each in functions.values():
        assert names(each.input) == [*CACHES, "input_pos", "tokens"]
        assert len(each.state) == 0
    single = {"recipe": "default", "backend.coreml.enable_state": False}
    plain = tiny_export(backend="coreml", config=ONE_LAYER, **single)
    ((_, alone),) = models(plain, tmp_path / "one")
    assert weights < 1.05 * alone

    methods = {each.name: each for each in read_contents(artifact.program).methods}
    lengths = {name: each.inputs[0].sizes for name, each in methods.items()}  # type: ignore[union-attr]
    assert lengths == {"forward": (1, 1), "prefill": (1, PIECE)}
    assert all(len(each.delegates) == 1 for each in methods.values())
    program = read_program(artifact.program)
    assert (program.prefill, program.prefill_length) == ("prefill", PIECE)


@pytest.mark.parametrize("layout", [WholeContext(24), SlidingWindow(6, 13)])
@torch.no_grad()
def test_a_piece_is_put_where_scattering_puts_it(layout: Any) -> None:
    shape = AttentionShape(n_heads=4, n_kv_heads=2, head_dim=8, layout=layout, dtype=torch.float32)
    ours, plain = PieceAttention(shape), CachedAttention(shape)
    generator = torch.Generator().manual_seed(0)
    start = 0
    for length in (PIECE, 1, PIECE, 1):
        q, k, v = (torch.randn(1, length, heads, 8, generator=generator) for heads in (4, 2, 2))
        positions: Any = torch.arange(start, start + length)
        rope: Any = None
        found, wanted = (
            core(q, k, v, core.place(positions, start, rope)) for core in (ours, plain)
        )
        torch.testing.assert_close(found, wanted)
        start += length
    assert torch.equal(ours.k_cache, plain.k_cache)


def test_integers_of_a_checkpoint_become_floats_first(tmp_path: Path) -> None:
    options = {
        "checkpoint": str(write_gguf(tmp_path / "model.gguf")),
        "backend": "coreml",
        "output_dir": str(tmp_path / "out"),
    }
    artifact = export(ExportJob.create("smollm2", **options))
    assert artifact.manifest["delegation"]["subgraphs"] == 1
    linears = [each for each in artifact.manifest["weights"]["modules"] if each["kind"] == "linear"]
    assert all("the backend takes floats" in each["obstacle"] for each in linears if each["stored"])
    with pytest.raises(ConfigError, match="imported=keep: the backend takes floats"):
        export(ExportJob.create("smollm2", **options, imported="keep"))


def test_older_systems_get_attention_in_parts(tiny_export: Any) -> None:
    artifact = tiny_export(backend="coreml", recipe="float", config=ONE_LAYER, **OLD)
    assert delegated(artifact, "aten_scaled_dot_product_attention_default") == (0, 0)
    assert delegated(artifact, "aten__softmax_default") == (1, 0)


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [("coreml_8a_c8w", 8), ("coreml_baseline_8a_c8w", 8), ("coreml_baseline_8a_c4w", 4)],
)
def test_a_quantized_graph_is_one_delegate_too(quantizer: str, bits: int, tiny_export: Any) -> None:
    artifact = tiny_export(
        backend="coreml",
        recipe="float",
        config=ONE_LAYER,
        pt2e_quantize=quantizer,
        calibration_limit=1,
        calibration_seq_length=4,
    )
    assert artifact.manifest["delegation"]["subgraphs"] == 1
    assert artifact.manifest["delegation"]["other_nodes"] == 1
    weights = artifact.manifest["weights"]["modules"]
    assert {each["bits"] for each in weights if each["kind"] == "linear"} == {bits}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend.coreml.ios": 17}, "enable_state needs iOS 18, not 17"),
        ({**OLD, "backend.coreml.quantize": "b4w"}, "4 bits from iOS 18"),
        ({**OLD, "backend.coreml.quantize": "c4w"}, "4 bits from iOS 18"),
        ({**PREFILL, "backend.coreml.enable_state": True}, "gives each method a state of its own"),
        (
            {**PREFILL, **OLD, "backend.coreml.quantize": None, "backend.coreml.ios": 17},
            "several functions from iOS 18 on, not 17",
        ),
        (
            {
                **PREFILL,
                "multimethod.methods": [*METHODS[:1], {"method_name": "b", "lora_config": "x"}],
            },
            "share no weights with Core ML",
        ),
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
