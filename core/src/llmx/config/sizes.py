"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from llmx.errors import ConfigError

UNITS = {"": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?b?)", re.IGNORECASE)


def bytes_in(text: str, what: str) -> int:
    """``80MB``, ``1.5 GB`` or a plain number, in bytes. ``what`` names it in an error.

    Raises:
        ConfigError: it is none of these.
    """
    match = SIZE.fullmatch(text.strip())
    unit = None if match is None else UNITS.get(match[2].lower())
    if match is None or unit is None:
        raise ConfigError(f"{what} is {text!r}, not a size", remedy="write it as 80MB or 1.5GB")
    return int(float(match[1]) * unit)
