"""QNN: everything up to Qualcomm's SDK, which no registry offers: quantizers, passes, builders.

The SDK is asked of every operator, and compiles them. What is checked here is that ExecuTorch has
a builder for each, that it accepts what it is given, and that nothing is done without an SDK.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from tests.backends.conftest import Drawn
from tests.backends.families import tiny_families

from llmx import ConfigError, ExportJob
from llmx.errors import LoweringError
from llmx.lower.build import Blueprint
from llmx.lower.capture import capture, example_inputs
from llmx.lower.program import lower
from llmx.plugins import load
from llmx_backend_qnn.lowering import compile_specs, partitioner
from llmx_backend_qnn.sdk import TESTED, check_sdk, require_version

BITS = {"qnn_16a4w": 4, "qnn_16a16w": 16, "qnn_8a8w": 8}
OUTSIDE = {"aten._local_scalar_dense.default", "aten._assert_scalar.default", "ge", "le"}
"""What is computed with a number that the program reads: the position, checked by the runtime."""


def job_of(params: Path, **options: Any) -> ExportJob:
    return ExportJob.create(
        "smollm2",
        params=str(params),
        random_weights=True,
        backend="qnn",
        **{"recipe": "float", **options},
    )


def calibrated(name: str | None) -> dict[str, Any]:
    few = {"calibration_limit": 1, "calibration_seq_length": 8}
    return {} if name is None else {"pt2e_quantize": name, **few}


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set but empty: ExecuTorch's quantizer does without an SDK then, and fetches none."""
    monkeypatch.setenv("QNN_SDK_ROOT", "")


@pytest.fixture
def drawn(drawn_for: Any) -> Callable[..., Drawn]:
    """Job, blueprint and account of a tiny model, of one layer, quantized if the job says so."""

    def run(n_layers: int = 1, **options: Any) -> Drawn:
        config = {"num_hidden_layers": n_layers}
        return drawn_for(backend="qnn", **{"recipe": "float", "config": config, **options})

    return run


def edge_of(job: ExportJob, blueprint: Blueprint) -> Any:
    """The program as QNN's partitioner is given it."""
    from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner
    from executorch.exir.backend.partitioner import PartitionResult

    given = []

    class Looking(QnnPartitioner):  # type: ignore[misc]
        def partition(self, exported_program: Any) -> PartitionResult:
            given.append(exported_program)
            return PartitionResult(tagged_exported_program=exported_program, partition_tags={})

    inputs, shapes = example_inputs(kv_cache=True, dynamic=False, max_seq_length=1)
    program = capture(blueprint.model, inputs, shapes)
    passes = load(None, "qnn").backend.edge_passes(job=job, program=program)
    specs = compile_specs(job.backend.options, quantized=job.quantization.pt2e_quantize is not None)
    # What is kept whole for QNN cannot stay with ExecuTorch's kernels.
    with pytest.raises(LoweringError, match="was not decomposed or delegated"):
        lower(program, [Looking(specs, skip_mutable_buffer=True)], passes, {})
    (program,) = given
    return program


def calls(program: Any) -> list[Any]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def built_by_qnn(program: Any) -> Counter[str]:
    """Operators that ExecuTorch's builders accept; there are no others but for the position."""
    from executorch.backends.qualcomm.builders.node_visitor_manager import get_node_visitors

    builders = get_node_visitors(program)
    assert {node.target.__name__ for node in calls(program)} - set(builders) <= OUTSIDE
    wrappers: Any = defaultdict(dict)
    built: Counter[str] = Counter()
    for node in calls(program):
        if node.target.__name__ in builders:
            built[node.target.__name__] += (
                builders[node.target.__name__].define_node(node, wrappers) is not None
            )
    return built


@pytest.mark.parametrize("family", tiny_families())
def test_every_family_is_made_of_what_has_builders(family: str, drawn_for: Any) -> None:
    config = tiny_families()[family]
    if config.get("sliding_window"):
        with pytest.raises(ConfigError, match="QNN has no attention with sliding windows"):
            drawn_for(family=family, config=config, backend="qnn", recipe="float")
        return
    job, blueprint, _ = drawn_for(family=family, config=config, backend="qnn", recipe="float")
    assert built_by_qnn(edge_of(job, blueprint))["aten.linear.default"] >= 8


@pytest.mark.parametrize("name", [None, *BITS])
def test_every_operator_has_a_builder_that_accepts_it(name: str | None, drawn: Any) -> None:
    job, blueprint, _ = drawn(**calibrated(name))
    built = built_by_qnn(edge_of(job, blueprint))
    # q, k, v, o, gate, up and down of the layer, and the head.
    assert built["aten.linear.default"] == 8
    assert built["aten.rms_norm.default"] == 3


