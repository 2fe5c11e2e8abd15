"""An export as one HTML page, which needs nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

PAGE_NAME = "report.html"
TEMPLATE = files("llmx.report").joinpath("page.html")
PLACE = "/*DATA*/"


def write_page(
    folder: Path, manifest: Mapping[str, Any], lifetimes: Sequence[Mapping[str, Any]]
) -> None:
    """Write ``report.html``.

    Args:
        manifest: the content of ``llmx.json``.
        lifetimes: tensors of the memory plan, see ``report.manifest.describe_lifetimes``.
    """
    data = json.dumps({"manifest": manifest, "lifetimes": lifetimes}, ensure_ascii=False)
    # No text of a checkpoint may end the script element.
    page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE, data.replace("<", "\\u003c"))
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")
