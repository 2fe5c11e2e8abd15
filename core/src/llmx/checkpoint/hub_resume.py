"""Large files of the hub, downloaded so that a later run goes on where an earlier one stopped.

The hub's client begins a file anew in every process. Here the part that has arrived stays in the
cache, under the hash of the whole, and is taken into use when all of it is there and right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


def can_resume(file: RepoSibling) -> bool:
    """Whether the hub tells the file's hash beforehand and serves it by plain HTTP."""
    from huggingface_hub import constants

    return file.lfs is not None and file.lfs.size <= constants.MAX_HTTP_DOWNLOAD_SIZE


def fetch(
    repo_id: str, commit: str, file: RepoSibling, bar: type, report: Callable[[int], None]
) -> bool:
    """Complete the file's content in the cache; the hub's client only has to link to it then.

    Args:
        bar: class of the progress bar that ``huggingface_hub`` shall use.
        report: is told of the bytes that earlier runs left.

    Returns:
        Whether the content is right; if not, what arrived is gone.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        WeakFileLock,
        build_hf_headers,
    )

    assert file.lfs is not None
    cache, repository = _place(repo_id)
    blob = cache / repository / "blobs" / file.lfs.sha256
    partial = blob.with_suffix(".partial")
    # The lock that the hub's client itself takes for this content.
    lock = cache / ".locks" / repository / f"{file.lfs.sha256}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return True
        with partial.open("ab") as target:
            there = target.tell()
            report(there)
            http_get(
                hf_hub_url(repo_id, file.rfilename, revision=commit),
                target,
                resume_size=there,
                expected_size=file.lfs.size,
                headers=build_hf_headers(),
                tqdm_class=bar,
            )
        if not has_digest(partial, hashlib.sha256(), file.lfs.sha256):
            partial.unlink()
            return False
        partial.replace(blob)
    return True


def has_digest(path: Path, digest: Any, expected: str) -> bool:
    """Feed a file to ``digest``, one of ``hashlib``, and compare."""
    with path.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return bool(digest.hexdigest() == expected)


def _place(repo_id: str) -> tuple[Path, str]:
    """The hub's cache and the repository's folder in it.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repo_id, repo_type="model")
