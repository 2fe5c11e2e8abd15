"""Plugins are found by their metadata, and a job loads exactly the two that it names."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from llmx.errors import PluginError
from llmx.names import match_size, split_model_class
from llmx.plugins import BACKENDS, FAMILIES, find, installed, load

BROKEN = "raise RuntimeError('no such accelerator')"


def test_listing_imports_no_plugin(live_site):
    live_site.install("llmx-plugin-broken", BROKEN, families=("broken",), version="2.5")
    (plugin,) = [each for each in installed(FAMILIES) if each.name == "broken"]
    assert (plugin.distribution, plugin.version) == ("llmx-plugin-broken", "2.5")


@pytest.mark.parametrize("spelling", ["tiny3_2", "tiny3.2", "tiny-3.2", "Tiny32"])
def test_spellings_of_a_name_are_one(live_site, spelling):
    live_site.family("tiny3_2")
    assert find(FAMILIES, spelling).name == "tiny3_2"


def test_loading_gives_the_named_family_over_cores_defaults(live_site):
    live_site.family("tiny")
    plugins = load("tiny", None)
    assert list(plugins.family.sizes()) == ["0.6b", "1.7b"]
    assert plugins.family.hub_repo(size="1.7b") == "org/tiny-3"
    assert plugins.family.default_params(size=None).n_layers == 2


def test_loading_imports_nothing_else(site):
    site.family("tiny")
    site.install("llmx-plugin-broken", BROKEN, families=("broken",))
    site.backend("fast")
    code = "from llmx.plugins import load; print(load('tiny', 'fast').backend_source)"
    result = site.python("-c", code)
    assert result.stdout == "backend fast (llmx-backend-tiny 1.0)\n", result.stderr


def test_two_distributions_with_one_name_are_both_named(live_site):
    live_site.family("tiny3_2", distribution="llmx-plugin-one")
    live_site.family("tiny3.2", distribution="llmx-plugin-two")
    with pytest.raises(PluginError, match=r"llmx-plugin-one 1\.0 and llmx-plugin-two 1\.0"):
        load("tiny32", None)


def test_import_failure_is_reported_with_its_cause(live_site):
    live_site.install("llmx-plugin-broken", BROKEN, families=("broken",))
    live_site.family("tiny")
    with pytest.raises(
        PluginError, match=r"llmx-plugin-broken 1\.0.*no such accelerator"
    ) as caught:
        load("broken", None)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert load("tiny", None).family.sizes()


def test_unknown_family_names_the_installed_the_nearest_and_the_package(live_site):
    live_site.family("tiny3")
    with pytest.raises(PluginError) as caught:
        load("tinny4", None)
    assert "unknown family 'tinny4'" in caught.value.message
    assert "tiny3" in caught.value.message
    assert "did you mean tiny3?" in caught.value.remedy
    assert "usually comes with: pip install llmx-plugin-tinny" in caught.value.remedy


def test_a_package_that_is_there_is_not_to_be_installed(live_site):
    live_site.family("tiny3", distribution="llmx-plugin-tiny")
    with pytest.raises(PluginError) as caught:
        load("tiny4", None)
    assert caught.value.remedy == "did you mean tiny3?"


def test_unknown_backend_names_the_package():
    with pytest.raises(PluginError) as caught:
        load(None, "Turbo_Chip")
    assert "pip install llmx-backend-turbo-chip" in caught.value.remedy


def test_allow_list_limits_what_is_seen(live_site, monkeypatch):
    live_site.family("tiny", "huge")
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "huge, other")
    assert [plugin.name for plugin in installed(FAMILIES)] == ["huge"]
    with pytest.raises(PluginError, match="LLMX_LOAD_PLUGINS leaves it out"):
        load("tiny", None)


def test_empty_allow_list_allows_none(live_site, monkeypatch):
    live_site.family("tiny")
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "")
    assert installed(FAMILIES) == []
    assert installed(BACKENDS) == []


def test_tracing_shows_hook_calls_on_stderr(site):
    site.family("tiny")
    code = "from llmx.plugins import load; load('tiny', None).family.sizes()"
    result = site.python("-c", code, environment={"LLMX_TRACE_PLUGINS": "1"})
    assert "sizes" in result.stderr
    assert site.python("-c", code).stderr == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tiny3_0_6b", ("tiny3", "0_6b")),
        ("tiny3.1-8b", ("tiny3_1", "8b")),
        ("tiny3_1", ("tiny3_1", None)),
        ("TINY3", ("tiny3", None)),
        ("other_1b", ("other_1b", None)),
    ],
)
def test_model_class_holds_family_and_size(value, expected):
    assert split_model_class(value, ["tiny3", "tiny3_1"]) == expected


def test_size_hints_compare_without_separators():
    assert match_size("0_6b", ["0.6b", "1.7b"]) == "0.6b"


def test_a_package_installed_by_pip_is_found(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "llmx_plugin_pip.py").write_text(
        "from llmx import hookimpl\n"
        "@hookimpl\ndef sizes(): return {}\n"
        "@hookimpl\ndef convert_weights(checkpoint): return []\n"
        "@hookimpl\ndef token_ids(): return None\n"
    )
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "llmx-plugin-pip"\nversion = "3.1"\n'
        '[project.entry-points."llmx.families"]\npipped = "llmx_plugin_pip"\n'
    )
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    # The new environment sees this one's packages: llmx, hatchling and what they need.
    purelib = next(environment.glob("lib/python*/site-packages"))
    paths = [each for each in sys.path if each.endswith(("site-packages", "src"))]
    (purelib / "outer.pth").write_text("\n".join(paths))
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", source],
        check=True,
        timeout=120,
    )
    code = "from llmx.plugins import load; print(load('pipped', None).family_source)"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "family pipped (llmx-plugin-pip 3.1)\n"
