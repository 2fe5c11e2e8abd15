"""Downloads that are cut off go on where they stopped; damaged ones are not kept."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from tests.core.hub.hub_server import FIRST, Hub, tensor_file

# The client writes 10 MB at a time; what it has not written is lost.
CHUNK = 10 * 1024**2
PATIENCE = 300  # seconds
LARGE = "model-2-of-2.safetensors"


@pytest.fixture
def large(hub: Hub) -> int:
    """Make one file two of the client's chunks long and a little; its size in bytes."""
    hub.commits[FIRST][LARGE] = tensor_file("w2", 12.0, size=6_000_000)
    return len(hub.commits[FIRST][LARGE])


def ranges(hub: Hub) -> list[str | None]:
    """What the requests for the large file began with."""
    return [r for method, path, r in hub.log if method == "GET" and path.endswith(LARGE)]


def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, fetch: Any, large: int) -> None:
    hub.cut_after[LARGE] = CHUNK + 1000
    assert fetch()["values"]["w2"] == 12.0
    assert ranges(hub) == [None, f"bytes={CHUNK}-"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_second_run_goes_on_where_the_first_was_stopped(
    hub: Hub, start: Any, fetch: Any, large: int, number: signal.Signals, tmp_path: Path
) -> None:
    stalled = hub.stall(LARGE, after=CHUNK * 2 + 1000)
    with start() as client:
        assert stalled.wait(PATIENCE)
        client.send_signal(number)
        client.communicate(timeout=PATIENCE)
    there = next((tmp_path / "hf" / "hub").glob("*/blobs/*.partial")).stat().st_size
    assert CHUNK <= there < large
    hub.log.clear()
    answer = fetch()
    assert answer["values"] == {"w1": 11.0, "w2": 12.0}
    assert ranges(hub) == [f"bytes={there}-"]
    assert "model-1-of-2.safetensors" not in hub.downloads()
    # The bytes of the first run count as done.
    assert answer["progress"][0] == [there, large, LARGE]
    assert answer["progress"][-1] == [large, large, LARGE]


def test_a_server_that_does_not_resume_sends_the_whole_again(
    hub: Hub, fetch: Any, large: int
) -> None:
    hub.cut_after[LARGE] = CHUNK + 1000
    hub.ignores_ranges = True
    assert fetch()["values"]["w2"] == 12.0


def test_nothing_but_the_cache_of_the_hub_is_left(
    hub: Hub, fetch: Any, large: int, tmp_path: Path
) -> None:
    fetch()
    blobs = tmp_path / "hf" / "hub" / "models--org--model" / "blobs"
    assert not [path.name for path in blobs.iterdir() if path.suffix]


@pytest.mark.parametrize("name", ["model-1-of-2.safetensors", "config.json"])
def test_a_wrong_checksum_is_found_and_not_kept(hub: Hub, fetch: Any, name: str) -> None:
    hub.damaged = {name}
    answer = fetch()
    assert f"{name} arrived damaged" in answer["error"]
    hub.damaged = set()
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}
