"""``llmx config``: the options of a job on the command line, and the resolved job it prints."""

from __future__ import annotations

import json

import pytest
import yaml

from llmx.config import load_job


@pytest.fixture(autouse=True)
def plugins(live_site, monkeypatch):
    live_site.family("tiny3")
    live_site.backend("fast")
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "tiny3,fast")
    return live_site


@pytest.fixture
def config(capsys):
    """Run ``llmx config --json`` in this process; the job as data."""
    from llmx.cli import invoke

    def run(*arguments: str) -> dict:
        code = invoke(["config", *arguments, "--json"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return json.loads(shown.out)

    return run


@pytest.fixture
def refused(capsys):
    """Run ``llmx config`` in this process; what it says on stderr."""
    from llmx.cli import invoke

    def run(*arguments: str) -> str:
        assert invoke(["config", *arguments]) == 2
        return capsys.readouterr().err

    return run


def test_the_printed_job_is_yaml_that_gives_the_same_job(capsys, tmp_path):
    from llmx.cli import invoke

    words = ["tiny3_0_6b", "--ios", "18", "--metadata", '{"get_bos_id": 3}', "base.revision='none'"]
    assert invoke(["config", *words]) == 0
    stored = tmp_path / "job.yaml"
    stored.write_text(capsys.readouterr().out)
    job = load_job(config=stored).job
    assert job.backend.options.ios == 18
    assert job.base.metadata == {"get_bos_id": 3}
    assert job.base.revision == "none"
    assert job.to_dict() == yaml.safe_load(stored.read_text())


def test_comments_say_where_values_were_set(capsys, write):
    from llmx.cli import invoke

    file = write("model:\n  dtype_override: bf16\n")
    assert invoke(["config", "tiny3", "--config", str(file), "--recipe", "exact"]) == 0
    shown = capsys.readouterr().out
    assert f"  dtype_override: bf16  # {file}, line 2\n" in shown
    assert "  use_kv_cache: true  # recipe exact\n" in shown
    assert "  model_class: tiny3  # the command line\n" in shown


def test_flags_set_their_keys(config):
    job = config(
        "tiny3", "--size", "1.7b", "--checkpoint", "w.pth", "--params", "p.json",
        "--tokenizer", "t.json", "--revision", "main", "--dtype", "fp16", "--group-size", "64",
        "--max-seq-length", "8", "--max-context-length", "16", "-o", "out", "--verbose",
    )  # fmt: skip
    assert job["base"]["size"] == "1.7b"
    assert job["base"]["checkpoint"] == "w.pth"
    assert job["base"]["params"] == "p.json"
    assert job["base"]["tokenizer_path"] == "t.json"
    assert job["base"]["revision"] == "main"
    assert job["model"]["dtype_override"] == "fp16"
    assert job["quantization"]["group_size"] == 64
    assert job["export"]["max_seq_length"] == 8
    assert job["export"]["max_context_length"] == 16
    assert job["export"]["output_dir"] == "out"
    assert job["debug"]["verbose"] is True
    assert config("tiny3", "--random-weights")["base"]["random_weights"] is True


def test_quantize_is_short_for_the_group(config):
    none = config("tiny3", "--quantize", "none")["quantization"]
    assert (none["qmode"], none["embedding_quantize"], none["group_size"]) == (None, None, None)
    some = config("tiny3", "--quantize", "8da4w", "--group-size", "64")["quantization"]
    assert (some["qmode"], some["embedding_quantize"], some["group_size"]) == ("8da4w", "4,32", 64)


def test_overrides_stand_anywhere(config):
    job = config("debug.verbose=true", "tiny3", "--size", "1.7b", "+export.output_name=x.pte")
    assert job["debug"]["verbose"] is True
    assert job["export"]["output_name"] == "x.pte"


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (["tiny3", "--extended-ops"], "extended_ops", True),
        (["--extended-ops", "tiny3"], "extended_ops", True),
        (["tiny3", "--extended-ops", "--no-extended-ops"], "extended_ops", False),
        (["--ios", "18", "tiny3"], "ios", 18),
        (["tiny3", "--ios=18"], "ios", 18),
        (["tiny3_1_7b", "--device", "gpu", "debug.verbose=true"], "device", "gpu"),
    ],
)
def test_a_backends_options_are_flags(config, words, option, value):
    assert config(*words)["backend"]["fast"][option] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny3", "--extended-opps"], "no option --extended-opps, did you mean --extended-ops?"),
        (["tiny3", "--sise", "1.7b"], "no option --sise, did you mean --size?"),
        (["tiny3", "--no-ios"], "no option --no-ios, did you mean --ios?"),
        (["tiny3", "--extended-ops=true"], "--extended-ops takes no value"),
        (["tiny3", "--ios"], "--ios needs a value: a whole number"),
        (["tiny3", "--ios", "x"], "backend.fast.ios: expected a whole number, got 'x'"),
        (["tiny3", "--backend", "none", "--ios", "18"], "no option --ios"),
        (["tiny3", "other"], "two families are named: tiny3 and other"),
        (["tiny3", "--dtype", "fp8"], "Invalid value for '--dtype'"),
        (["--size", "1.7b"], "no model family is named"),
    ],
)
def test_options_that_do_not_fit(refused, words, message):
    assert refused(*words).startswith(f"error: {message}")


def test_a_backend_that_is_not_there(refused):
    assert "unknown backend 'slow' (installed: fast)" in refused("tiny3", "--backend", "slow")


def test_help_shows_the_options(capsys):
    from llmx.cli import invoke

    assert invoke(["config", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--size", "--checkpoint", "--recipe", "--quantize", "--metadata", "--output"):
        assert flag in shown
    assert "[FAMILY] [KEY=VALUE]..." in shown
    assert "llmx backends NAME" in shown
