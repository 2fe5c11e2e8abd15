"""The constant methods through which a program tells the runner about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx.checkpoint import TokenIds
from llmx.config import ExportJob
from llmx.config.methods import PREFILL, prefill_of
from llmx.model.params import DecoderParams
from llmx.pte.data_files import announced


def constant_methods(
    job: ExportJob, params: DecoderParams, tokens: TokenIds
) -> dict[str, int | bool | float | str | list[int]]:
    """What ExecuTorch's LLM runner reads, and whatever ``base.metadata`` adds or overrides.

    ``job``'s lengths are resolved. Without a bos id there is no ``get_bos_id``.
    """
    assert job.export.max_seq_length is not None
    assert job.export.max_context_length is not None
    methods: dict[str, Any] = {
        "get_eos_ids": list(tokens.eos),
        "get_max_seq_len": job.export.max_seq_length,
        "get_max_context_len": job.export.max_context_length,
        "get_n_layers": params.n_layers,
        "get_vocab_size": params.vocab_size,
        "use_kv_cache": job.model.use_kv_cache,
        "use_sdpa_with_kv_cache": job.model.use_sdpa_with_kv_cache,
        "enable_dynamic_shape": job.model.enable_dynamic_shape,
    }
    if tokens.bos is not None:
        methods["get_bos_id"] = tokens.bos
    prefill = prefill_of(job.multimethod.methods)
    if prefill is not None:
        methods[PREFILL] = prefill.method_name
    methods |= announced(
        {"foundation": job.export.foundation_weights_file, "lora": job.export.lora_weights_file}
    )
    added: Mapping[str, Any] = job.base.metadata or {}
    return {**methods, **added}
