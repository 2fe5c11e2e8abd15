"""Keep the noise of libraries away from our users' terminals."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO, cast

NOISY_LOGGERS = ("torchao", "executorch", "torch.utils._pytree", "torch.export", "root")


@contextmanager
def hushed() -> Iterator[None]:
    """No warnings and no log lines below errors from the libraries underneath."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def stderr_captured() -> Iterator[TextIO]:
    """Divert ``sys.stderr``, where ExecuTorch's runtime logs, into the buffer that this yields."""
    with redirect_stderr(io.StringIO()) as captured:
        yield captured


@contextmanager
def native_stderr_captured() -> Iterator[TextIO]:
    """Divert file descriptor 2, where other C++ code logs, into the file that this yields."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield cast(TextIO, captured)
        finally:
            os.dup2(real, 2)
            os.close(real)
