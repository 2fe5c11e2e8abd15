"""Weight maps of the common decoder in the three layouts in which it is published."""

from __future__ import annotations

from llmx.checkpoint.base import Checkpoint
from llmx.checkpoint.weight_map import Target, Targets, WeightMap, interleaved
from llmx.model.params import DecoderParams

ATTENTION = "layers.{i}.attention"
FEED_FORWARD = "layers.{i}.feed_forward"


def hf_decoder_map(params: DecoderParams) -> WeightMap:
    """Hugging Face's names (``model.layers.{i}.self_attn.q_proj.weight``)."""
    layer = "model.layers.{i}"
    entries: dict[str, Targets] = {
        "model.embed_tokens.weight": "embedding.weight",
        f"{layer}.input_layernorm.weight": "layers.{i}.attention_norm.weight",
        f"{layer}.self_attn.q_norm.weight": f"{ATTENTION}.q_norm.weight",
        f"{layer}.self_attn.k_norm.weight": f"{ATTENTION}.k_norm.weight",
        f"{layer}.post_attention_layernorm.weight": "layers.{i}.feed_forward_norm.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": _head(params),
        "model.rotary_emb.inv_freq": None,
        f"{layer}.self_attn.rotary_emb.inv_freq": None,
    }
    for kind in ("weight", "bias"):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            entries[f"{layer}.self_attn.{name}.{kind}"] = f"{ATTENTION}.{name}.{kind}"
        for name in ("gate_proj", "up_proj", "down_proj"):
            entries[f"{layer}.mlp.{name}.{kind}"] = f"{FEED_FORWARD}.{name}.{kind}"
    return WeightMap(entries)


def meta_decoder_map(params: DecoderParams, *, interleaved_qk: bool) -> WeightMap:
    """Meta's names (``layers.{i}.attention.wq.weight``).

    Args:
        interleaved_qk: rows of q and k are stored with rotary pairs as neighbours.
    """
    entries: dict[str, Targets] = {
        "tok_embeddings.weight": "embedding.weight",
        "layers.{i}.attention_norm.weight": "layers.{i}.attention_norm.weight",
        "layers.{i}.ffn_norm.weight": "layers.{i}.feed_forward_norm.weight",
        "norm.weight": "norm.weight",
        "output.weight": _head(params),
        "rope.freqs": None,
    }
    qk = _qk_targets(params, interleaved_qk)
    for norm in ("q_norm", "k_norm"):
        # The second name is that of the older export tool.
        entries[f"{ATTENTION}.{norm}.weight"] = qk[f"{norm}.weight"]
        entries[f"{ATTENTION}.{norm}_fn.weight"] = qk[f"{norm}.weight"]
    for kind in ("weight", "bias"):
        entries[f"{ATTENTION}.wq.{kind}"] = qk[f"q_proj.{kind}"]
        entries[f"{ATTENTION}.wk.{kind}"] = qk[f"k_proj.{kind}"]
        entries[f"{ATTENTION}.wv.{kind}"] = f"{ATTENTION}.v_proj.{kind}"
        entries[f"{ATTENTION}.wo.{kind}"] = f"{ATTENTION}.o_proj.{kind}"
        for name, target in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            entries[f"{FEED_FORWARD}.{name}.{kind}"] = f"{FEED_FORWARD}.{target}.{kind}"
    return WeightMap(entries)


def gguf_decoder_map(params: DecoderParams, *, interleaved_qk: bool) -> WeightMap:
    """GGUF's names (``blk.{i}.attn_q.weight``).

    Args:
        interleaved_qk: rows of q and k are stored with rotary pairs as neighbours. GGUF's
            converters reorder them for some architectures only, those whose ``rope_type`` is
            "norm" there.
    """
    block = "blk.{i}"
    entries: dict[str, Targets] = {
        "token_embd.weight": "embedding.weight",
        f"{block}.attn_norm.weight": "layers.{i}.attention_norm.weight",
        f"{block}.ffn_norm.weight": "layers.{i}.feed_forward_norm.weight",
        "output_norm.weight": "norm.weight",
        "output.weight": _head(params),
        # Rotary scaling, which the checkpoint's config already tells.
        "rope_freqs.weight": None,
        "rope_factors_short.weight": None,
        "rope_factors_long.weight": None,
    }
    qk = _qk_targets(params, interleaved_qk)
    for norm in ("q_norm", "k_norm"):
        entries[f"{block}.attn_{norm}.weight"] = qk[f"{norm}.weight"]
    for kind in ("weight", "bias"):
        entries[f"{block}.attn_q.{kind}"] = qk[f"q_proj.{kind}"]
        entries[f"{block}.attn_k.{kind}"] = qk[f"k_proj.{kind}"]
        entries[f"{block}.attn_v.{kind}"] = f"{ATTENTION}.v_proj.{kind}"
        entries[f"{block}.attn_output.{kind}"] = f"{ATTENTION}.o_proj.{kind}"
        for name in ("gate", "up", "down"):
            entries[f"{block}.ffn_{name}.{kind}"] = f"{FEED_FORWARD}.{name}_proj.{kind}"
    return WeightMap(entries)


def decoder_map(
    checkpoint: Checkpoint, params: DecoderParams, *, gguf_interleaved_qk: bool
) -> WeightMap:
    """The map for the checkpoint's own layout.

    Args:
        gguf_interleaved_qk: what the family knows of its GGUF files; see ``gguf_decoder_map``.
    """
    if checkpoint.layout == "hf":
        return hf_decoder_map(params)
    if checkpoint.layout == "meta":
        return meta_decoder_map(params, interleaved_qk=bool(checkpoint.interleaved_qk))
    return gguf_decoder_map(params, interleaved_qk=gguf_interleaved_qk)


def _head(params: DecoderParams) -> str | None:
    """A tied head repeats the embedding, if it is stored at all."""
    return None if params.tied_embeddings else "head.weight"


def _qk_targets(params: DecoderParams, interleaved_qk: bool) -> dict[str, Target]:
    """Targets of everything whose rows follow the rotary order, by the last two name parts.

    The weights of a qk-norm act on one head's elements, so they are ordered like one head's rows.
    """
    heads = {
        "q_proj.weight": params.n_heads,
        "q_proj.bias": params.n_heads,
        "k_proj.weight": params.n_kv_heads,
        "k_proj.bias": params.n_kv_heads,
        "q_norm.weight": 1,
        "k_norm.weight": 1,
    }
    if not interleaved_qk:
        return {name: f"{ATTENTION}.{name}" for name in heads}
    return {
        name: interleaved(f"{ATTENTION}.{name}", n_heads, params.rotary_dim)
        for name, n_heads in heads.items()
    }
