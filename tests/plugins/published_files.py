"""What the small files of published repositories say, and what has to come of it.

Values are the hub's; sources stand beside them. Templates are short ones that write the formats of
the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_LINES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)

LLAMA3 = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|start_header_id|>": 128006,
          "<|end_header_id|>": 128007, "<|eom_id|>": 128008, "<|eot_id|>": 128009}  # fmt: skip
QWEN = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
PHI3 = {"<s>": 1, "<|endoftext|>": 32000, "<|assistant|>": 32001, "<|system|>": 32006,
        "<|end|>": 32007, "<|user|>": 32010}  # fmt: skip
PHI4 = {"<|endoftext|>": 199999, "<|assistant|>": 200019, "<|end|>": 200020,
        "<|user|>": 200021, "<|system|>": 200022}  # fmt: skip
SMOLLM2 = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
LLAMA2 = {"<s>": 1, "</s>": 2}


@frozen(kw_only=True)
class Variant:
    """A repository's small files, and what has to come of them.

    Attributes:
        special: tokens that the tokenizer adds; those of ``swallows`` take the space after them.
        ends: every token at which generation stops.
        prompt: the conversation "Hi" up to where the model answers; ``None`` for base models.
    """

    family: str
    special: Mapping[str, int]
    generation: Mapping[str, Any]
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    bos: int
    ends: frozenset[str]
    prompt: str | None = None
    swallows: bool = False


VARIANTS = {
    # https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct/blob/main/generation_config.json
    "Meta-Llama-3-8B-Instruct": Variant(
        family="llama3",
        special=LLAMA3,
        bos=128000,
        ends=frozenset({"<|eot_id|>", "<|end_of_text|>"}),
        generation={"bos_token_id": 128000, "eos_token_id": [128001, 128009]},
        config={"bos_token_id": 128000, "eos_token_id": 128009},
        tokenizer={
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "chat_template": HEADERS,
        },
        prompt="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    # https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/generation_config.json
    "Meta-Llama-3-8B": Variant(
        family="llama3",
        special=LLAMA3,
        bos=128000,
        ends=frozenset({"<|end_of_text|>"}),
        generation={"bos_token_id": 128000, "eos_token_id": 128001},
        config={"bos_token_id": 128000, "eos_token_id": 128001},
        tokenizer={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    ),
    # https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct/blob/main/generation_config.json
    "Llama-3.2-1B-Instruct": Variant(
        family="llama3_2",
        special=LLAMA3,
        bos=128000,
        ends=frozenset({"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}),
        generation={"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
        config={"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
        tokenizer={
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "chat_template": HEADERS,
        },
        prompt="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Llama-3.2-1B": Variant(
        family="llama3_2",
        special=LLAMA3,
        bos=128000,
        ends=frozenset({"<|end_of_text|>"}),
        generation={"bos_token_id": 128000, "eos_token_id": 128001},
        config={"bos_token_id": 128000, "eos_token_id": 128001},
        tokenizer={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    ),
    # https://huggingface.co/meta-llama/Llama-2-7b-chat-hf
    "Llama-2-7b-chat-hf": Variant(
        family="llama2",
        special=LLAMA2,
        bos=1,
        ends=frozenset({"</s>"}),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        config={"bos_token_id": 1, "eos_token_id": 2},
        tokenizer={"bos_token": "<s>", "eos_token": "</s>", "chat_template": BRACKETS},
        prompt="<s>[INST] Hi [/INST]",
    ),
    # https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct/blob/main/generation_config.json
    "Qwen2.5-0.5B-Instruct": Variant(
        family="qwen2_5",
        special=QWEN,
        bos=151643,
        ends=frozenset({"<|im_end|>", "<|endoftext|>"}),
        generation={"bos_token_id": 151643, "eos_token_id": [151645, 151643]},
        config={"bos_token_id": 151643, "eos_token_id": 151645},
        tokenizer={"bos_token": None, "eos_token": "<|im_end|>", "chat_template": CHATML},
        prompt="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Qwen2.5-0.5B": Variant(
        family="qwen2_5",
        special=QWEN,
        bos=151643,
        ends=frozenset({"<|endoftext|>"}),
        generation={"bos_token_id": 151643, "eos_token_id": 151643},
        config={"bos_token_id": 151643, "eos_token_id": 151643},
        tokenizer={"bos_token": None, "eos_token": "<|endoftext|>"},
    ),
    # https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/generation_config.json
    "Qwen3-0.6B": Variant(
        family="qwen3",
        special=QWEN,
        bos=151643,
        ends=frozenset({"<|im_end|>", "<|endoftext|>"}),
        generation={"bos_token_id": 151643, "eos_token_id": [151645, 151643]},
        config={"bos_token_id": 151643, "eos_token_id": 151645},
        tokenizer={"bos_token": None, "eos_token": "<|im_end|>", "chat_template": CHATML},
        prompt="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Qwen3-0.6B-Base": Variant(
        family="qwen3",
        special=QWEN,
        bos=151643,
        ends=frozenset({"<|endoftext|>"}),
        generation={"bos_token_id": 151643, "eos_token_id": 151643},
        config={"bos_token_id": 151643, "eos_token_id": 151643},
        tokenizer={"bos_token": None, "eos_token": "<|endoftext|>"},
    ),
    # https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/generation_config.json
    "Phi-3-mini-4k-instruct": Variant(
        family="phi_3",
        special=PHI3,
        swallows=True,
        bos=1,
        ends=frozenset({"<|end|>", "<|assistant|>", "<|endoftext|>"}),
        generation={"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007]},
        config={"bos_token_id": 1, "eos_token_id": 32000},
        tokenizer={"bos_token": "<s>", "eos_token": "<|endoftext|>", "chat_template": LINES},
        prompt="<|user|>\nHi<|end|>\n<|assistant|>\n",
    ),
    # https://huggingface.co/microsoft/Phi-3.5-mini-instruct/blob/main/generation_config.json
    "Phi-3.5-mini-instruct": Variant(
        family="phi_3_5",
        special=PHI3,
        swallows=True,
        bos=1,
        ends=frozenset({"<|end|>", "<|assistant|>", "<|endoftext|>"}),
        generation={"bos_token_id": 1, "eos_token_id": [32007, 32001, 32000]},
        config={"bos_token_id": 1, "eos_token_id": 32000},
        tokenizer={"bos_token": "<s>", "eos_token": "<|endoftext|>", "chat_template": LINES},
        prompt="<|user|>\nHi<|end|>\n<|assistant|>\n",
    ),
    # https://huggingface.co/microsoft/Phi-4-mini-instruct/blob/main/generation_config.json
    "Phi-4-mini-instruct": Variant(
        family="phi_4_mini",
        special=PHI4,
        bos=199999,
        ends=frozenset({"<|end|>", "<|endoftext|>"}),
        generation={"bos_token_id": 199999, "eos_token_id": [200020, 199999]},
        config={"bos_token_id": 199999, "eos_token_id": 199999},
        tokenizer={
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "chat_template": NO_LINES,
        },
        prompt="<|user|>Hi<|end|><|assistant|>",
    ),
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/generation_config.json
    "SmolLM2-135M-Instruct": Variant(
        family="smollm2",
        special=SMOLLM2,
        bos=1,
        ends=frozenset({"<|im_end|>"}),
        generation={"bos_token_id": 1, "eos_token_id": 2},
        config={"bos_token_id": 1, "eos_token_id": 2},
        tokenizer={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML},
        prompt="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M/blob/main/generation_config.json
    "SmolLM2-135M": Variant(
        family="smollm2",
        special=SMOLLM2,
        bos=0,
        ends=frozenset({"<|endoftext|>"}),
        generation={"bos_token_id": 0, "eos_token_id": 0},
        config={"bos_token_id": 0, "eos_token_id": 0},
        tokenizer={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    ),
}
CHATTING = {name: each for name, each in VARIANTS.items() if each.prompt is not None}
