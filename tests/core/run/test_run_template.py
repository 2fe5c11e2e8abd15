"""Chat templates render as Hugging Face's tokenizers render them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llmx.errors import UserError
from llmx.run.template import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
QUESTION = {"role": "user", "content": 'Grüße, "you" <b>&</b>\n🙂'}
CONVERSATION = [
    {"role": "system", "content": "Be brief. "},
    QUESTION,
    {"role": "assistant", "content": " Hello!"},
    {"role": "user", "content": "And now?"},
]

TURN_MARKS = """
{%- if messages[0]['role'] != 'system' %}
    {{- '<|start|>system\\nYou help.<|end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {{- '<|start|>' + message['role'] + '\\n' + message['content'] | trim + '<|end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|start|>assistant\\n' }}
{% endif %}
"""
HEADERS = """
{{- bos_token }}
{%- set loop_messages = messages %}
{%- if tools is not none and tools %}{{ raise_exception('no tools') }}{% endif %}
{%- for message in loop_messages %}
    {%- set content = '<|header|>' + message['role'] + '<|/header|>\\n\\n' + message['content'] %}
    {{- content + '<|turn|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\\n\\n' }}{% endif %}
"""
TAGS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
NAMESPACES = """
{%- set ns = namespace(seen=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- if ns.seen > 2 %}{% break %}{% endif %}
    {{- message | tojson }}{{ message | tojson(indent=2) }}
    {%- generation %}[{{ message.content[::-1] }}]{% endgeneration %}
{%- endfor %}
{{- pad_token }}{{ strftime_now('%Y') | length }}
"""


def hugging_face(template: str, messages: list[dict[str, str]]) -> str:
    backend = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS)
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("messages", [[QUESTION], CONVERSATION], ids=["question", "conversation"])
@pytest.mark.parametrize(
    "template",
    [TURN_MARKS, HEADERS, TAGS, NAMESPACES],
    ids=["turn marks", "headers", "tags", "namespaces"],
)
def test_it_renders_what_hugging_face_renders(
    template: str, messages: list[dict[str, str]]
) -> None:
    assert ChatTemplate(template, TOKENS).render(messages) == hugging_face(template, messages)


def test_text_is_not_escaped_for_html() -> None:
    assert '"you" <b>&</b>' in ChatTemplate(TAGS, TOKENS).render([QUESTION])


def test_a_token_that_the_model_lacks_renders_as_nothing() -> None:
    assert ChatTemplate("{{ bos_token }}x", {}).render([QUESTION]) == "x"


def test_a_broken_template_is_reported_with_its_line() -> None:
    with pytest.raises(UserError, match="line 2: ") as error:
        ChatTemplate("fine\n{% if %}", {})
    assert error.value.remedy


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role here') }}", "no system role here"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ missing.attribute }}", "'missing' is undefined"),
    ],
)
def test_a_template_that_refuses_says_why(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ChatTemplate(template, {}).render([QUESTION])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(UserError, match=r"unsafe|not safely callable|undefined"):
        ChatTemplate(attack, {}).render([QUESTION])
