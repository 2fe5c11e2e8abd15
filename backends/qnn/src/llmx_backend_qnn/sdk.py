"""Qualcomm's SDK: where it is, whether it loads, and whether it is the version that works.

ExecuTorch downloads an SDK when it finds none and QNN_SDK_ROOT is not set. Nothing of its code
that could is reached without that variable.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from llmx import ConfigError

ROOT = "QNN_SDK_ROOT"
TESTED = "2.37"
"""What ExecuTorch's package for Python was built against. Structures of others differ."""

LIBRARIES = Path("lib", "x86_64-linux-clang")
SECONDS = 60
# Whoever asks a library that does not load is aborted, so that another process does.
ASK = """
import ctypes, sys
from executorch.backends.qualcomm.python.PyQnnManagerAdaptor import GetQnnSdkBuildId
ctypes.CDLL("libQnnHtp.so")
sys.stdout.write(GetQnnSdkBuildId(sys.argv[1]))
"""
BUILD = re.compile(r"v?(?P<version>\d+\.\d+)(\.\S*)?$")


def check_sdk(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of an SDK that can compile.

    Raises:
        ConfigError: there is none, its library does not load, or it is of another version.
    """
    root = environment.get(ROOT, "")
    if not root:
        raise ConfigError(
            f"QNN: Qualcomm's SDK compiles the program, and {ROOT} does not say where it is",
            remedy=f"install Qualcomm AI Runtime SDK {TESTED} from qualcomm.com, and "
            f"export {ROOT}=FOLDER",
        )
    folder = Path(root)
    library = folder / LIBRARIES / "libQnnHtp.so"
    if not library.is_file():
        raise ConfigError(
            f"QNN: {ROOT}={root} has no {LIBRARIES / library.name}",
            remedy=f"set it to the folder of Qualcomm AI Runtime SDK {TESTED} for Linux",
        )
    require_version(_build_id(library, environment), root)
    return folder


def require_version(build_id: str, root: str) -> None:
    """Refuse an SDK by what its library says of itself, such as ``v2.37.0.250724175447_124859``.

    Raises:
        ConfigError: it is not the tested version.
    """
    found = BUILD.match(build_id)
    if found is None or found["version"] != TESTED:
        raise ConfigError(
            f"QNN: the SDK in {root} is {build_id or 'of no version'}; ExecuTorch's package was "
            f"built against {TESTED}",
            remedy=f"install {TESTED} beside it, and set {ROOT} to its folder",
        )


def _build_id(library: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", ASK, str(library)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=dict(environment),
    )
    if done.returncode != 0:
        raise ConfigError(
            f"QNN: {library} does not load: {_reason(done.stderr)}",
            remedy=f"export LD_LIBRARY_PATH={library.parent}:$LD_LIBRARY_PATH",
        )
    return done.stdout.strip()


def _reason(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line]
    return lines[-1] if lines else "no reason is given"
