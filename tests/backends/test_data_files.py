"""Weights in files beside the program: the model's, which adapters share, and theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx import Artifact, ConfigError, ExportJob, LoweringError, export
from llmx.artifact import describe_files
from llmx.cache.store import DiskStore
from llmx.cli import invoke
from llmx.errors import ArtifactError
from llmx.lower.data_files import Adapters, require_known
from llmx.progress import Stages
from llmx.pte import read_contents
from llmx.pte.data_files import find_files
from llmx.run.engine import Engine
from llmx.run.etdump import recorded_calls
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.verify import verifier
from llmx.verify.finding import distance
from llmx.verify.reference import Reference

TOKENS = torch.randint(320, (16,), generator=torch.Generator().manual_seed(0)).tolist()
LENGTHS = {"export.max_seq_length": 32, "export.max_context_length": 32}
FOUNDATION = {"export.foundation_weights_file": "base.ptd"}
BOTH = {**FOUNDATION, "export.lora_weights_file": "adapter"}
KINDS: dict[str, dict[str, Any]] = {
    "8da4w": {},
    "portable": {"backend": None, "embedding_quantize": "4,32"},
}


def job(base: Path, output: Path, **options: Any) -> ExportJob:
    return ExportJob.create(
        "smollm2", checkpoint=str(base), output_dir=str(output), **LENGTHS, **options
    )


@pytest.fixture(scope="module", params=list(KINDS))
def exports(
    base: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    """By name: the model whole and without weights; with an adapter inside, and outside."""
    folder = tmp_path_factory.mktemp(request.param)
    adapters = {name: str(base.parent / name) for name in ("polite", "terse")}
    wanted: dict[str, dict[str, Any]] = {
        "whole": {},
        "plain": FOUNDATION,
        "polite": {**FOUNDATION, "lora_config": adapters["polite"]},
        "terse": {**BOTH, "lora_config": adapters["terse"]},
    }
    options = KINDS[request.param]
    return {
        name: export(job(base, folder / name, **given, **options)) for name, given in wanted.items()
    }


def logits(artifact: Artifact, method: str = "forward") -> Tensor:
    return torch.stack(list(FedProgram(artifact.program, method).walk(TOKENS)))


def expected(base: Path, **options: Any) -> Tensor:
    return Reference(job(base, base.parent / "unused", **options), Stages()).logits(TOKENS)


def most_likely(artifact: Artifact, prompt: list[int], count: int) -> list[int]:
    program = FedProgram(artifact.program)
    said = [int(program.read(prompt).argmax())]
    while len(said) < count:
        said.append(int(program.feed(said[-1:], len(prompt) + len(said) - 1).argmax()))
    return said


def test_the_program_without_weights_computes_what_the_whole_one_does(
    exports: dict[str, Artifact],
) -> None:
    assert distance(logits(exports["plain"]), logits(exports["whole"])) < 1e-5


def test_the_base_is_one_and_the_same_file_with_any_adapter(exports: dict[str, Artifact]) -> None:
    hashes = {
        exports[name].manifest["files"]["base.ptd"]["sha256"]
        for name in ("plain", "polite", "terse")
    }
    assert len(hashes) == 1


def test_adapters_stay_apart_and_are_computed_with(
    exports: dict[str, Artifact], base: Path
) -> None:
    bound = 0.5 if exports["plain"].manifest["weights"]["quantized_layers"] > 1 else 0.2
    for name in ("polite", "terse"):
        found = logits(exports[name])
        assert distance(found, expected(base, lora_config=str(base.parent / name))) < bound
        assert distance(found, logits(exports["plain"])) > 0.1
        assert exports[name].manifest["source"]["adapter"].endswith(name)


def test_programs_are_small_and_files_hold_the_weights(exports: dict[str, Artifact]) -> None:
    parts = exports["terse"].manifest["weights"]["modules"]
    added = sum(each["stored_bytes"] for each in parts if ".adapter." in each["name"])
    kept = sum(each["stored_bytes"] for each in parts if ".adapter." not in each["name"])
    sizes = {name: entry["bytes"] for name, entry in exports["terse"].manifest["files"].items()}
    assert added < sizes["adapter.ptd"] < added + 6000
    assert kept < sizes["base.ptd"] < 1.15 * kept
    contents = read_contents(exports["terse"].program)
    assert not any(each.kind == "named data" for each in contents.segments)
    assert sum(each.bytes for each in contents.segments if each.kind == "constants") < 4096


def test_the_record_names_the_files(exports: dict[str, Artifact]) -> None:
    artifact = exports["terse"]
    assert artifact.manifest["program"]["data_files"] == ["base.ptd", "adapter.ptd"]
    on_disk = describe_files(artifact.folder)
    assert all(on_disk[name] == entry for name, entry in artifact.manifest["files"].items())
    card = (artifact.folder / "MODEL_CARD.md").read_text()
    assert "`model.pte`, `base.ptd`, `adapter.ptd` and `tokenizer.json`" in card


def test_the_runner_of_apps_says_the_same(exports: dict[str, Artifact]) -> None:
    for name in ("whole", "plain", "terse"):
        program = read_program(exports[name].program)
        run = Engine(program).generate(
            TOKENS[:4], max_new_tokens=6, temperature=0.0, on_token=lambda token: None
        )
        assert run.tokens == most_likely(exports[name], TOKENS[:4], len(run.tokens))


def test_verify_inspect_and_profile_know_the_files(
    exports: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = exports["terse"]
    assert [each for each in verifier.verify(artifact.folder) if each.passed is False] == []
    assert invoke(["inspect", str(artifact.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told["data_files"]] == ["base.ptd", "adapter.ptd"]
    named = {key for each in told["methods"][0]["delegates"] for key in each["named_data"]}
    assert named <= {key for each in told["data_files"] for key in each["keys"]}
    with recorded_calls(read_program(artifact.program), tokens=1, context=0, calls=1) as dump:
        assert dump.stat().st_size


@pytest.fixture
def copied(exports: dict[str, Artifact], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports["terse"].folder, tmp_path / "copy"))


def test_a_file_of_another_export_is_refused(copied: Path, exports: dict[str, Artifact]) -> None:
    other = bytearray((copied / "base.ptd").read_bytes())
    other[-1] ^= 1
    (copied / "base.ptd").write_bytes(other)
    with pytest.raises(ArtifactError, match=r"base\.ptd does not hold the weights of") as raised:
        FedProgram(copied / "model.pte")
    wanted = exports["plain"].manifest["files"]["base.ptd"]["sha256"]
    assert wanted in (raised.value.remedy or "")


def test_a_file_that_is_missing_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "adapter.ptd").unlink()
    with pytest.raises(ArtifactError, match=r"needs adapter\.ptd beside it"):
        read_program(copied / "model.pte")
    assert invoke(["inspect", str(copied)]) == 0
    assert "not there" in capsys.readouterr().out


def test_a_base_of_one_export_serves_the_adapter_of_another(
    copied: Path, exports: dict[str, Artifact]
) -> None:
    shutil.copyfile(exports["plain"].folder / "base.ptd", copied / "base.ptd")
    assert len(find_files(copied / "model.pte")) == 2
    assert distance(logits(Artifact.open(copied)), logits(exports["terse"])) == 0


def test_methods_with_adapters_of_the_same_layers_keep_them_apart(
    base: Path, tmp_path: Path
) -> None:
    adapters = [
        {"method_name": name, "lora_config": {"adapter_checkpoint": str(base.parent / "polite")}}
        for name in ("forward", "half")
    ]
    halved = tmp_path / "halved"
    shutil.copytree(base.parent / "polite", halved)
    (halved / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    adapters[1]["lora_config"] = {"adapter_checkpoint": str(halved)}
    artifact = export(
        job(base, tmp_path / "out", **{"multimethod.methods": adapters}, **BOTH, backend=None)
    )
    for method, folder in (("forward", base.parent / "polite"), ("half", halved)):
        wanted = expected(base, lora_config=str(folder))
        assert distance(logits(artifact, method), wanted) < 1e-3


def test_the_cache_keeps_the_files_too(base: Path, tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store", 1 << 30)
    first, second = (
        export(job(base, tmp_path / name, **FOUNDATION, recipe="float"), store=store)
        for name in ("first", "second")
    )
    assert (first.manifest["reused"], second.manifest["reused"]) == (None, "program")
    assert first.manifest["files"] == second.manifest["files"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"export.lora_weights_file": "a"}, "lora_weights_file a.ptd: there is no adapter"),
        ({**FOUNDATION, "export_only": True}, "contradicts export.export_only"),
        ({**FOUNDATION, "backend": "vulkan", "recipe": "float"}, "Vulkan keeps weights within"),
        ({"export.foundation_weights_file": "a/b.ptd"}, "not the name of a weight file"),
    ],
)
def test_files_that_cannot_be_written(
    base: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(job(base, tmp_path / "out", **options))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_never_taken_for_the_model() -> None:
    """Without ``delegate_data`` nobody knows which of the delegates' weights are an adapter's."""
    paths = {"forward": frozenset({"layers.0.attention.q_proj"})}
    layer = ("forward", "layers.0.attention.q_proj")
    require_known(Adapters(paths, {layer: frozenset()}), set())
    require_known(Adapters(paths, {layer: frozenset({"down", "up"})}), {"down", "up", "other"})
    for known in (frozenset(), frozenset({"down", "up"})):
        with pytest.raises(LoweringError, match=r"of layers\.0\.attention\.q_proj are not found"):
            require_known(Adapters(paths, {layer: known}), {"down", "other"})
