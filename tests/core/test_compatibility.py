"""A plugin's requirement of llmx-core says which versions of llmx it works with."""

from __future__ import annotations

import warnings

import pytest
from tests.core.conftest import FAMILY, Site

from llmx import compatibility
from llmx.compatibility import LlmxDeprecationWarning
from llmx.errors import PluginError
from llmx.plugins import load


@pytest.fixture
def load_requiring(live_site: Site, monkeypatch: pytest.MonkeyPatch):
    """Load a family with that requirement into that version of llmx."""

    def load_it(requirement: str, version: str) -> None:
        live_site.install("llmx-plugin-tiny", FAMILY, families=("tiny",), requires=requirement)
        monkeypatch.setattr(compatibility, "__version__", version)
        assert load("tiny", None).family.sizes()

    return load_it


@pytest.mark.parametrize(
    ("requirement", "version"),
    [
        ("llmx-core", "3.0.0"),
        ("llmx-core~=0.1", "0.1.0"),
        ("llmx-core~=0.1", "0.7.3"),
        ("llmx_core>=1.2,<2", "1.9.0.dev4"),
        ("llmx-core[testing]>=9; extra == 'test'", "0.1.0"),
        ("torch>=9", "0.1.0"),
    ],
)
def test_a_plugin_for_this_or_an_older_minor_version_loads(load_requiring, requirement, version):
    load_requiring(requirement, version)


@pytest.mark.parametrize(
    ("requirement", "version", "outdated"),
    [
        ("llmx-core~=2.0", "1.4.0", "llmx-core"),
        ("llmx-core~=0.3", "0.1.0", "llmx-core"),
        ("llmx-core~=0.1", "1.0.0", "llmx-plugin-tiny"),
        ("llmx-core==0.1.*", "0.2.0", "llmx-plugin-tiny"),
    ],
)
def test_a_plugin_for_another_major_version_is_refused_in_a_line(
    load_requiring, requirement, version, outdated
):
    with pytest.raises(PluginError) as caught:
        load_requiring(requirement, version)
    made_for = requirement.removeprefix("llmx-core")
    assert caught.value.message == (
        f"family tiny (llmx-plugin-tiny 1.0) is made for llmx-core {made_for}, "
        f"and this is {version}"
    )
    assert caught.value.remedy == f"pip install --upgrade {outdated}"


def test_it_is_refused_before_it_is_imported(live_site: Site) -> None:
    source = "from llmx import what_llmx_2_has"
    live_site.install("llmx-plugin-tiny", source, families=("tiny",), requires="llmx-core~=2.0")
    with pytest.raises(PluginError, match=r"made for llmx-core ~=2\.0"):
        load("tiny", None)


def test_listings_say_that_it_is_refused(site: Site) -> None:
    site.install("llmx-plugin-tiny", FAMILY, families=("tiny",), requires="llmx-core~=2.0")
    result = site.llmx("plugins")
    assert result.returncode == 0
    assert "error: family tiny (llmx-plugin-tiny 1.0) is made for llmx-core ~=2.0" in result.stdout


def test_a_hooks_old_name_warns_once_with_the_new_one(live_site: Site) -> None:
    old = FAMILY + "\n@hookimpl\ndef gguf_pre_tokenizer(name): return {'type': 'Digits'}\n"
    live_site.install("llmx-plugin-tiny", old, families=("tiny",))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default", LlmxDeprecationWarning)
        load("tiny", None)
        hooks = load("tiny", None).family
    ours = [each for each in seen if issubclass(each.category, LlmxDeprecationWarning)]
    assert len(ours) == 1
    assert "use gguf_tokenizer" in str(ours[0].message)
    assert hooks.gguf_tokenizer(name="any") == {"pre_tokenizer": {"type": "Digits"}}
