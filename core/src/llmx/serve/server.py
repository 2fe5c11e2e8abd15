"""The server's process, up to its end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from llmx.serve.app import Served, create_app
from llmx.serve.listening import is_loopback
from llmx.serve.turns import Turns

# Seconds that connections have at the end. Answers under way are cut off at once.
PATIENCE = 5
# Connections beyond those whose requests are answered or wait.
SPARE_CONNECTIONS = 32


def serve(
    served: Served,
    listening: socket.socket,
    *,
    host: str,
    api_key: str | None,
    waiting: int,
    ready: Callable[[str], None],
) -> None:
    """Answer requests until the process is told to end.

    Args:
        waiting: how many requests may wait while one is answered.
        ready: called with the server's address once it can be used.
    """
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    hosts = frozenset({"localhost", "127.0.0.1", "[::1]", shown}) if is_loopback(host) else None
    turns = Turns(waiting)
    app = create_app(served, turns, hosts=hosts, api_key=api_key)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        loop="asyncio",
        http="h11",
        ws="none",
        limit_concurrency=waiting + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
    )
    ready(f"http://{shown}:{port}")
    # uvicorn repeats the signal that ended it.
    with suppress(KeyboardInterrupt):
        _Server(config, turns).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Cuts off answers when it is told to end; uvicorn by itself waits for them."""

    def __init__(self, config: uvicorn.Config, turns: Turns) -> None:
        super().__init__(config)
        self._turns = turns

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._turns.end()
        super().handle_exit(sig, frame)
