"""A lowered program is kept without its weights and filled with those of the next checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmx import Artifact, ExportJob, export
from llmx.cache import DiskStore, NoStore, Store
from llmx.cli import invoke
from llmx.lower.reweight import reweight
from llmx.testing.tiny import SHAPE, write_config

Exporter = Callable[..., Artifact]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints of the tiny model with random weights, by seed."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(seed: int, *, flat_norms: bool = False) -> Path:
        path = folder / f"{seed}{flat_norms}"
        if not path.exists():
            torch.manual_seed(seed)
            config = transformers.LlamaConfig(**{**SHAPE, "num_hidden_layers": 4})
            weights = {
                name: tensor.clone().normal_(std=0.02) + (1.0 if "norm" in name else 0.0)
                for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()
                if name != "lm_head.weight"
            }
            if flat_norms:
                weights = {n: torch.ones_like(t) if "norm" in n else t for n, t in weights.items()}
            path.mkdir()
            save_file(weights, str(path / "model.safetensors"))
            write_config(path, num_hidden_layers=4)
        return path

    return make


@pytest.fixture(scope="module")
def make(
    checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Artifact]:
    def run(store: Store, seed: int, *, flat_norms: bool = False, **options: Any) -> Artifact:
        folder = tmp_path_factory.mktemp("made")
        job = ExportJob.create(
            "smollm2",
            checkpoint=str(checkpoints(seed, flat_norms=flat_norms)),
            output_dir=str(folder / "out"),
            **options,
        )
        return export(job, store=store)

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Artifact]) -> DiskStore:
    """A store that has seen an export of the weights of seed 1."""
    store = DiskStore(tmp_path_factory.mktemp("store"), 10**9)
    make(store, 1)
    return store


@pytest.fixture(scope="module")
def lowered(make: Callable[..., Artifact]) -> Artifact:
    """The weights of seed 2, lowered anew."""
    return make(NoStore(), 2)


def stages(artifact: Artifact) -> list[str]:
    return [each["name"] for each in artifact.manifest["stages"]]


@pytest.fixture(scope="module")
def filled(make: Exporter, store: DiskStore) -> Artifact:
    """The weights of seed 2 in the program that was lowered for seed 1."""
    return make(store, 2)


def test_other_weights_are_not_lowered_again_and_give_the_same_bytes(
    filled: Artifact, lowered: Artifact
) -> None:
    assert "lower" in stages(lowered)
    assert "lower" not in stages(filled)
    assert filled.program.read_bytes() == lowered.program.read_bytes()
    for key in ("weights", "delegation", "notes", "program"):
        assert filled.manifest[key] == lowered.manifest[key]
    assert len(filled.manifest["checks"]) > 3
    assert [each.manifest["reused"] for each in (lowered, filled)] == [None, "skeleton"]


def test_the_same_export_is_a_copy(make: Exporter, store: DiskStore, filled: Artifact) -> None:
    again = make(store, 2)
    assert again.manifest["reused"] == "program"
    assert "load and quantize" not in stages(again)
    for key in ("weights", "delegation", "notes", "program", "checks"):
        assert again.manifest[key] == filled.manifest[key]
    assert again.program.read_bytes() == filled.program.read_bytes()


def test_a_kept_program_that_was_damaged_is_not_used(
    make: Exporter, store: DiskStore, filled: Artifact
) -> None:
    make(store, 2)
    newest = max(
        (each for each in store.entries() if each.kind == "programs"), key=lambda each: each.used
    )
    with (newest.path / "program.pte").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    again = make(store, 2)
    assert again.manifest["reused"] != "program"
    assert again.manifest["program"] == filled.manifest["program"]


def test_another_context_and_metadata_do_not_quantize_slowly_again(
    make: Exporter, tmp_path: Path
) -> None:
    store = DiskStore(tmp_path, 10**9)
    slowly: dict[str, Any] = {"quantization.method": "hqq"}

    def kept() -> set[str]:
        return {each.key for each in store.entries() if each.kind == "weights"}

    first = make(store, 2, **slowly)
    before = kept()
    artifact = make(store, 2, max_context_length=32, metadata={"extra": 1}, **slowly)
    assert artifact.manifest["reused"] is None
    assert before == kept() != set()
    assert artifact.manifest["weights"] == first.manifest["weights"]


def test_weights_that_share_data_where_the_others_do_not_are_lowered(
    make: Exporter, store: DiskStore, filled: Artifact
) -> None:
    artifact = make(DiskStore(store.root, store.limit), 3, flat_norms=True)
    assert artifact.manifest["reused"] is None
    assert "lower" in stages(artifact)
    assert all(each["passed"] for each in artifact.manifest["checks"])


class TestReweight:
    def test_it_is_the_export_of_the_other_checkpoint(
        self,
        checkpoints: Callable[..., Path],
        store: DiskStore,
        filled: Artifact,
        lowered: Artifact,
        tmp_path: Path,
    ) -> None:
        made = reweight(filled, str(checkpoints(1)), tmp_path / "out", store=store)
        back = reweight(made, str(checkpoints(2)), tmp_path / "back", store=store)
        assert made.manifest["source"]["files"] != filled.manifest["source"]["files"]
        assert made.program.read_bytes() != filled.program.read_bytes()
        assert back.program.read_bytes() == lowered.program.read_bytes()
        assert {made.manifest["reused"], back.manifest["reused"]} <= {"program", "skeleton"}

    def test_another_architecture_is_refused_by_the_command(
        self,
        checkpoints: Callable[..., Path],
        filled: Artifact,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(checkpoints(2), other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
        words = ["reweight", str(filled.program), "--checkpoint", str(other)]
        assert invoke([*words, "-o", str(tmp_path / "out")]) == 2
        assert "rope_theta is 500000.0, not" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_program_without_its_record_is_refused(
        self, filled: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copyfile(filled.program, tmp_path / "model.pte")
        words = ["reweight", str(tmp_path / "model.pte"), "--checkpoint", "x", "-o", "y"]
        assert invoke(words) == 2
        assert "llmx.json" in capsys.readouterr().err
