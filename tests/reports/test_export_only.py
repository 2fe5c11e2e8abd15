"""An export that stops at the graph of torch.export, and operators from a library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmx import Artifact, ConfigError, ExportJob
from llmx.cli.console import stdout
from llmx.cli.summary import print_summary
from llmx.config.schema import BaseOptions, DebugOptions, ExportOptions
from llmx.run.runtime import ProgramMethod
from tests.reports.conftest import export


def test_the_graph_computes_what_the_program_computes(told: Artifact, graph: Artifact) -> None:
    assert graph.program.name == "model.pt2"
    model, program = torch.export.load(graph.program).module(), ProgramMethod(told.program)
    tokens = torch.randint(128, (1, 12), generator=torch.Generator().manual_seed(3))
    for start, end in ((0, 9), (9, 10), (10, 12)):
        inputs = tokens[:, start:end], torch.tensor([start])
        expected = program(*inputs)
        difference = (model(*inputs) - expected).abs().max() / expected.std()
        assert difference < 0.5  # int8 activations round differently here and there


def test_the_record_has_what_there_is_without_a_program(
    graph: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graph.manifest["delegation"] is graph.manifest["memory"] is None
    assert graph.manifest["checks"] == []
    assert graph.manifest["weights"]["quantized_layers"] > 0
    print_summary(stdout(), graph, verbose=True)
    assert f"torch.export.load('{graph.program}')" in capsys.readouterr().out


def test_a_library_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.so").write_text("no library")
    assert export(tmp_path, f"export.so_library={tmp_path / 'no.so'}") == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert export(tmp_path, "export.so_library=nowhere.so") == 2
    assert "no such file" in capsys.readouterr().err


def test_what_tells_about_a_program_needs_one() -> None:
    with pytest.raises(ConfigError, match="profile_memory tells about a program"):
        ExportJob(
            base=BaseOptions(model_class="any"),
            export=ExportOptions(export_only=True),
            debug=DebugOptions(profile_memory=True),
        )
