"""What cannot or must not be downloaded from the hub is refused, with what to do about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.core.hub.hub_server import FIRST, REPO, Hub


def test_a_gated_repository_says_where_to_accept_the_licence(hub: Hub, fetch: Any) -> None:
    hub.gated_with_token = "hf_right"
    for environment in ({}, {"HF_TOKEN": "hf_wrong"}):
        answer = fetch(**environment)
        assert "accepted its licence" in answer["error"]
        assert f"{hub.address}/{REPO}" in answer["remedy"]
        assert "HF_TOKEN" in answer["remedy"]
    assert fetch(HF_TOKEN="hf_right")["values"] == {"w1": 11.0, "w2": 12.0}


def test_an_unknown_repository_is_neither_path_nor_hub_id(fetch: Any) -> None:
    answer = fetch("org/typo")
    assert "org/typo is neither a local path nor a repository" in answer["error"]
    assert "spelling" in answer["remedy"]


def test_an_unknown_revision_is_named(fetch: Any) -> None:
    assert fetch(revision="v9")["error"] == f"{REPO} has no revision v9"


def test_a_dead_network_is_told_with_the_address(fetch: Any) -> None:
    answer = fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert f"{REPO} cannot be fetched from http://127.0.0.1:9" in answer["error"]
    assert "HF_HUB_OFFLINE=1" in answer["remedy"]


def test_offline_uses_the_cache_alone(hub: Hub, fetch: Any) -> None:
    answer = fetch(HF_HUB_OFFLINE="1")
    assert "not in the cache and HF_HUB_OFFLINE forbids" in answer["error"]
    fetch()
    hub.log.clear()
    answer = fetch(HF_HUB_OFFLINE="1")
    assert (answer["revision"], answer["values"]) == (FIRST, {"w1": 11.0, "w2": 12.0})
    assert hub.log == []


@pytest.mark.parametrize("name", ["../../evil.safetensors", "/etc/evil.json", "..\\evil.json"])
def test_a_listed_name_that_escapes_is_refused(hub: Hub, fetch: Any, name: str) -> None:
    hub.listed_only = [name]
    assert "outside the repository" in fetch()["error"]
    assert hub.downloads() == []


def test_an_index_that_names_a_file_outside_is_refused(hub: Hub, fetch: Any) -> None:
    index = json.dumps({"weight_map": {"w1": "../../../evil.safetensors"}}).encode()
    hub.commits[FIRST]["model.safetensors.index.json"] = index
    assert "outside the repository" in fetch()["error"]


def test_an_index_that_names_an_absent_shard_is_refused(hub: Hub, fetch: Any) -> None:
    del hub.commits[FIRST]["model-2-of-2.safetensors"]
    assert "names model-2-of-2.safetensors, which the repository does not" in fetch()["error"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"empty"}, "holds no weights that can be read"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "holds 2 GGUF files"),
    ],
)
def test_a_repository_without_one_set_of_weights_is_refused(
    hub: Hub, fetch: Any, files: dict[str, bytes], message: str
) -> None:
    hub.commits[FIRST] = files
    assert message in fetch()["error"]
