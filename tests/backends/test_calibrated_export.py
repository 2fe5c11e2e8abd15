"""``gptq`` and mixed bits from checkpoint to program; random tokens without a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.families import tiny_families

from llmx import Artifact, ExportJob, export
from llmx.cache import DiskStore
from llmx.lower.build import draw, fill
from llmx.lower.calibrate import calibration_of
from llmx.lower.context import resolve_lengths
from llmx.lower.mixed import with_bits_spent
from llmx.lower.source import open_source
from llmx.lower.tables import resolve_tables
from llmx.plugins import load
from llmx.progress import Silent, Stages
from llmx.quantize.calibrated import Calibration
from llmx.quantize.calibration import random_sequences
from llmx.quantize.gptq import Gptq
from llmx.quantize.mixed import planned_bytes
from llmx.quantize.rounding import largest_value
from llmx.testing.tiny import SHAPE, tiny_job, write_config

BITS = 6.0


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    config = LlamaConfig(**{key: value for key, value in SHAPE.items() if key != "model_type"})
    LlamaForCausalLM(config).save_pretrained(folder)
    write_config(folder)
    job = ExportJob.create(
        "smollm2",
        checkpoint=str(folder),
        qmode="8da4w-gptq",
        output_dir=str(folder / "out"),
        **{
            "quantization.bits": BITS,
            "quantization.calibration_limit": 4,
            "quantization.calibration_seq_length": 32,
        },
    )
    return export(job)


def test_the_program_computes_what_the_eager_model_does(artifact: Artifact) -> None:
    assert artifact.manifest["checks"]
    assert all(each["passed"] for each in artifact.manifest["checks"])


def test_every_linear_layer_says_how_much_its_output_changed(artifact: Artifact) -> None:
    linears = [each for each in artifact.manifest["weights"]["modules"] if each["kind"] == "linear"]
    assert len(linears) == 7 * SHAPE["num_hidden_layers"] + 1
    narrow = [each for each in linears if each["bits"] == 4]
    assert all(0 < each["output_error"] < each["error"] < 0.2 for each in narrow)


def test_bits_are_spent_within_the_budget(artifact: Artifact) -> None:
    weights = artifact.manifest["weights"]
    linears = [each for each in weights["modules"] if each["kind"] == "linear"]
    assert {each["bits"] for each in linears} == {4, 8}
    assert BITS - 0.5 < weights["stored_bytes"] * 8 / weights["elements"] <= BITS
    assert any("linear layers get 8 bits" in note for note in artifact.manifest["notes"])


def test_extra_bits_come_on_top_of_what_everything_takes(artifact: Artifact) -> None:
    extra = 0.6
    job = ExportJob.create(
        "smollm2",
        checkpoint=str(artifact.folder.parent),
        **{"quantization.extra_bits": extra, "quantization.calibration_limit": 2},
    )
    plugins = load(job.base.model_class, job.backend.name)
    source = open_source(job.base, plugins.family, Silent())
    job = resolve_lengths(job, source.params)
    job = resolve_tables(job, source.params, plugins.family.token_ids(checkpoint=source.checkpoint))
    plain = draw(job, source, plugins)
    spent = with_bits_spent(job, plain, source, None, lambda _: None, Stages())
    before, after = (
        planned_bytes(each.model, each.schemes, each.shared, each.dtype.itemsize)
        for each in (plain, spent)
    )
    elements = artifact.manifest["weights"]["elements"]
    assert 0 < (after - before) * 8 / elements <= extra


def test_random_tokens_are_not_passed_off_as_text(artifact: Artifact) -> None:
    assert any("without a tokenizer" in note for note in artifact.manifest["notes"])


def test_the_record_repeats_the_job(artifact: Artifact) -> None:
    quantization = artifact.manifest["config"]["quantization"]
    assert (quantization["qmode"], quantization["method"]) == ("8da4w", "gptq")


def test_untrained_weights_are_not_calibrated(tmp_path: Path) -> None:
    job = ExportJob.create(
        "smollm2", random_weights=True, method="gptq", output_dir=str(tmp_path / "out")
    )
    stages = Stages()
    assert calibration_of(job, None, vocabulary=range(64), stages=stages) is None
    assert any("not calibrated" in note for note in stages.notes)


def test_another_context_does_not_calibrate_again(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(tmp_path / "store", 10**9)

    def weights(length: int) -> Artifact:
        job = ExportJob.create(
            "smollm2",
            checkpoint=str(artifact.folder.parent),
            qmode="8da4w-gptq",
            output_dir=str(tmp_path / f"of-{length}"),
            **{
                "export.max_context_length": length,
                "quantization.calibration_limit": 2,
                "quantization.calibration_seq_length": 16,
            },
        )
        return export(job, store=store).manifest["weights"]

    first = weights(64)
    monkeypatch.delattr(Gptq, "solve")
    assert weights(48) == first


@pytest.mark.parametrize("family", sorted(tiny_families()))
def test_layers_of_every_family_are_rounded_for_texts(family: str, tmp_path: Path) -> None:
    job = tiny_job(family, tmp_path, tiny_families()[family])
    plugins = load(family, job.backend.name)
    source = open_source(job.base, plugins.family, Silent())
    job = resolve_lengths(job, source.params)
    job = resolve_tables(job, source.params, plugins.family.token_ids(checkpoint=None))
    blueprint = draw(job, source, plugins)
    texts = random_sequences(range(64), length=24, limit=2)
    calibration = Calibration(texts, lambda model, tokens: model(tokens, torch.tensor([0])))
    records = list(fill(blueprint, Stages(), largest_value, calibration))
    narrow = [each for each in records if each.kind == "linear" and each.bits == 4]
    assert narrow
    assert all(each.output_error is not None and each.output_error < 0.2 for each in narrow)
