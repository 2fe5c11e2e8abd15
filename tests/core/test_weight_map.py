"""The weight map: what it does to tensors, and how it reports what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmx.checkpoint import (
    Checkpoint,
    WeightMap,
    apply,
    decoder_map,
    hf_decoder_map,
    interleaved,
    meta_decoder_map,
    open_checkpoint,
    plan,
)
from llmx.errors import CheckpointError
from llmx.model.params import DecoderParams

PARAMS = DecoderParams(
    dim=8,
    n_layers=12,
    n_heads=2,
    n_kv_heads=1,
    head_dim=4,
    hidden_dim=6,
    vocab_size=10,
    max_position=16,
    tied_embeddings=True,
)


def checkpoint_of(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    return open_checkpoint(str(folder))


def shapes(**tensors: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {name.replace("__", "."): shape for name, shape in tensors.items()}


def hf_tensors(params: DecoderParams) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    width, kv_width = params.n_heads * params.head_dim, params.n_kv_heads * params.head_dim
    tensors = {
        "model.norm.weight": torch.randn(params.dim),
        "model.embed_tokens.weight": torch.randn(params.vocab_size, params.dim),
    }
    for i in range(params.n_layers):
        layer = f"model.layers.{i}"
        tensors |= {
            f"{layer}.self_attn.q_proj.weight": torch.randn(width, params.dim),
            f"{layer}.self_attn.k_proj.weight": torch.randn(kv_width, params.dim),
            f"{layer}.self_attn.v_proj.weight": torch.randn(kv_width, params.dim),
            f"{layer}.self_attn.o_proj.weight": torch.randn(params.dim, width),
            f"{layer}.mlp.gate_proj.weight": torch.randn(params.hidden_dim, params.dim),
            f"{layer}.mlp.up_proj.weight": torch.randn(params.hidden_dim, params.dim),
            f"{layer}.mlp.down_proj.weight": torch.randn(params.dim, params.hidden_dim),
            f"{layer}.input_layernorm.weight": torch.randn(params.dim),
            f"{layer}.post_attention_layernorm.weight": torch.randn(params.dim),
        }
    return tensors


def expected_of(tensors: dict[str, torch.Tensor], weight_map: WeightMap) -> dict[str, tuple]:
    return {weight_map.find(name)[0]: tuple(t.shape) for name, t in tensors.items()}


class TestApplying:
    def test_layers_stream_in_order_between_embedding_and_norm(self, tmp_path: Path) -> None:
        tensors = hf_tensors(PARAMS)
        weight_map = hf_decoder_map(PARAMS)
        expected = expected_of(tensors, weight_map)
        checkpoint = checkpoint_of(tmp_path, tensors)
        names = [name for name, _ in apply(plan(weight_map, checkpoint, expected), checkpoint)]
        layers = [int(name.split(".")[1]) for name in names if name.startswith("layers.")]
        assert names[0] == "embedding.weight"
        assert layers == sorted(layers)
        assert set(layers) == set(range(12))
        assert names[-1] == "norm.weight"

    def test_every_tensor_arrives_under_its_new_name(self, tmp_path: Path) -> None:
        tensors = hf_tensors(PARAMS)
        weight_map = hf_decoder_map(PARAMS)
        checkpoint = checkpoint_of(tmp_path, tensors)
        expected = expected_of(tensors, weight_map)
        converted = dict(apply(plan(weight_map, checkpoint, expected), checkpoint))
        assert len(converted) == len(tensors)
        torch.testing.assert_close(
            converted["layers.11.feed_forward.down_proj.weight"],
            tensors["model.layers.11.mlp.down_proj.weight"],
        )

    def test_a_fused_tensor_is_split_by_its_targets_own_rows(self, tmp_path: Path) -> None:
        fused = torch.randn(7, 3)
        checkpoint = checkpoint_of(tmp_path, {"h.0.qkv.weight": fused})
        weight_map = WeightMap({"h.{i}.qkv.weight": ("l.{i}.q", "l.{i}.k", "l.{i}.v")})
        expected = {"l.0.q": (4, 3), "l.0.k": (2, 3), "l.0.v": (1, 3)}
        converted = dict(apply(plan(weight_map, checkpoint, expected), checkpoint))
        assert [tuple(converted[name].shape) for name in expected] == [(4, 3), (2, 3), (1, 3)]
        torch.testing.assert_close(torch.cat([converted[name] for name in expected]), fused)

    @pytest.mark.parametrize("columns", [(), (5,)], ids=["bias", "weight"])
    def test_interleaved_rows_become_half_split(
        self, tmp_path: Path, columns: tuple[int, ...]
    ) -> None:
        # Row r of head h holds 10h + r, as a half-split model has it; stored interleaved, the
        # rows of a pair, r and r + 3, are neighbours.
        wanted = torch.tensor([10 * h + r for h in range(2) for r in range(6)]).float()
        stored = torch.tensor([10 * h + r for h in range(2) for r in (0, 3, 1, 4, 2, 5)]).float()
        for _ in columns:
            wanted, stored = wanted[:, None].expand(-1, 5), stored[:, None].expand(-1, 5)
        checkpoint = checkpoint_of(tmp_path, {"wq": stored})
        steps = plan(WeightMap({"wq": interleaved("q", 2)}), checkpoint, {"q": (12, *columns)})
        torch.testing.assert_close(dict(apply(steps, checkpoint))["q"], wanted)

    def test_rows_beyond_the_rotary_part_stay_in_place(self, tmp_path: Path) -> None:
        stored = torch.tensor([0, 2, 1, 3, 4, 5]).float()
        checkpoint = checkpoint_of(tmp_path, {"wq": stored})
        steps = plan(WeightMap({"wq": interleaved("q", 1, 4)}), checkpoint, {"q": (6,)})
        assert dict(apply(steps, checkpoint))["q"].tolist() == [0, 1, 2, 3, 4, 5]

    def test_rotation_gives_the_same_scores_in_both_orders(self, tmp_path: Path) -> None:
        """The point of the reordering: q·k after rope does not depend on how rows are stored."""
        torch.manual_seed(0)
        wq, wk, x = torch.randn(8, 8), torch.randn(8, 8), torch.randn(2, 8)
        checkpoint = checkpoint_of(tmp_path, {"wq": wq, "wk": wk})
        weight_map = WeightMap({"wq": interleaved("q", 1), "wk": interleaved("k", 1)})
        steps = plan(weight_map, checkpoint, {"q": (8, 8), "k": (8, 8)})
        half = dict(apply(steps, checkpoint))
        angles = torch.arange(2)[:, None] * 100.0 ** -(torch.arange(4) / 4)
        cos, sin = angles.cos(), angles.sin()

        def rotate_pairs(v: torch.Tensor) -> torch.Tensor:
            a, b = v[:, 0::2], v[:, 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(1)

        def rotate_halves(v: torch.Tensor) -> torch.Tensor:
            a, b = v.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

        stored = rotate_pairs(x @ wq.T) @ rotate_pairs(x @ wk.T).T
        split = rotate_halves(x @ half["q"].T) @ rotate_halves(x @ half["k"].T).T
        torch.testing.assert_close(split, stored)


class TestRefusing:
    def refuse(
        self,
        folder: Path,
        tensors: dict[str, tuple[int, ...]],
        expected: dict[str, tuple[int, ...]],
        entries: dict[str, str | tuple[str, ...] | None],
    ) -> str:
        checkpoint = checkpoint_of(folder, {n: torch.zeros(s) for n, s in tensors.items()})
        with pytest.raises(CheckpointError) as caught:
            plan(WeightMap(entries), checkpoint, expected)  # type: ignore[arg-type]
        assert "\n" not in caught.value.message
        return caught.value.message

    def test_tensors_that_nothing_maps(self, tmp_path: Path) -> None:
        message = self.refuse(tmp_path, {"a": (1,), "b": (1,)}, {"A": (1,)}, {"a": "A"})
        assert "tensors that nothing maps: b" in message

    def test_missing_tensors(self, tmp_path: Path) -> None:
        message = self.refuse(tmp_path, {"a": (1,)}, {"A": (1,), "B": (2,)}, {"a": "A"})
        assert "no tensor for: B" in message

    def test_tensors_that_the_model_has_no_place_for(self, tmp_path: Path) -> None:
        message = self.refuse(
            tmp_path, {"a": (1,), "a.bias": (1,)}, {"A": (1,)}, {"a": "A", "a.bias": "A.bias"}
        )
        assert "a.bias (the model has no A.bias)" in message

    def test_wrong_shapes_with_both_shapes(self, tmp_path: Path) -> None:
        message = self.refuse(tmp_path, {"a": (2, 3)}, {"A": (3, 2)}, {"a": "A"})
        assert "a is [2, 3], A is [3, 2]" in message

    def test_a_fused_tensor_whose_rows_do_not_add_up(self, tmp_path: Path) -> None:
        message = self.refuse(
            tmp_path, {"ab": (5, 2)}, {"A": (2, 2), "B": (2, 2)}, {"ab": ("A", "B")}
        )
        assert "ab is [5, 2], A + B is [2, 2] + [2, 2]" in message

    def test_two_sources_of_one_parameter(self, tmp_path: Path) -> None:
        message = self.refuse(tmp_path, {"a": (1,), "b": (1,)}, {"A": (1,)}, {"a": "A", "b": "A"})
        assert "b (A comes from a already)" in message

    def test_many_are_counted_and_the_first_are_named(self, tmp_path: Path) -> None:
        tensors = {f"x{i}": (1,) for i in range(9)}
        message = self.refuse(tmp_path, tensors, {}, {})
        assert "x0, x1, x2 and 6 more" in message

    def test_all_kinds_of_disagreement_are_told_at_once(self, tmp_path: Path) -> None:
        message = self.refuse(tmp_path, {"a": (1,), "b": (1,)}, {"A": (2,), "C": (1,)}, {"a": "A"})
        assert "no tensor for: C" in message
        assert "nothing maps: b" in message
        assert "wrong shape: a is [1], A is [2]" in message

    def test_nothing_is_read_before_the_plan_stands(self, tmp_path: Path) -> None:
        checkpoint = checkpoint_of(tmp_path, {"a": torch.zeros(1)})
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="nothing maps: a"):
            plan(WeightMap({}), checkpoint, {})

    def test_head_rows_that_do_not_make_pairs(self, tmp_path: Path) -> None:
        checkpoint = checkpoint_of(tmp_path, {"wq": torch.zeros(6)})
        with pytest.raises(CheckpointError, match="6 rows, which do not make 2 heads of pairs"):
            plan(WeightMap({"wq": interleaved("q", 2)}), checkpoint, {"q": (6,)})

    @pytest.mark.parametrize(
        ("source", "target"), [("a.{i}", "b"), ("a", "b.{i}"), ("a.{i}.{i}", "b.{i}.{i}")]
    )
    def test_patterns_that_cannot_mean_anything(self, source: str, target: str) -> None:
        with pytest.raises(ValueError, match=r"one \{i\} on both sides"):
            WeightMap({source: target})


def test_a_known_tensor_that_is_not_needed_is_passed_over(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, {"a": torch.ones(1), "h.3.freq": torch.ones(1)})
    steps = plan(WeightMap({"a": "A", "h.{i}.freq": None}), checkpoint, {"A": (1,)})
    assert [name for name, _ in apply(steps, checkpoint)] == ["A"]


def test_a_tied_head_may_be_stored_or_left_out(tmp_path: Path) -> None:
    tensors = hf_tensors(PARAMS)
    weight_map = hf_decoder_map(PARAMS)
    expected = expected_of(tensors, weight_map)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    steps = plan(weight_map, checkpoint_of(tmp_path, tensors), expected)
    assert "lm_head.weight" not in {step.source for step in steps}


def test_updated_replaces_entries_for_a_family_of_its_own() -> None:
    weight_map = hf_decoder_map(PARAMS).updated({"model.layers.{i}.mlp.gate_up_proj.weight": None})
    assert weight_map.find("model.layers.7.mlp.gate_up_proj.weight") == ()
    assert weight_map.find("model.norm.weight") == ("norm.weight",)
    assert weight_map.find("model.layers.x.mlp.gate_up_proj.weight") is None


def test_meta_names_lead_to_the_same_parameters(tmp_path: Path) -> None:
    meta = {
        "tok_embeddings.weight": torch.zeros(10, 8),
        "layers.0.attention.wq.weight": torch.zeros(8, 8),
    }
    checkpoint = checkpoint_of(tmp_path, meta)
    assert checkpoint.layout == "meta"
    found = decoder_map(checkpoint, PARAMS, gguf_interleaved_qk=False).find(
        "layers.0.attention.wq.weight"
    )
    assert found == (interleaved("layers.0.attention.q_proj.weight", 2, 4),)
    half_split = meta_decoder_map(PARAMS, interleaved_qk=False)
    assert half_split.find("layers.0.attention.wk.bias") == ("layers.0.attention.k_proj.bias",)
    assert half_split.find("output.weight") == ()
