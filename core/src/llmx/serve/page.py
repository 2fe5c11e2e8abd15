"""The page to chat in the browser: one file, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

PAGE = files("llmx.serve").joinpath("page.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """Sources in the form of Content-Security-Policy: the page's own elements, by their hash."""
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (hashlib.sha256(body.encode("utf-8")).digest() for body in bodies)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


POLICY = (
    f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
