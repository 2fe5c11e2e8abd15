"""Listings answer at once, from metadata, and survive plugins that do not work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

BROKEN = "raise RuntimeError('no such accelerator')"
SHARE_OF_TORCH = 0.3  # of the time to import torch: about 0.35 s on a laptop
LISTINGS = (["--help"], ["models"], ["backends"], ["recipes"], ["plugins"])


@pytest.fixture(autouse=True)
def only_throwaways(monkeypatch):
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "tiny,broken,fast,doubled")


def processor_seconds(action: Callable[[], object]) -> float:
    """What the processes that ``action`` starts and waits for take of the processor."""
    before = os.times()
    action()
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


@pytest.fixture(scope="module")
def torch_seconds():
    command = [sys.executable, "-c", "import torch"]
    return min(processor_seconds(lambda: subprocess.run(command, check=True)) for _ in range(2))


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_listings_are_fast(site, arguments, monkeypatch, torch_seconds):
    monkeypatch.delenv("LLMX_LOAD_PLUGINS")
    site.family("tiny")
    site.backend("fast")
    best = min(processor_seconds(lambda: site.llmx(*arguments)) for _ in range(5))
    assert best < SHARE_OF_TORCH * torch_seconds


@pytest.mark.parametrize(
    "arguments", [*LISTINGS, ["models", "tiny"], ["config", "tiny"]], ids=" ".join
)
def test_listings_do_not_import_torch(site, arguments, monkeypatch):
    monkeypatch.delenv("LLMX_LOAD_PLUGINS")
    site.family("tiny")
    site.backend("fast")
    if arguments[0] == "config":
        arguments = [*arguments, "--backend", "fast"]
    probe = (
        "import sys; from llmx.cli import invoke; code = invoke(sys.argv[1:]);"
        "print('heavy:', [name for name in ('torch', 'executorch') if name in sys.modules], code)"
    )
    result = site.python("-c", probe, *arguments)
    assert result.stdout.splitlines()[-1] == "heavy: [] 0", result.stderr


def test_importing_llmx_does_not_import_torch(site):
    use = "llmx.hookimpl, llmx.ExportJob, llmx.WeightMap"
    code = f"import sys, llmx; {use}; print('torch' in sys.modules)"
    assert site.python("-c", code).stdout == "False\n"


def test_models_lists_name_distribution_and_version(site):
    site.family("tiny")
    assert site.llmx("models").stdout == "tiny   llmx-plugin-tiny 1.0\n"
    assert site.json("models") == [
        {"name": "tiny", "distribution": "llmx-plugin-tiny", "version": "1.0"}
    ]


def test_models_of_a_family_shows_its_sizes(site):
    site.family("tiny")
    assert site.json("models", "TINY")[1] == {
        "size": "1.7b",
        "parameters": 2296,
        "layers": 3,
        "context": 64,
        "hub_repo": "org/tiny-3",
        "config_url": "",
        "default": False,
    }
    shown = site.llmx("models", "tiny").stdout
    assert re.search(r"0\.6b \(default\) +1\.7K +2 +64 +org/tiny-2", shown)


def test_backends_of_a_name_shows_options_and_recipes(site):
    site.backend("fast")
    details = site.json("backends", "fast")
    assert {
        "key": "backend.fast.ios",
        "expected": "a whole number",
        "default": 15,
        "doc": "Oldest system.",
    } in details["options"]
    assert details["recipes"] == ["default", "exact"]
    shown = site.llmx("backends", "fast").stdout
    assert re.search(r"backend\.fast\.device +one of cpu, gpu +cpu", shown)
    assert "recipes: default, exact" in shown


def test_recipes_lists_every_backends_starting_points(site):
    site.backend("fast")
    assert re.search(r"fast +exact +As it is\.", site.llmx("recipes").stdout)
    listed = site.json("recipes")["fast"]["exact"]
    assert (listed["doc"], listed["settings"]["model.use_kv_cache"]) == ("As it is.", True)
    shown = site.llmx("recipes", "fast").stdout
    assert "recipe exact: As it is.\n  model.use_kv_cache=True" in shown


def test_nothing_installed_says_what_plugins_are_called(site, monkeypatch):
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "")
    assert "llmx-plugin-NAME" in site.llmx("models").stdout
    assert "llmx-backend-NAME" in site.llmx("backends").stdout
    assert site.json("models") == site.json("backends") == site.json("plugins") == []


def test_plugins_shows_hooks_and_what_is_broken(site):
    site.family("tiny")
    site.install("llmx-plugin-broken", BROKEN, families=("broken",))
    site.family("doubled", distribution="llmx-plugin-one")
    site.family("doubled", distribution="llmx-plugin-two")
    found = {(each["name"], each["distribution"]): each for each in site.json("plugins")}
    assert found["tiny", "llmx-plugin-tiny"]["hooks"] == ["convert_weights", "sizes", "token_ids"]
    assert found["tiny", "llmx-plugin-tiny"]["error"] is None
    assert "RuntimeError: no such accelerator" in found["broken", "llmx-plugin-broken"]["error"]
    assert "installed twice" in found["doubled", "llmx-plugin-one"]["error"]
    assert "installed twice" in found["doubled", "llmx-plugin-two"]["error"]
    shown = site.llmx("plugins").stdout
    assert "  hooks: convert_weights, sizes, token_ids\n" in shown
    assert "no such accelerator" in shown


def test_listings_survive_broken_and_doubled_plugins(site):
    site.install("llmx-plugin-broken", BROKEN, families=("broken",))
    site.family("doubled", distribution="llmx-plugin-one")
    site.family("doubled", distribution="llmx-plugin-two")
    result = site.llmx("models")
    assert result.returncode == 0
    assert "broken" in result.stdout
    assert result.stdout.count("installed twice") == 2


# How errors look


def test_an_error_is_one_line_and_a_remedy(site):
    site.family("tiny")
    result = site.llmx("models", "tinny")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: unknown family 'tinny' (installed: tiny)\n"
        "  did you mean tiny? If not, tinny usually comes with: pip install llmx-plugin-tinny\n"
    )


def test_debug_shows_the_traceback_of_an_error(site):
    result = site.llmx("models", "nobody", "--debug")
    assert "Traceback" in result.stderr
    assert "PluginError" in result.stderr


def test_an_unforeseen_error_is_one_line_too(site):
    source = (
        "from llmx import hookimpl\n"
        "@hookimpl\ndef sizes(): raise ZeroDivisionError('by zero\\nand more')\n"
        "@hookimpl\ndef convert_weights(): return []\n"
        "@hookimpl\ndef token_ids(): return None\n"
    )
    site.install("llmx-plugin-tiny", source, families=("tiny",))
    result = site.llmx("models", "tiny")
    assert result.returncode == 1
    assert result.stderr == (
        "internal error: ZeroDivisionError: by zero\n  run again with --debug for the traceback\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modles"], "error: no command 'modles', did you mean models?"),
        (["models", "--jsn"], "error: No such option"),
        (["--verison"], "error: No such option"),
    ],
)
def test_usage_errors_look_the_same(site, arguments, message):
    result = site.llmx(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(message)


def test_interrupting_is_quiet(site):
    source = (
        "from llmx import hookimpl\n"
        "@hookimpl\ndef sizes(): raise KeyboardInterrupt\n"
        "@hookimpl\ndef convert_weights(): return []\n"
        "@hookimpl\ndef token_ids(): return None\n"
    )
    site.install("llmx-plugin-tiny", source, families=("tiny",))
    result = site.llmx("models", "tiny")
    assert result.returncode == 130
    assert result.stderr.strip() == ""


def test_a_closed_pipe_is_quiet(site):
    site.family("tiny")
    code = (
        "import os, subprocess, sys\n"
        "for arguments in (['models'], ['models', 'tiny'], ['config', '--help']):\n"
        "    read, write = os.pipe(); os.close(read)\n"
        "    script = 'from llmx.cli import main; main()'\n"
        "    done = subprocess.run([sys.executable, '-c', script, *arguments], stdout=write,\n"
        "                          stderr=subprocess.PIPE)\n"
        "    os.close(write); sys.stderr.buffer.write(done.stderr)\n"
    )
    assert site.python("-c", code).stderr == ""


def test_no_colour_codes_in_a_pipe(site):
    site.family("tiny")
    forced = {"TERM": "xterm-256color"}
    assert "\x1b" not in site.llmx("models", "tiny", environment=forced).stdout
    assert "\x1b" not in site.llmx("models", "nobody", environment=forced).stderr


def test_version(site):
    assert re.fullmatch(r"llmx, version \d+\.\d+\.\d+\n", site.llmx("--version").stdout)


VARIABLES = ("OMP_WAIT_POLICY", "MKL_NUM_THREADS")
THREADS = f"""
import atexit, os, sys
from llmx.cli import main
atexit.register(lambda: print([os.environ.get(each) for each in {VARIABLES}]))
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "given", "used"),
    [
        (["export", "--help"], {}, ["PASSIVE", None]),
        (["run", "--help"], {}, ["PASSIVE", "1"]),
        (["--debug", "bench", "--help"], {}, ["PASSIVE", "1"]),
        (
            ["chat", "--help"],
            {"OMP_WAIT_POLICY": "active", "MKL_NUM_THREADS": "2"},
            ["active", "2"],
        ),
    ],
)
def test_threads_stay_out_of_each_others_way_unless_told_otherwise(site, words, given, used):
    answer = site.python("-c", THREADS, *words, environment=given)
    assert answer.stdout.splitlines()[-1] == str(used)