@pytest.mark.parametrize(("name", "bits"), BITS.items())
def test_quantizers_round_every_linear_layer(name: str, bits: int, drawn: Any) -> None:
    _, _, records = drawn(**calibrated(name))
    linears = {each.bits for each in records if each.kind == "linear"}
    assert linears == {bits}


@pytest.mark.parametrize("name", ["qnn_16a16w", "qnn_16a4w"])
def test_a_quantized_graph_still_computes_the_model(name: str, drawn: Any) -> None:
    """Roughly: the ranges are those of eight tokens."""
    (_, exact, _), (_, rounded, _) = drawn(), drawn(**calibrated(name))
    with torch.no_grad():
        for at in range(6):
            call = torch.tensor([[3 + at]]), torch.tensor([at])
            right, found = exact.model(*call), rounded.model(*call)
            assert (found - right).norm() / right.norm() < 0.4


def test_shards_are_cut_between_layers(drawn: Any) -> None:
    job, blueprint, _ = drawn(n_layers=2)
    options = attrs.evolve(job.backend.options, num_sharding=2)
    job = attrs.evolve(job, backend=attrs.evolve(job.backend, options=options))
    names = [node.target.__name__ for node in calls(edge_of(job, blueprint))]
    assert names.count("llama.fallback.default") == 1


def test_what_the_sdk_is_told() -> None:
    from executorch.backends.qualcomm.partition.utils import generate_qnn_executorch_option
    from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option

    job = ExportJob.create(
        "smollm2",
        random_weights=True,
        backend="qnn",
        **{"backend.qnn.soc_model": "SM8750", "backend.qnn.use_sha": True},
    )
    specs = compile_specs(job.backend.options, quantized=True)
    told = flatbuffer_to_option(generate_qnn_executorch_option(specs))
    assert told.soc_info.soc_model.name == "SM8750"
    assert told.use_mha2sha
    assert told.backend_options.htp_options.precision.name == "kHtpQuantized"
    assert not told.backend_options.htp_options.use_multi_contexts
    assert partitioner(job.backend.options, quantized=True).skip_mutable_buffer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend.qnn.soc_model": "SM865"}, "no chip .*=SM865.*SM8650"),
        ({"backend.qnn.optimized_rotation_path": "r.bin"}, "optimized_rotation_path"),
        ({"qmode": "8da4w"}, "own weight formats"),
        ({"use_kv_cache": False, "enable_dynamic_shape": True}, "needs a KV cache"),
        ({"enable_dynamic_shape": True}, "one length"),
        ({"use_sdpa_with_kv_cache": True}, "own attention operators"),
        ({"dtype_override": "fp16"}, "a model in fp32"),
    ],
)
def test_jobs_that_qnn_cannot_do_are_refused(
    options: dict[str, Any], message: str, params_file: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load("smollm2", "qnn").backend.check(job=job_of(params_file, **options))
    assert raised.value.remedy


def test_without_an_sdk_nothing_is_begun_and_nothing_downloaded(
    params_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    with pytest.raises(ConfigError, match="QNN_SDK_ROOT does not say where") as raised:
        load("smollm2", "qnn").backend.check(job=job_of(params_file))
    assert TESTED in str(raised.value.remedy)
    # ExecuTorch's installer sets it before it downloads.
    assert "QNN_SDK_ROOT" not in os.environ


def test_an_sdk_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    environment = {"QNN_SDK_ROOT": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"has no lib/x86_64-linux-clang/libQnnHtp\.so"):
        check_sdk(environment)
    library = tmp_path / "lib" / "x86_64-linux-clang" / "libQnnHtp.so"
    library.parent.mkdir(parents=True)
    library.write_text("no library")
    with pytest.raises(ConfigError, match=r"does not load: .*libQnnHtp\.so") as raised:
        check_sdk(environment)
    assert "LD_LIBRARY_PATH" in str(raised.value.remedy)


@pytest.mark.parametrize("build", ["v2.47.0.260101", "v2.3.7", "v12.37.1", "", "unknown"])
def test_sdks_of_other_versions_are_refused(build: str) -> None:
    with pytest.raises(ConfigError, match=f"built against {TESTED}"):
        require_version(build, "/opt/qnn")


def test_the_version_is_the_one_that_executorch_was_built_against() -> None:
    from executorch.backends.qualcomm.scripts.download_qnn_sdk import QNN_VERSION

    require_version(f"v{QNN_VERSION}_123456", "/opt/qnn")
