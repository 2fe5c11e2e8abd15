"""The chips that ExecuTorch's code for QNN knows."""

from __future__ import annotations

from typing import Any


def chips() -> dict[str, Any]:
    """Its members of ``QcomChipset`` by name."""
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset

    return {each.name: each for each in QcomChipset if each.value}
