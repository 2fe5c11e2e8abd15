"""A family as plugins were first written for llmx 0.1. Not to be edited: it must go on working."""

from llmx import DecoderParams, ModelSize, TokenIds, hookimpl

REPO = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SIZES = {
    "1.1b": ModelSize(
        params=DecoderParams(
            dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, head_dim=64, hidden_dim=5632,
            vocab_size=32000, max_position=2048, norm_eps=1e-5, rope_theta=10000.0,
        ),
        hub_repo=REPO,
        config_url=f"https://huggingface.co/{REPO}/blob/main/config.json",
    ),
}  # fmt: skip


@hookimpl
def sizes():
    return SIZES


@hookimpl
def convert_weights(checkpoint, params):
    from llmx.checkpoint import decoder_map

    return decoder_map(checkpoint, params, gguf_interleaved_qk=True)


@hookimpl
def token_ids(checkpoint):
    from llmx.checkpoint import read_token_ids

    published = TokenIds(bos=1, eos=(2,))
    return published if checkpoint is None else read_token_ids(checkpoint, published)


@hookimpl
def gguf_pre_tokenizer(name):
    if name != "veteran":
        return None
    return {"type": "Digits", "individual_digits": True}


@hookimpl
def default_backend():
    return "xnnpack"
