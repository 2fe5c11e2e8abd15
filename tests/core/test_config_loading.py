"""A job said in files, flags and overrides: what wins, what is refused, and in which words."""

from __future__ import annotations

import json

import pytest

from llmx.config import ExportJob, load_job
from llmx.errors import ConfigError, LlmxError, PluginError


@pytest.fixture(autouse=True)
def plugins(live_site, monkeypatch):
    live_site.family("tiny3")
    live_site.backend("fast")
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "tiny3,fast,other,exotic")
    return live_site


def resolve(*overrides: str, **arguments):
    return load_job(family="tiny3", overrides=overrides, **arguments).job


def refusal(*overrides: str, **arguments) -> LlmxError:
    with pytest.raises(LlmxError) as caught:
        resolve(*overrides, **arguments)
    return caught.value


# Where a job starts


def test_without_a_file_a_job_starts_from_the_default_recipe():
    job = resolve()
    assert job.recipe == "default"
    assert job.backend.name == "fast"
    assert job.backend.options.enabled
    assert (job.model.use_kv_cache, job.quantization.qmode) == (True, "8da4w")
    assert job.export.max_context_length is None


def test_with_a_file_a_job_starts_from_the_plain_defaults(write):
    job = resolve(config=write("debug: {verbose: True}"))
    assert job.recipe is None
    assert job.backend.name is None
    assert (job.model.use_kv_cache, job.quantization.qmode) == (False, None)
    assert (job.export.max_seq_length, job.export.max_context_length) == (128, 128)
    assert job.debug.verbose


def test_an_empty_file_means_the_plain_defaults(write):
    assert (
        resolve(config=write("# nothing yet\n")).to_dict()
        == resolve(config=write("base:\n")).to_dict()
    )


def test_a_file_can_name_a_recipe(write):
    job = resolve(config=write("recipe: exact\nexport: {max_seq_length: 64}"))
    assert (job.recipe, job.backend.name) == ("exact", "fast")
    assert (job.model.use_kv_cache, job.quantization.qmode) == (True, None)
    assert (job.export.max_seq_length, job.export.max_context_length) == (64, None)


def test_an_unknown_recipe_lists_the_recipes():
    error = refusal(recipe="exakt")
    assert error.message == "no recipe 'exakt' of fast, did you mean exact?"
    assert error.remedy == "recipes: default, exact"


def test_without_a_backend_core_has_a_default_recipe():
    job = resolve(settings={"backend": "none"})
    assert job.backend.name is None
    assert job.model.use_kv_cache
    assert job.quantization.qmode is None


# Later wins


def test_overrides_win_over_flags_and_flags_over_the_file(write):
    file = write("export: {max_seq_length: 8, max_context_length: 16, output_name: file}")
    job = resolve(
        "export.max_seq_length=12",
        config=file,
        settings={"export.max_seq_length": 10, "export.output_name": "flag"},
    )
    assert job.export.max_seq_length == 12
    assert job.export.output_name == "flag"
    assert job.export.max_context_length == 16


@pytest.mark.parametrize("word", ["base.size=1.7b", "+base.size=1.7b", "++base.size=1_7b"])
def test_overrides_may_have_the_older_tools_plus(word):
    assert resolve(word).base.size == "1.7b"


def test_origins_tell_who_set_each_key(write):
    file = write("\nmodel:\n  dtype_override: bf16\n")
    resolved = load_job(family="tiny3", config=file, overrides=["debug.verbose=true"])
    assert resolved.origins["model.dtype_override"] == f"{file}, line 3"
    assert resolved.origins["debug.verbose"] == "the command line"


def test_saying_no_quantization_drops_the_recipes_group_size():
    assert resolve("quantization.qmode=none").quantization.group_size is None
    error = refusal("quantization.qmode=none", "quantization.group_size=32")
    assert "quantization.group_size 32 needs quantization.qmode" in error.message


# Families and sizes


@pytest.mark.parametrize(
    ("model_class", "size"), [("tiny3", None), ("tiny3_0_6b", "0.6b"), ("Tiny-3-1.7B", "1.7b")]
)
def test_model_class_is_family_and_size(write, model_class, size):
    job = load_job(config=write(f"base: {{model_class: {model_class}}}")).job
    assert (job.base.model_class, job.base.size) == ("tiny3", size)


def test_a_size_on_the_command_line_wins_over_the_files(write):
    file = write("base: {model_class: tiny3, size: 0.6b}")
    assert load_job(config=file, family="tiny3_1_7b").job.base.size == "1.7b"
    assert load_job(config=file, settings={"base.size": "1.7b"}).job.base.size == "1.7b"


