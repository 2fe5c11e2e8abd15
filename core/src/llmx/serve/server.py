"""The server's process, up to its end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from llmx.serve.app import Served, create_app
from llmx.serve.listening import is_loopback

# Seconds that answers under way have at the end. They are cut off anyway.
PATIENCE = 1
# Connections beyond those whose requests are answered or wait.
SPARE_CONNECTIONS = 32


def serve(
    served: Served,
    listening: socket.socket,
    *,
    host: str,
    api_key: str | None,
    ready: Callable[[str], None],
) -> None:
    """Answer requests until the process is told to end.

    Args:
        ready: called with the server's address once it can be used.
    """
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    hosts = frozenset({"localhost", "127.0.0.1", "[::1]", shown}) if is_loopback(host) else None
    app = create_app(served, hosts=hosts, api_key=api_key)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        loop="asyncio",
        http="h11",
        ws="none",
        limit_concurrency=served.waiting + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
    )
    ready(f"http://{shown}:{port}")
    # uvicorn repeats the signal that ended it.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
