"""``llmx serve`` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLOW = 300  # seconds, on a busy machine


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[str]:
    """The address of a server that is started with these; Ctrl-C at the end has to end it well."""
    script = "from llmx.cli import main; main()"
    command = [sys.executable, "-c", script, "serve", *map(str, arguments), "--port", "0"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, env={**os.environ, **environment})
        try:
            yield _address(process, said.fileno())
            process.send_signal(signal.SIGINT)
            assert process.wait(SLOW) == 0
            assert "Traceback" not in _said(said.fileno())
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], said: int) -> str:
    deadline = time.monotonic() + SLOW
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"to chat at (http://\S+)\n", _said(said)):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(_said(said))


def _said(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 20, 0).decode()