def test_two_sizes_in_one_place_contradict(write):
    with pytest.raises(ConfigError, match=r"names the size 0\.6b, base\.size names 1\.7b"):
        load_job(config=write("base: {model_class: tiny3_0_6b, size: 1.7b}"))


def test_an_unknown_size_lists_the_sizes():
    assert refusal("base.size=9b").remedy == "sizes: 0.6b, 1.7b"


def test_a_longer_family_name_that_is_not_installed_is_not_a_size():
    with pytest.raises(PluginError) as caught:
        load_job(family="tiny3_2")
    assert "unknown family 'tiny3_2'; tiny3 is installed, but has no size '2'" in str(caught.value)
    assert "pip install llmx-plugin-tiny" in str(caught.value)


def test_no_family_at_all_lists_the_installed():
    with pytest.raises(ConfigError) as caught:
        load_job()
    assert caught.value.remedy.startswith("name one of: tiny3; or give --checkpoint")


# Backends


def test_enabled_selects_a_backend_and_sets_its_options(write):
    file = write("backend: {fast: {enabled: True, extended_ops: True, device: gpu}}")
    backend = resolve(config=file).backend
    assert backend.name == "fast"
    assert (backend.options.extended_ops, backend.options.device) == (True, "gpu")


def test_a_backend_by_name_replaces_the_files(write, plugins):
    plugins.backend("other", distribution="llmx-backend-other")
    file = write("backend: {other: {enabled: True}}")
    assert resolve(config=file, settings={"backend": "FAST"}).backend.name == "fast"


def test_two_enabled_backends_are_refused(write, plugins):
    plugins.backend("other", distribution="llmx-backend-other")
    error = refusal(config=write("backend: {fast: {enabled: true}, other: {enabled: true}}"))
    assert error.message == "two backends are enabled: fast and other"


def test_switched_off_sections_are_accepted_but_checked(write):
    file = write("backend:\n  fast: {enabled: false, ios: 17}\n  absent: {enabled: false}\n")
    assert resolve(config=file).backend.name is None
    error = refusal(config=write("backend: {fast: {enabled: false, iso: 17}}"))
    assert error.message == "unknown key backend.fast.iso, did you mean backend.fast.ios?"


def test_options_of_an_unselected_backend_are_not_ignored(write):
    error = refusal(config=write("backend: {fast: {ios: 17}}"))
    assert error.message.startswith("backend.fast.ios is set, but the backend fast is not selected")
    assert error.remedy.startswith("add backend.fast.enabled=true")


def test_a_backend_that_is_not_installed_names_its_package(write):
    error = refusal(config=write("backend: {absent: {enabled: true}}"))
    assert "unknown backend 'absent'" in error.message
    assert "pip install llmx-backend-absent" in error.remedy


def test_several_backends_leave_the_choice_to_the_user(plugins):
    plugins.backend("other", distribution="llmx-backend-other")
    error = refusal()
    assert (error.message, error.remedy) == (
        "no backend is named",
        "use --backend NAME, one of: fast, other",
    )


def test_a_backends_own_refusal_keeps_its_words(plugins):
    source = (
        "from attrs import field, frozen, validators\nfrom llmx import hookimpl\n"
        "@frozen\nclass Options:\n"
        "    level: int = field(default=1, validator=validators.le(3))\n"
        "@hookimpl\ndef options(): return Options\n"
        "@hookimpl\ndef partitioners(): return []\n"
    )
    plugins.install("llmx-backend-exotic", source, backends=("exotic",))
    assert (
        resolve("backend.exotic.enabled=true", "backend.exotic.level=2").backend.options.level == 2
    )
    error = refusal("backend.exotic.enabled=true", "backend.exotic.level=4")
    assert error.message.startswith("backend.exotic: 'level' must be <= 3")


# Values


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.use_kv_cache=maybe", "model.use_kv_cache: expected true or false, got 'maybe'"),
        ("model.use_kv_cache=", "model.use_kv_cache: expected true or false, got nothing"),
        ("export.max_seq_length=1.5", "expected a whole number or none, got '1.5'"),
        ("export.max_seq_length=true", "expected a whole number or none, got 'true'"),
        ("model.dtype_override=fp8", "expected one of fp32, fp16, bf16, got 'fp8'"),
        ("base.checkpoint=[a, b]", "base.checkpoint: expected text or none, got ['a', 'b']"),
        ("backend.fast.device=tpu", "expected one of cpu, gpu, got 'tpu'"),
    ],
)
def test_values_of_the_wrong_type(word, message):
    error = refusal(word)
    assert message in error.message
    assert error.message.endswith("(from the command line)")


