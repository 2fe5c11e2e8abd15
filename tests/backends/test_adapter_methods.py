"""One program with a method for each adapter: all share the base, and each computes its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx import Artifact, ConfigError, ExportJob, export
from llmx.config.methods import parse_methods
from llmx.errors import ArtifactError
from llmx.progress import Stages
from llmx.pte.layout import read_layout
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.run.tokens import TokenGenerator
from llmx.verify.finding import distance
from llmx.verify.reference import Reference

TOKENS = torch.randint(320, (16,), generator=torch.Generator().manual_seed(0)).tolist()
LENGTHS = {"export.max_seq_length": 32, "export.max_context_length": 32}
KINDS = {"float": (["polite"], {"recipe": "float"}), "8da4w": (["terse"], {})}
"""By a name: which adapters get a method, and how the job begins."""


def job(base: Path, output: str, **options: Any) -> ExportJob:
    return ExportJob.create(
        "smollm2", checkpoint=str(base), output_dir=str(base.parent / output), **LENGTHS, **options
    )


@pytest.fixture(scope="module", params=list(KINDS))
def artifact(base: Path, request: pytest.FixtureRequest) -> Artifact:
    names, options = KINDS[request.param]
    adapters = [{"method_name": each, "lora_config": str(base.parent / each)} for each in names]
    methods = [{"method_name": "forward"}, *adapters]
    return export(job(base, request.param, **{"multimethod.methods": methods}, **options))


def adapted(artifact: Artifact) -> str:
    """The method with the adapter."""
    _, method = artifact.manifest["config"]["multimethod"]["methods"]
    name: str = method["method_name"]
    return name


def logits(artifact: Artifact, method: str) -> Tensor:
    return torch.stack(list(FedProgram(artifact.program, method).walk(TOKENS)))


def test_each_method_is_the_model_with_its_adapter_merged(artifact: Artifact, base: Path) -> None:
    quantized = artifact.manifest["weights"]["quantized_layers"] > 0
    for name in ("forward", adapted(artifact)):
        merged = {} if name == "forward" else {"lora_config": str(base.parent / name)}
        expected = Reference(job(base, "unused", **merged), Stages()).logits(TOKENS)
        assert distance(logits(artifact, name), expected) < (0.5 if quantized else 1e-3)
    assert distance(logits(artifact, adapted(artifact)), logits(artifact, "forward")) > 0.1


def test_forward_is_held_against_the_weights_with_its_own_adapter(base: Path) -> None:
    adapter = str(base.parent / "polite")
    methods = [{"method_name": "forward", "lora_config": adapter}, {"method_name": "plain"}]
    apart = Reference(job(base, "unused", **{"multimethod.methods": methods}), Stages())
    merged = Reference(job(base, "unused", lora_config=adapter), Stages())
    assert torch.equal(apart.logits(TOKENS), merged.logits(TOKENS))


def test_every_method_was_compared_with_the_eager_model(artifact: Artifact) -> None:
    checked = {each["name"] for each in artifact.manifest["checks"]}
    assert {"prefill equals eager", f"{adapted(artifact)}: prefill equals eager"} < checked


def test_what_methods_share_is_stored_once(artifact: Artifact) -> None:
    modules = artifact.manifest["weights"]["modules"]
    assert len([each for each in modules if ".adapter." in each["name"]]) == 4
    layout = read_layout(artifact.program.read_bytes())
    named = sum(layout.segments[index].size for index in {index for _, index in layout.named})
    assert 0 < named < 1.05 * sum(each["stored_bytes"] for each in modules)


def test_a_method_that_is_not_there_is_named_with_those_that_are(artifact: Artifact) -> None:
    name = adapted(artifact)
    assert TokenGenerator(read_program(artifact.program, name)).program.method == name
    with pytest.raises(ArtifactError, match=f"no method {name}s, did you mean {name}") as raised:
        read_program(artifact.program, f"{name}s")
    assert raised.value.remedy == f"it has forward, {name}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("forward", "expected a list of mappings"),
        ([{"name": "forward"}], "method_name that is an identifier"),
        ([{"method_name": "forward", "lora": "a"}], "unknown key multimethod.methods.lora"),
    ],
)
def test_what_is_no_method(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_methods(given)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["polite"], {}, "has no forward"),
        (["forward", "forward"], {}, "has forward more than once"),
        (["forward"], {"lora_config": "some/adapter"}, "contradicts base.lora_config"),
        (["forward"], {"export_only": True}, "contradicts export.export_only"),
        (["forward", "polite"], {"backend": "vulkan"}, "share no weights with Vulkan"),
    ],
)
def test_methods_that_make_no_program(
    base: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    given = [{"method_name": name} for name in names]
    with pytest.raises(ConfigError, match=message):
        export(job(base, "none", **{"multimethod.methods": given}, **options))
