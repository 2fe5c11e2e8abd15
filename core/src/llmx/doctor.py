"""What a machine needs for exports and what it has; only ``backends`` imports torch."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from attrs import frozen

from llmx.available import absent_backends
from llmx.cache.location import cache_folder
from llmx.errors import LlmxError
from llmx.memory import available_memory
from llmx.plugins import BACKENDS, FAMILIES, Installed, installed, load

TESTED = {
    "torch": "2.13.0",
    "torchao": "0.18.0",
    "executorch": "1.5.1",
    "pytorch_tokenizers": "1.5.0",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "gguf": "0.19.0",
    "tokenizers": "0.23.3",
}
"""As in ``constraints.txt``; a test holds the two together."""
GIGA = 1e9
LITTLE_MEMORY = 2 * GIGA
LITTLE_DISK = 5 * GIGA
PATIENCE = 5.0  # seconds

State = Literal["good", "note", "bad"]


@frozen(kw_only=True)
class Observation:
    """One thing about the machine. ``remedy`` says what to do where it is not good."""

    subject: str
    state: State
    found: str
    remedy: str | None = None


def packages() -> Iterator[Observation]:
    """Versions against the tested set."""
    yield Observation(subject="Python", state="good", found=platform.python_version())
    for name, tested in TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Observation(
                subject=name,
                state="bad",
                found="not installed",
                remedy=f"pip install {name}=={tested}",
            )
            continue
        same = found.partition("+")[0] == tested
        yield Observation(
            subject=name,
            state="good" if same else "note",
            found=found if same else f"{found}; llmx is tested with {tested}",
            remedy=None if same else f"pip install {name}=={tested}",
        )


def room() -> Iterator[Observation]:
    """Free memory, and disk where the cache is and where artifacts go by default."""
    memory = available_memory()
    if memory is None:
        yield Observation(subject="memory", state="note", found="the system does not say")
    else:
        yield _size(
            "memory", memory, LITTLE_MEMORY, "close other programs: an export of 135M takes 1.5 GB"
        )
    places = {"disk here": Path.cwd()}
    folder = cache_folder()
    if folder is not None:
        places["disk of the cache"] = folder
    for subject, place in places.items():
        existing = next(each for each in (place, *place.parents) if each.exists())
        free = shutil.disk_usage(existing).free
        yield _size(subject, free, LITTLE_DISK, f"make room on the disk of {place}")


def _size(subject: str, free: int, little: float, remedy: str) -> Observation:
    enough = free >= little
    return Observation(
        subject=subject,
        state="good" if enough else "note",
        found=f"{free / GIGA:.1f} GB free",
        remedy=None if enough else remedy,
    )


def hub() -> Iterator[Observation]:
    """Whether the Hugging Face hub answers, and whether a token is known to it."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield Observation(
            subject="hub",
            state="note",
            found="HF_HUB_OFFLINE is set: only what was downloaded before can be read",
        )
        return
    yield _answer(constants.ENDPOINT)
    token = get_token()
    yield Observation(
        subject="hub token",
        state="note" if token is None else "good",
        found="none; gated models cannot be read" if token is None else "found",
        remedy="hf auth login, or set HF_TOKEN" if token is None else None,
    )


def _answer(address: str) -> Observation:
    problem = None
    if not address.startswith(("http://", "https://")):
        problem = "is no address of the web"
    else:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=PATIENCE):  # noqa: S310
                pass
        except HTTPError:
            pass  # it answers, whatever it says
        except (URLError, OSError, ValueError) as error:
            problem = f"does not answer: {getattr(error, 'reason', error)}"
    return Observation(
        subject="hub",
        state="good" if problem is None else "note",
        found=f"{address} {problem or 'answers'}",
        remedy=None
        if problem is None
        else "check the network or HF_ENDPOINT; checkpoints in files can be exported all the same",
    )


def backends() -> Iterator[Observation]:
    """Which backends lower and run here. Imports torch: what is asked of them needs it."""
    families = installed(FAMILIES)
    if not families:
        yield Observation(
            subject="families",
            state="bad",
            found="none is installed",
            remedy="they are packages usually called llmx-plugin-NAME",
        )
    found = installed(BACKENDS)
    if not found:
        yield Observation(
            subject="backends",
            state="bad",
            found="none is installed",
            remedy="they are packages usually called llmx-backend-NAME",
        )
    for each in found:
        yield _backend(each, families)
    for name, command in absent_backends().items():
        yield Observation(
            subject=f"backend {name}", state="note", found="not installed", remedy=command
        )


def _backend(source: Installed, families: list[Installed]) -> Observation:
    subject = f"backend {source.name}"
    try:
        hooks = load(None, source.name).backend
        reason = hooks.runtime()
        obstacle = _obstacle(source.name, families[0].name) if families else None
    except LlmxError as error:
        return Observation(subject=subject, state="bad", found=error.message, remedy=error.remedy)
    if obstacle is not None:
        return Observation(
            subject=subject,
            state="note",
            found=f"cannot lower: {obstacle.message}",
            remedy=obstacle.remedy,
        )
    runs = "lowers and runs" if reason is None else f"lowers; programs do not run here: {reason}"
    return Observation(subject=subject, state="good", found=runs)


def _obstacle(backend: str, family: str) -> LlmxError | None:
    """Why a job of the backend's default recipe is refused."""
    from llmx.config import ExportJob

    try:
        job = ExportJob.create(family, backend=backend, random_weights=True)
        load(None, backend).backend.check(job=job)
    except LlmxError as error:
        return error
    return None
