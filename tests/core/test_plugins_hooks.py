"""A plugin whose functions would not be called as its author thinks is refused by name."""

from __future__ import annotations

import inspect

import pytest

from llmx.errors import PluginError
from llmx.hookspecs import BackendSpec, FamilySpec
from llmx.plugins import load

BASE = """
from llmx import hookimpl
@hookimpl
def sizes(): return {}
@hookimpl
def convert_weights(checkpoint, params): return []
@hookimpl
def token_ids(checkpoint): return None
"""


@pytest.fixture
def loaded(live_site):
    def load_source(source: str, attribute: str = ""):
        live_site.install("llmx-plugin-odd", source, families=("odd",), attribute=attribute)
        return load("odd", None)

    return load_source


def test_unknown_hook_names_plugin_function_and_nearest_hook(loaded):
    with pytest.raises(PluginError) as caught:
        loaded(BASE + "@hookimpl\ndef token_idz(checkpoint): return None\n")
    assert "odd (llmx-plugin-odd 1.0): token_idz is not a hook" in caught.value.message
    assert "did you mean token_ids?" in caught.value.message


def test_hook_of_the_other_kind_says_so(loaded):
    with pytest.raises(PluginError, match=r"partitioners is a hook of the group llmx\.backends"):
        loaded(BASE + "@hookimpl\ndef partitioners(job): return []\n")


def test_unknown_argument_names_the_nearest(loaded):
    with pytest.raises(PluginError, match="hub_repo takes an unknown argument sise, did you mean"):
        loaded(BASE + "@hookimpl\ndef hub_repo(sise): return None\n")


def test_argument_with_a_default_would_never_be_passed(loaded):
    with pytest.raises(PluginError, match="gives its argument size a default value"):
        loaded(BASE + "@hookimpl\ndef hub_repo(size=None): return None\n")


def test_a_module_that_hides_a_hook_is_refused(loaded):
    with pytest.raises(PluginError, match="the module sizes hides the hook of that name"):
        loaded(BASE + "import json as sizes\n")


def test_missing_required_hooks_are_named(loaded):
    source = "from llmx import hookimpl\n@hookimpl\ndef sizes(): return {}\n"
    with pytest.raises(PluginError, match="does not implement convert_weights, token_ids"):
        loaded(source)


def test_unmarked_functions_are_no_implementations(loaded):
    with pytest.raises(PluginError) as caught:
        loaded(BASE.replace("@hookimpl\ndef sizes", "def sizes"))
    assert "does not implement sizes" in caught.value.message
    assert "@llmx.hookimpl" in caught.value.remedy


def test_backend_without_partitioners_is_refused(live_site):
    source = "from llmx import hookimpl\n@hookimpl\ndef options(): return object\n"
    live_site.install("llmx-backend-odd", source, backends=("odd",))
    with pytest.raises(PluginError, match="does not implement partitioners"):
        load(None, "odd")


def test_an_object_can_be_a_plugin(loaded):
    source = (
        "from llmx import hookimpl\nclass Family:\n"
        "    @hookimpl\n    def sizes(self): return {'1b': None}\n"
        "    @hookimpl\n    def convert_weights(self): return []\n"
        "    @hookimpl\n    def token_ids(self): return None\n"
        "family = Family()\n"
    )
    assert loaded(source, "family").family.sizes() == {"1b": None}


def test_a_class_is_not_a_plugin(loaded):
    with pytest.raises(PluginError, match="names the class Family"):
        loaded("class Family: pass\n", "Family")


def test_a_missing_attribute_is_an_import_failure(loaded):
    with pytest.raises(PluginError, match="cannot be imported: AttributeError"):
        loaded(BASE, "nothing_here")


def test_a_family_may_leave_an_answer_to_core(live_site):
    source = BASE + "@hookimpl\ndef default_backend(): return None\n"
    live_site.install("llmx-plugin-odd", source, families=("odd",))
    live_site.backend("fast")
    assert "fast" in str(load("odd", "fast").backend_source)


@pytest.mark.parametrize("spec", [FamilySpec, BackendSpec])
def test_every_hook_says_when_it_is_called(spec):
    hooks = [each for each in vars(spec).values() if hasattr(each, "llmx_spec")]
    assert len(hooks) > 5
    for hook in hooks:
        assert "When:" in inspect.getdoc(hook), hook.__name__
