"""What is downloaded from the hub: one commit, only what is needed, and nothing twice."""

from __future__ import annotations

from typing import Any

from tests.core.hub.hub_server import FIRST, REPO, SECOND, Hub


def test_only_what_is_needed_is_downloaded(hub: Hub, fetch: Any) -> None:
    answer = fetch()
    assert answer["revision"] == FIRST
    assert answer["values"] == {"w1": 11.0, "w2": 12.0}
    wanted = [
        "config.json",
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert answer["files"] == wanted
    assert sorted(hub.downloads()) == wanted


def test_a_hub_id_opens_like_a_path_and_records_its_commit(opened: Any) -> None:
    assert (opened["source"], opened["revision"]) == (REPO, FIRST)
    assert opened["hidden_size"] == 8


def test_the_configuration_alone_is_fetched_to_tell_the_family(hub: Hub, fetch_config: Any) -> None:
    assert fetch_config()["hidden_size"] == 8
    assert hub.downloads() == ["config.json"]


def test_without_a_configuration_the_weights_have_to_say(hub: Hub, fetch_config: Any) -> None:
    del hub.commits[FIRST]["config.json"]
    assert "no config.json" in fetch_config()["error"]


def test_progress_counts_bytes_and_nothing_is_drawn(fetch: Any) -> None:
    answer = fetch()
    done, total, what = answer["progress"][-1]
    assert (done, what) == (total, "model-2-of-2.safetensors")
    assert [event[0] for event in answer["progress"]] == sorted(e[0] for e in answer["progress"])
    assert answer["stderr"] == ""


def test_what_is_there_is_not_downloaded_again(hub: Hub, fetch: Any) -> None:
    fetch()
    hub.log.clear()
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}
    assert hub.downloads() == []


def test_redirected_files_are_followed(hub: Hub, fetch: Any) -> None:
    hub.redirected = {"model-1-of-2.safetensors", "model-2-of-2.safetensors"}
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}
    assert any(path.startswith("/cdn/") for _, path, _ in hub.log)


def test_a_revision_that_moves_while_downloading_does_not_mix(hub: Hub, fetch: Any) -> None:
    hub.moves_after_listing = SECOND
    answer = fetch()
    assert answer["revision"] == FIRST
    assert answer["values"] == {"w1": 11.0, "w2": 12.0}


def test_a_branch_that_moved_gives_the_new_commit_beside_the_old(hub: Hub, fetch: Any) -> None:
    old = fetch()
    hub.branches["main"] = SECOND
    new = fetch()
    assert (new["revision"], new["values"]) == (SECOND, {"w1": 21.0, "w2": 22.0})
    assert old["folder"] != new["folder"]
    assert fetch(revision=FIRST)["values"] == {"w1": 11.0, "w2": 12.0}
