"""Programs whose caches are small: int8, windows and sinks, in the runtime and in the runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from executorch.runtime import Runtime

from llmx.run.engine import Engine
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod
from llmx.run.sampling import Sampling
from llmx.run.tokens import Run, TokenGenerator

FLOAT = {"qmode": None, "embedding_quantize": None}
CONTEXT, LONGEST_CALL, WINDOW = 60, 9, 12
INT8 = {"model.quantize_kv_cache": True}
WINDOWS = "model.local_global_attention"
SINKS = {"model.use_attention_sink": f"3,{WINDOW}", "export.max_context_length": None}
STATIC = {"model.enable_dynamic_shape": False, "model.use_sdpa_with_kv_cache": False}
KINDS: dict[str, dict[str, Any]] = {
    "int8": INT8,
    "windows in some layers": {WINDOWS: [0, WINDOW]},
    "windows of int8, repeated layers": {
        WINDOWS: [WINDOW],
        **INT8,
        "config": {"num_hidden_layers": 5},
    },
    "sinks, repeated layers": {**SINKS, "config": {"num_hidden_layers": 5}},
    "sinks of int8, one token, plain attention": {**SINKS, **INT8, **STATIC},
}
CALLS = {
    "one by one": [1] * CONTEXT,
    "calls across the boundary": [9, 5, 1, 1, 9, 9, 9, 2, 1, 9, 5],
}


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    difference = (actual.float() - expected.float()).abs().max() / expected.float().std()
    assert float(difference) <= tolerance


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def artifact(request: pytest.FixtureRequest, tiny_export: Any) -> Any:
    lengths = {"export.max_seq_length": LONGEST_CALL, "export.max_context_length": CONTEXT}
    return tiny_export(**{**FLOAT, **lengths, **request.param})


def calls(pieces: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    tokens = torch.randint(128, (1, CONTEXT), generator=torch.Generator().manual_seed(5))
    start = 0
    for length in pieces:
        yield tokens[:, start : start + length], torch.tensor([start])
        start += length


def is_int8(artifact: Any) -> bool:
    quantized: bool = artifact.manifest["config"]["model"]["quantize_kv_cache"]
    return quantized


@torch.no_grad()
@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS.keys())
def test_the_program_equals_eager_past_the_window(
    artifact: Any, eager: Any, pieces: list[int]
) -> None:
    if max(pieces) > 1 and not artifact.manifest["config"]["model"]["enable_dynamic_shape"]:
        pytest.skip("a static program takes one token")
    program, model = ProgramMethod(artifact.program), eager(artifact)
    # A value between two integers may be rounded to either.
    tolerance = 0.05 if is_int8(artifact) else 1e-4
    for inputs in calls(pieces):
        assert_same(program(*inputs), model(*inputs), tolerance)


@torch.no_grad()
def test_int8_is_nearly_as_exact_as_float(artifact: Any, eager: Any) -> None:
    if not is_int8(artifact):
        pytest.skip("a float cache")
    program, model = ProgramMethod(artifact.program), eager(artifact, quantize_kv_cache=False)
    for inputs in calls(CALLS["one by one"]):
        assert_same(program(*inputs), model(*inputs), 0.1)


def test_the_runner_goes_on_to_the_end_with_the_models_most_likely_tokens(artifact: Any) -> None:
    prompt = next(calls([25]))[0][0].tolist()  # more than one call takes
    engine = Engine(read_program(artifact.program))
    found = engine.generate(
        prompt, max_new_tokens=CONTEXT, temperature=0.0, on_token=lambda token: None
    )
    text = [*prompt, *found.tokens]
    program = ProgramMethod(artifact.program)
    expected = [
        int(program(torch.tensor([[token]]), torch.tensor([position])).argmax())
        for position, token in enumerate(text)
    ]
    assert found.tokens == expected[len(prompt) - 1 : -1]
    assert found.stop_reason == "end" or len(found.tokens) >= CONTEXT - len(prompt)


def test_a_later_turn_says_what_a_fresh_program_says(artifact: Any) -> None:
    info = read_program(artifact.program)
    talking = TokenGenerator(info)
    length = 2 * CONTEXT if info.max_context_length > CONTEXT else CONTEXT - 10
    text = next(calls([25]))[0][0].tolist()
    known = 0
    while len(text) < length:
        run, fresh = (_continue(model, text) for model in (talking, TokenGenerator(info)))
        assert run.tokens == fresh.tokens
        assert len(text) - run.prefilled == known
        known = len(text) + len(run.tokens) - (run.stop_reason != "end")
        text += [*run.tokens, *range(10, 20)]


def test_an_edited_text_says_what_a_fresh_program_says(artifact: Any) -> None:
    """Rings and sinks have lost what an earlier token saw, so small caches begin anew."""
    info = read_program(artifact.program)
    talking = TokenGenerator(info)
    text = next(calls([40]))[0][0].tolist()
    _continue(talking, text)
    edited = [*text[:20], 3, 4, 5]
    run = _continue(talking, edited)
    assert run.tokens == _continue(TokenGenerator(info), edited).tokens
    assert run.prefilled == len(edited)


def _continue(model: TokenGenerator, text: list[int]) -> Run:
    return model.generate(
        text,
        max_new_tokens=6,
        sampling=Sampling(),
        on_token=lambda token: False,
        interrupt=Interrupt(),
    )


def test_layers_are_repeated_where_they_are_of_one_kind(artifact: Any) -> None:
    windows = artifact.manifest["config"]["model"]["local_global_attention"] or []
    if len(windows) > 1 or artifact.manifest["model"]["params"]["n_layers"] <= 3:
        pytest.skip("too few layers, or of two kinds")
    assert artifact.manifest["notes"] == []
    assert "repeat layers" in [each["name"] for each in artifact.manifest["stages"]]


def test_caches_are_as_small_as_that(artifact: Any) -> None:
    found, options = artifact.manifest["model"], artifact.manifest["config"]["model"]
    ring = WINDOW + (LONGEST_CALL if options["enable_dynamic_shape"] else 1) - 1
    if options["use_attention_sink"] is None:
        pattern = options["local_global_attention"] or [0]
        slots = [CONTEXT if each == 0 else ring for each in pattern]
        rows = sum(slots) * found["params"]["n_layers"] // len(slots)
        assert found["kv_cache_bytes"] == rows * 2 * 2 * ((16 + 4 + 1) if is_int8(artifact) else 64)
    else:
        calls = ring - WINDOW + 1
        rows = (ring + 3 * calls) * ((16 + 4 + 1) if is_int8(artifact) else 64) + (3 + 1) * 64
        assert found["kv_cache_bytes"] == rows * found["params"]["n_layers"] * 2 * 2


def test_what_the_runner_is_told_about_lengths(artifact: Any) -> None:
    program = Runtime.get().load_program(artifact.program)
    names = ("get_max_seq_len", "get_max_context_len")
    values = [program.load_method(name).execute([])[0] for name in names]
    endless = artifact.manifest["config"]["model"]["use_attention_sink"] is not None
    assert values == [LONGEST_CALL, 1 << 20 if endless else CONTEXT]
