"""Caches that hold less than the whole text: windows and sinks, against masks over all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmx.model.decoder import Decoder
from llmx.model.hf_config import decoder_params
from llmx.model.kv_cache import cache_bytes
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams, Sinks
from llmx.model.rope import apply_rope

VOCABULARY = 160
WINDOW = 12
SINKS = Sinks(sinks=3, window=WINDOW)
LENGTH = 5 * WINDOW  # several times around the ring
LONGEST_CALL = 9
PIECES = {
    "one by one": [1] * LENGTH,
    "equal chunks": [6] * (LENGTH // 6),
    "across the boundary": [9, 5, 1, 1, 9, 9, 9, 2, 1, 9, 5],
}
FLAVOURS = {"plain": False, "fused": True}


def params(**changes: Any) -> DecoderParams:
    fields = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "partial_rotary_factor": 0.5,
    }
    return decoder_params({**fields, **changes})


def decoder(
    *,
    shape: DecoderParams,
    kv_cache: bool = True,
    fused: bool = False,
    int8: bool = False,
    **build: Any,
) -> Decoder:
    """The same random weights for all, whatever is kept of a text."""
    options = BuildOptions(
        dtype=torch.float32, **{"max_context_length": LENGTH, "full_logits": True, **build}
    )
    ops = plain_ops(kv_cache=kv_cache, fused_attention=fused, int8_cache=int8)
    model = Decoder(shape, ops, options)
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def in_pieces(model: Decoder, pieces: list[int], text: Tensor | None = None) -> Tensor:
    text = tokens() if text is None else text
    return torch.cat([logits for _, logits in _pieces(model, pieces, text)], dim=1)


def _pieces(model: Decoder, pieces: list[int], text: Tensor) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for length in pieces:
        yield start, model(text[:, start : start + length], torch.tensor([start]))
        start += length


@pytest.mark.parametrize("fused", FLAVOURS.values(), ids=FLAVOURS.keys())
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
@torch.no_grad()
def test_ring_caches_equal_masks_over_the_whole_text(fused: bool, pieces: list[int]) -> None:
    windows = [0, WINDOW]
    reference = decoder(shape=params(), kv_cache=False, windows=windows)(tokens())
    ring = decoder(shape=params(), fused=fused, windows=windows, longest_call=LONGEST_CALL)
    torch.testing.assert_close(in_pieces(ring, pieces), reference, atol=1e-4, rtol=1e-4)
    whole = decoder(shape=params(), kv_cache=False)(tokens())
    torch.testing.assert_close(whole[:, :WINDOW], reference[:, :WINDOW])
    assert not torch.allclose(whole[:, WINDOW:], reference[:, WINDOW:], atol=1e-2)


def test_the_same_ring_serves_a_new_text_without_being_emptied() -> None:
    ring = decoder(shape=params(), fused=True, windows=[WINDOW], longest_call=LONGEST_CALL)
    first = in_pieces(ring, PIECES["across the boundary"])
    assert torch.equal(in_pieces(ring, PIECES["across the boundary"]), first)


def test_windows_repeat_as_a_pattern_and_shorten_only_their_own_layers_caches() -> None:
    model = decoder(shape=params(), windows=[0, WINDOW], longest_call=LONGEST_CALL)
    slots = [layer.attention.core.layout.slots for layer in model.layers]
    ring = WINDOW + LONGEST_CALL - 1
    assert slots == [LENGTH, ring, LENGTH, ring]
    bytes_per_token = 2 * 2 * 16 * 4
    assert cache_bytes(model) == sum(slots) * bytes_per_token


def test_a_window_as_long_as_the_context_is_none() -> None:
    model = decoder(shape=params(), windows=[LENGTH])
    assert model.layers[0].attention.core.layout.slots == LENGTH
    assert torch.equal(in_pieces(model, [LENGTH]), in_pieces(decoder(shape=params()), [LENGTH]))


def test_a_jobs_window_does_not_widen_the_models_own() -> None:
    shape = params(sliding_window=WINDOW)
    model = decoder(shape=shape, windows=[2 * WINDOW, 5], longest_call=1)
    assert [layer.attention.core.layout.slots for layer in model.layers] == [WINDOW, 5] * 2


@pytest.mark.parametrize("fused", FLAVOURS.values(), ids=FLAVOURS.keys())
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_sinks_equal_a_text_that_is_cut_to_sinks_and_window(fused: bool, pieces: list[int]) -> None:
    model = decoder(shape=params(), fused=fused, sinks=SINKS, longest_call=LONGEST_CALL)
    expected = streaming_reference(model, tokens())
    torch.testing.assert_close(in_pieces(model, pieces), expected, atol=1e-4, rtol=1e-4)


def test_sinks_change_nothing_before_the_window_is_full() -> None:
    model = decoder(shape=params(), sinks=SINKS, longest_call=LONGEST_CALL)
    plain = decoder(shape=params(), kv_cache=False)
    with torch.no_grad():
        expected = plain(tokens()[:, : SINKS.tokens])
    found = in_pieces(model, [9, 6], tokens()[:, : SINKS.tokens])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_million_tokens_later_positions_are_as_exact() -> None:
    """What a token says depends on the text that is kept, not on how much was forgotten."""
    model = decoder(shape=params(), fused=True, sinks=SINKS, longest_call=LONGEST_CALL)
    text = tokens()
    early = in_pieces(model, [1] * LENGTH)[:, -1]
    with torch.no_grad():
        for at in range(SINKS.sinks):
            model(text[:, at : at + 1], torch.tensor([at]))
        far = 1_000_000
        for at in range(SINKS.sinks, LENGTH):
            late = model(text[:, at : at + 1], torch.tensor([far + at]))[:, -1]
    torch.testing.assert_close(late, early, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def streaming_reference(model: Decoder, text: Tensor) -> Tensor:
    """Each query attends to sinks and window at the positions that they have when the rest is cut.

    Nothing is kept: every query's keys are rotated for it alone.
    """
    length = text.shape[1]
    x = model.embedding(text)
    for layer in model.layers:
        attention = layer.attention
        normed = layer.attention_norm(x)
        q, k, v = (
            attention.heads(project(normed))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        rows = []
        for position in range(length):
            kept = [
                each
                for each in range(position + 1)
                if each < SINKS.sinks or each > position - SINKS.window
            ]
            cos, sin = model.rope(torch.arange(len(kept)))
            query = apply_rope(
                q[:, position : position + 1], cos[:, -1:], sin[:, -1:], attention.rotate_half
            )
            keys = apply_rope(k[:, kept], cos, sin, attention.rotate_half)
            rows.append(
                functional.scaled_dot_product_attention(
                    query.transpose(1, 2),
                    keys.transpose(1, 2),
                    v[:, kept].transpose(1, 2),
                    enable_gqa=True,
                ).transpose(1, 2)
            )
        x = x + attention.o_proj(torch.cat(rows, dim=1).flatten(2))
        x = x + layer.feed_forward(layer.feed_forward_norm(x))
    logits: Tensor = model.head(model.norm(x))
    return logits
