"""Install distributions of this repository, and what they need, into a virtual environment.

Runs on a bare Python 3.11 or later: nothing but the standard library is imported.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
# pip says much; these are the lines that show how far it is.
LARGE_FILE = re.compile(r"(Downloading|Using cached|Processing) (\S*/)?(?P<name>[\w.]+)-\S+\.whl")
MEGABYTES = re.compile(r"\((?P<size>[\d.]+ [MG]B)\)")
INSTALLING = re.compile(r"Installing collected packages: (?P<names>.+)")


def main() -> int:
    """Create the environment if it is not there, and run pip in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("distributions", nargs="*", help="folders, installed as editable")
    parser.add_argument("--requirements", type=Path, help="a file of further packages")
    options = parser.parse_args()

    python = options.environment / "bin" / "python"
    if not python.exists():
        version = ".".join(map(str, sys.version_info[:3]))
        say(f"creating {options.environment} with Python {version}")
        venv.create(options.environment, with_pip=True)
    wanted = [word for folder in options.distributions for word in ("-e", folder)]
    if options.requirements:
        wanted += ["-r", str(options.requirements)]
    say(f"installing {' '.join(options.distributions) or options.requirements} (a few minutes)")
    return run_pip(python, wanted)


def run_pip(python: Path, wanted: Iterable[str]) -> int:
    """Install with the tested versions; pip's complaints go straight to the terminal."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-c", str(CONSTRAINTS), *wanted]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:  # noqa: S603
        assert pip.stdout is not None
        for line in milestones(pip.stdout):
            say(f"  {line}")
    return pip.returncode


def milestones(lines: Iterable[str]) -> Iterator[str]:
    """The lines of pip's output that tell about something that takes time."""
    for line in lines:
        file, size = LARGE_FILE.search(line), MEGABYTES.search(line)
        if file and size:
            yield f"{file['name']} ({size['size']})"
        elif installing := INSTALLING.search(line):
            yield f"unpacking {len(installing['names'].split(','))} packages"


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