def test_a_wrong_value_in_a_file_says_where(write):
    file = write("model:\n  use_kv_cache: maybe\n")
    assert refusal(config=file).message == (
        f"model.use_kv_cache: expected true or false, got 'maybe' (from {file}, line 2)"
    )


@pytest.mark.parametrize(
    ("text", "value"), [("135", "135"), ("1.70", "1.70"), ("no", "no"), ("'null'", "null")]
)
def test_text_stays_as_it_was_written(write, text, value):
    assert resolve(f"base.revision={text}").base.revision == value
    assert resolve(config=write(f"base: {{revision: {text}}}")).base.revision == value


@pytest.mark.parametrize("nothing", ["null", "none", "~", ""])
def test_none_can_be_said(write, nothing):
    assert resolve(f"export.max_seq_length={nothing}").export.max_seq_length is None
    assert resolve(config=write(f"quantization: {{qmode: {nothing}}}")).quantization.qmode is None


@pytest.mark.parametrize("truth", ["True", "true", "yes"])
def test_yaml_truth_values(truth):
    assert resolve(f"debug.verbose={truth}").debug.verbose is True


def test_a_word_without_equals_is_no_override():
    assert refusal("model.use_kv_cache").message == "'model.use_kv_cache' is not KEY=VALUE"


# Unknown keys


def test_unknown_keys_name_the_nearest_and_the_place(write):
    file = write("base:\n  chekpoint: x\n")
    error = refusal(config=file)
    assert error.message == "unknown key base.chekpoint, did you mean base.checkpoint?"
    assert error.remedy == f"it comes from {file}, line 2"


@pytest.mark.parametrize("word", ["use_kv_cache=true", "modle.use_kv_cache=true"])
def test_a_missing_or_misspelt_section_is_suggested(word):
    assert "did you mean model.use_kv_cache?" in refusal(word).message


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "does not hold a mapping"),
        (b"model: {use_kv_cache: true\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"model: 3\n", "model: expected a mapping of options"),
        (b"base: {metadata: !!python/object:os.system {}}\n", "cannot read a value"),
        (b"a: 1\n---\nb: 2\n", "is not YAML"),
        (b"? [a]\n: 1\n", "a key must be a name"),
        (b"\x00\x01\x02", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    error = refusal(config=path)
    assert isinstance(error, ConfigError)
    assert message in error.message
    assert "\n" not in error.message


def test_a_missing_file(tmp_path):
    assert (
        refusal(config=tmp_path / "no.yaml").message == f"no such config file: {tmp_path}/no.yaml"
    )


def test_a_folder_is_not_a_config_file(tmp_path):
    assert "cannot read" in refusal(config=tmp_path).message


@pytest.mark.parametrize(
    "text",
    [
        "model:\n  use_kv_cache: true\n  use_kv_cache: false\n",
        "model: {use_kv_cache: true}\nmodel.use_kv_cache: true\n",
    ],
)
def test_a_key_that_is_set_twice_is_refused(write, text):
    error = refusal(config=write(text))
    assert error.message == "model.use_kv_cache is set twice"
    assert "line" in error.remedy


# The job as data


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("backend.fast.enabled=false",),
        ("backend.fast.ios=18", "base.size=0.6b", "quantization.qmode=none"),
        ('base.metadata={"get_bos_id": 7, "get_eos_ids": [1, 2]}', "base.revision='none'"),
    ],
)
@pytest.mark.parametrize("name", ["job.json", "llmx.json"])
def test_a_stored_job_gives_the_same_job_again(tmp_path, overrides, name):
    job = resolve(*overrides)
    stored = tmp_path / name
    stored.write_text(
        json.dumps({"config": job.to_dict()} if name == "llmx.json" else job.to_dict())
    )
    assert load_job(config=stored).job == job


def test_the_stored_job_keeps_the_schemas_order():
    assert list(resolve().to_dict()) == [
        "base", "model", "export", "quantization", "backend", "debug", "multimethod", "recipe",
    ]  # fmt: skip


def test_jobs_are_made_in_python_by_field_name():
    job = ExportJob.create(
        "tiny3", size="1.7b", qmode=None, backend="fast", **{"backend.fast.ios": 18}
    )
    assert (job.base.size, job.quantization.qmode) == ("1.7b", None)
    assert job.backend.options.ios == 18
    with pytest.raises(ConfigError, match="unknown option qmod, did you mean qmode"):
        ExportJob.create("tiny3", qmod=None)
