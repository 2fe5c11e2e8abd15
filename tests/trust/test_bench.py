"""``llmx bench`` measures in a process of its own for each model, and in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmx.artifact import Artifact
from llmx.cli import invoke

from .conftest import CONTEXT


def test_figures_of_two_models(
    exact: Artifact, quantized: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["--compare", str(quantized.folder), "--lengths", "8,48", "--rounds", "3", "--json"]
    assert invoke(["bench", str(exact.folder), *words, "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found] == ["exact", "quantized"]
    for each in found:
        assert each["load_seconds"] > 0
        assert each["before_bytes"] > 50e6  # Python with PyTorch
        assert 0 < each["loaded_bytes"] <= each["peak_bytes"] < 20e6
        assert [speed["prompt"] for speed in each["speeds"]] == [8, 48]
        for speed in each["speeds"]:
            for name in ("first_token_seconds", "prefill_rate", "decode_rate"):
                assert 0 < speed[name]["low"] <= speed[name]["median"] <= speed[name]["high"]
            rate = speed["prompt"] / speed["first_token_seconds"]["median"]
            assert speed["prefill_rate"]["median"] == pytest.approx(rate)


def test_a_table_and_a_picture(
    exact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    capsys.readouterr()
    picture = tmp_path / "speed.svg"
    words = ["--rounds", "1", "--lengths", "8,16", "--plot", str(picture), "--quiet"]
    assert invoke(["bench", str(exact.program), *words, "--compare", str(exact.folder)]) == 0
    shown = capsys.readouterr().out
    words = ["load", "memory at the peak", "prefill of 8", "decoding after 16"]
    for word in (*words, "exact / model.pte"):
        assert word in shown
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize("lengths", [str(CONTEXT), "0", "long"])
def test_lengths_without_room_are_refused(
    lengths: str, exact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["bench", str(exact.folder), "--lengths", lengths, "--quiet"]) == 2
    assert "use lengths from 1 to" in capsys.readouterr().err or lengths == "long"
