"""An exported model completes texts and answers messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmx.errors import ArtifactError, UserError
from llmx.run.generate import TextGenerator
from llmx.run.sampling import Sampling

from .conftest import CONTEXT, END, START, Model

Ids = Callable[[str], list[int]]
Recite = Callable[..., Path]
MakeArtifact = Callable[..., Path]


def test_characters_spread_over_tokens_arrive_whole(
    recite: Recite, tokenizer_file: Path, ids: Ids
) -> None:
    answer = "é, 日本 🙂!"
    program = recite([*ids(answer), END], after=len(ids("hi")))
    shown: list[str] = []
    generation = TextGenerator(program, tokenizer_file).complete("hi", on_text=shown.append)
    assert generation.text == "".join(shown) == answer
    assert "🙂" in shown
    assert generation.generated_tokens == len(ids(answer)) > len(shown)
    assert generation.stop_reason == "end"


def test_a_character_that_the_end_cuts_off_is_marked(
    recite: Recite, tokenizer_file: Path, ids: Ids
) -> None:
    program = recite([*ids("ok🙂")[:-1], END], after=len(ids("hi")))
    assert TextGenerator(program, tokenizer_file).complete("hi").text == "ok\ufffd"


def test_special_tokens_do_not_show(recite: Recite, tokenizer_file: Path, ids: Ids) -> None:
    program = recite([*ids("a"), START, *ids("b"), END], after=len(ids("hi")))
    assert TextGenerator(program, tokenizer_file).complete("hi").text == "ab"


def test_the_figures_are_those_of_the_run(decoder: Model, tokenizer_file: Path, ids: Ids) -> None:
    generation = TextGenerator(decoder.program, tokenizer_file).complete("hello", max_new_tokens=5)
    assert generation.prompt_tokens == len(ids("hello"))
    assert generation.generated_tokens == 5
    assert generation.cached_tokens == 0
    assert generation.first_token_seconds > 0
    assert generation.prefill_rate == pytest.approx(
        generation.prompt_tokens / generation.first_token_seconds
    )
    assert generation.decode_rate is not None
    assert generation.decode_rate > 0
    assert generation.stop_reason == "max_new_tokens"


def test_messages_are_rendered_by_the_artifacts_template(
    recite: Recite, artifact: MakeArtifact, ids: Ids
) -> None:
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    folder = artifact(recite([*ids("yes"), END], after=len(ids(rendered))))
    generation = TextGenerator.open(folder).reply([{"role": "user", "content": "hi"}])
    assert generation.text == "yes"
    assert generation.prompt_tokens == len(ids(rendered))


def test_the_template_knows_the_special_tokens(recite: Recite, artifact: MakeArtifact) -> None:
    one_end = recite([END], after=1, get_eos_ids=[END])
    folder = artifact(one_end, template="{{ bos_token }}{{ eos_token }}")
    template = TextGenerator.open(folder).template
    assert template is not None
    assert template.render([]) == "<|im_start|><|im_end|>"


def test_the_manifest_says_which_of_several_ends_is_the_eos_token(
    recite: Recite, artifact: MakeArtifact
) -> None:
    folder = artifact(
        recite([END], after=1),
        template="{{ eos_token }}",
        special_tokens={"eos_token": "<|endoftext|>"},
    )
    template = TextGenerator.open(folder).template
    assert template is not None
    assert template.render([]) == "<|endoftext|>"


def test_the_publishers_sampling_is_the_default(recite: Recite, artifact: MakeArtifact) -> None:
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20}
    folder = artifact(recite([END], after=1), sampling=sampling)
    assert TextGenerator.open(folder).sampling == Sampling(temperature=0.7, top_k=20)


def test_a_stop_string_ends_the_answer_and_does_not_show(
    recite: Recite, tokenizer_file: Path, ids: Ids
) -> None:
    program = recite([*ids("one. two. three"), END], after=len(ids("hi")))
    shown: list[str] = []
    generation = TextGenerator(program, tokenizer_file).complete(
        "hi", stop=["nowhere", ". t"], on_text=shown.append
    )
    assert generation.text == "".join(shown) == "one"
    assert generation.stop_reason == "stop"


def test_what_only_begins_like_a_stop_string_shows(
    recite: Recite, tokenizer_file: Path, ids: Ids
) -> None:
    program = recite([*ids("one. tw"), END], after=len(ids("hi")))
    generation = TextGenerator(program, tokenizer_file).complete("hi", stop=[". two"])
    assert (generation.text, generation.stop_reason) == ("one. tw", "end")


def test_a_model_without_template_only_completes(decoder: Model, artifact: MakeArtifact) -> None:
    generator = TextGenerator.open(artifact(decoder.program, template=None))
    assert generator.complete("hi", max_new_tokens=2).generated_tokens == 2
    with pytest.raises(UserError, match="no chat template"):
        generator.reply([{"role": "user", "content": "hi"}])


def test_a_bare_program_needs_a_tokenizer(decoder: Model, tokenizer_file: Path) -> None:
    with pytest.raises(ArtifactError, match="no tokenizer") as error:
        TextGenerator.open(decoder.program)
    assert "--tokenizer" in str(error.value.remedy)
    assert TextGenerator.open(decoder.program, tokenizer_file).context_length == CONTEXT


def test_an_artifact_without_tokenizer_asks_for_one(decoder: Model, artifact: MakeArtifact) -> None:
    folder = artifact(decoder.program, tokenizer=None)
    with pytest.raises(ArtifactError, match="without a tokenizer") as error:
        TextGenerator.open(folder)
    assert "--tokenizer" in str(error.value.remedy)


@pytest.mark.parametrize("name", ["absent", "absent.pte"])
def test_a_missing_model_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=name):
        TextGenerator.open(tmp_path / name)


def test_another_models_tokenizer_is_refused(recite: Recite, tokenizer_file: Path) -> None:
    program = recite([END], after=1, get_vocab_size=100)
    with pytest.raises(ArtifactError, match=r"tokens, but .* knows only 100"):
        TextGenerator(program, tokenizer_file)


@pytest.mark.parametrize("text", ["", "\udcff"], ids=["empty", "not UTF-8"])
def test_a_prompt_that_is_no_text_is_refused(
    decoder: Model, tokenizer_file: Path, text: str
) -> None:
    with pytest.raises(UserError):
        TextGenerator(decoder.program, tokenizer_file).complete(text)
