"""Arm's model converter, which makes VGF of TOSA."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llmx import ConfigError

PACKAGE = "ai_ml_sdk_model_converter==0.10.0"
SECONDS = 60


def check_converter() -> None:
    """Refuse to begin without a converter that starts: ExecuTorch would find out at the end.

    Raises:
        ConfigError: with the converter's own reason, and what to do.
    """
    from executorch.backends.arm.vgf.model_converter import (
        find_model_converter_binary,
        model_converter_env,
    )

    found = find_model_converter_binary()
    if found is None:
        raise ConfigError(
            "VGF: Arm's model converter is not installed",
            remedy=f"pip install {PACKAGE}, or set MODEL_CONVERTER_PATH to it",
        )
    require_start(Path(found), model_converter_env())


def require_start(converter: Path, environment: dict[str, str]) -> None:
    """Refuse a converter that does not run here.

    Raises:
        ConfigError: with the converter's own reason.
    """
    done = subprocess.run(  # noqa: S603
        [str(converter), "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=environment,
    )
    if done.returncode != 0 or not done.stdout.strip():
        lines = done.stderr.strip().splitlines()
        raise ConfigError(
            f"VGF: {converter} does not start: {lines[-1] if lines else 'no reason is given'}",
            remedy="export on a system with a newer C library (glibc 2.38 or later), or set "
            "MODEL_CONVERTER_LIB_DIR to the libraries that it misses",
        )
