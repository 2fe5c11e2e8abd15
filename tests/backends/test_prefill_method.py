"""Static shapes: one method for pieces of a prompt, one for single tokens, and one KV cache.

``multimethod.methods`` with ``export_seq_len``; what Core ML makes of it is in ``test_coreml.py``.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.backends.families import tiny_families

from llmx import Artifact, ConfigError, ExportJob
from llmx.pte import read_contents
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod
from llmx.run.sampling import Sampling
from llmx.run.tokens import TokenGenerator
from llmx.verify.finding import distance

PIECE = 8
ONE_LAYER = {"num_hidden_layers": 1}
METHODS = [{"method_name": "forward"}, {"method_name": "prefill", "export_seq_len": PIECE}]
STATIC = {"enable_dynamic_shape": False, "use_kv_cache": True}
SHARED = {**STATIC, "multimethod.methods": METHODS, "multimethod.share_mutable_buffers": True}
KINDS: dict[str, dict[str, Any]] = {
    "portable": {"backend": "portable"},
    "xnnpack": {"backend": "xnnpack", "recipe": "float"},
    "xnnpack, 8da4w": {"backend": "xnnpack"},
}
PROMPT = torch.randint(128, (21,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(params=list(KINDS))
def artifact(request: pytest.FixtureRequest, tiny_export: Any) -> Artifact:
    return tiny_export(**KINDS[request.param], **SHARED)


def generated(artifact: Artifact, *prompts: list[int]) -> list[list[int]]:
    """What a program says after each prompt, one after the other."""
    generator = TokenGenerator(read_program(artifact.program))
    return [
        generator.generate(
            prompt,
            max_new_tokens=6,
            sampling=Sampling(),
            on_token=lambda _: False,
            interrupt=Interrupt(),
        ).tokens
        for prompt in prompts
    ]


def test_an_export_tries_one_method_behind_the_other(artifact: Artifact) -> None:
    checks = {each["name"]: each for each in artifact.manifest["checks"]}
    for name in ("prefill equals eager", f"decode at {PIECE} equals eager"):
        assert checks[f"prefill: {name}"]["passed"]


@torch.no_grad()
def test_forward_goes_on_from_what_prefill_has_read(artifact: Artifact) -> None:
    tokens = torch.tensor([PROMPT])
    piece, position = (tokens[:, :PIECE], torch.tensor([0])), torch.tensor([PIECE])
    forward = ProgramMethod(artifact.program)
    for at in range(PIECE):
        forward(tokens[:, at : at + 1], torch.tensor([at]))
    following = tokens[:, PIECE : PIECE + 1], position
    expected = forward(*following)

    together = ProgramMethod(artifact.program)
    together.beside("prefill")(*piece)
    assert distance(together(*following), expected) < 1e-3

    apart = ProgramMethod(artifact.program)
    ProgramMethod(artifact.program, "prefill")(*piece)
    assert distance(apart(*following), expected) > 0.01


def test_answers_are_those_of_a_program_that_reads_token_by_token(
    artifact: Artifact, tiny_export: Any
) -> None:
    backend = artifact.manifest["config"]["backend"]
    name = next(each for each, options in backend.items() if options.get("enabled"))
    if artifact.manifest["weights"]["quantized_layers"]:
        pytest.skip("rounding is another in calls of other lengths")
    recipe = {"xnnpack": "float"}.get(name, "default")
    plain = tiny_export(backend=name, recipe=recipe, **STATIC)
    # The second goes back to the fifth token of the first.
    prompts = PROMPT, PROMPT[:5] + PROMPT[::-1]
    assert generated(artifact, *prompts) == generated(plain, *prompts)


def test_the_program_tells_its_methods(artifact: Artifact) -> None:
    program = read_program(artifact.program)
    assert (program.prefill, program.prefill_length, program.dynamic) == ("prefill", PIECE, False)
    assert program.rewinds
    contents = read_contents(artifact.program)
    lengths = {each.name: getattr(each.inputs[0], "sizes", None) for each in contents.methods}
    assert lengths == {"forward": (1, 1), "prefill": (1, PIECE)}
    first, second = (each.state.bytes for each in contents.methods)
    assert first == second > 0


def test_weights_are_there_once(tiny_export: Any) -> None:
    two = tiny_export(**KINDS["xnnpack"], **SHARED)
    one = tiny_export(**KINDS["xnnpack"], **STATIC)
    weights = sum(each["stored_bytes"] for each in one.manifest["weights"]["modules"])
    assert two.program.stat().st_size - one.program.stat().st_size < 0.5 * weights


@pytest.mark.parametrize(
    "family", [name for name, config in tiny_families().items() if config.get("sliding_window")]
)
def test_windows_have_slots_for_a_whole_piece(family: str, tiny_export: Any) -> None:
    config = {**tiny_families()[family], "sliding_window": 12}
    artifact = tiny_export(family=family, config=config, backend="portable", **SHARED)
    assert all(each["passed"] for each in artifact.manifest["checks"])
    plain = tiny_export(family=family, config=config, backend="portable", **STATIC)
    assert generated(artifact, PROMPT) == generated(plain, PROMPT)


def test_a_file_of_settings_says_the_same(tmp_path: Any, tiny_export: Any) -> None:
    from llmx.config import load_job

    stored = tiny_export(**KINDS["portable"], **SHARED).manifest["config"]
    (tmp_path / "job.json").write_text(json.dumps(stored), encoding="utf-8")
    methods = load_job(config=tmp_path / "job.json").job.multimethod.methods
    assert [each.export_seq_len for each in methods] == [None, PIECE]


def method(name: str, length: int, **more: Any) -> dict[str, Any]:
    return {"method_name": name, "export_seq_len": length, **more}


FORWARD = {"method_name": "forward"}


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([FORWARD, method("prefill", 0)], {}, "export_seq_len of prefill is 0"),
        ([method("forward", 8)], {}, "runners call it with one token"),
        ([FORWARD, method("prefill", 8)], {"enable_dynamic_shape": True}, "have any length"),
        ([FORWARD, method("a", 8), method("b", 4)], {}, "a and b both read prompts"),
        ([FORWARD, method("a", 8, lora_config="some")], {}, "a has an adapter and calls of 8"),
        (
            [FORWARD, method("prefill", 8)],
            {"multimethod.share_mutable_buffers": False},
            "nobody else would know what prefill has read",
        ),
        ([], {}, "has none"),
    ],
)
def test_lengths_that_make_no_program(
    methods: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    given = {**SHARED, **options, "multimethod.methods": methods}
    with pytest.raises(ConfigError, match=message) as raised:
        ExportJob.create("smollm2", random_weights=True, backend="portable", **given)
    assert raised.value.remedy or "is 0" in message


def test_a_piece_fits_the_context(tiny_export: Any) -> None:
    with pytest.raises(ConfigError, match="leaves no room in a context of 8 tokens"):
        tiny_export(**KINDS["portable"], **SHARED, max_context_length=8)
