"""Checkpoints on the Hugging Face hub: one commit of a repository, and only what is needed of it.

``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have their usual meaning; files
stay in the cache that all programs of the hub share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define

from llmx.checkpoint.files import contained, read_json
from llmx.checkpoint.hub_files import (
    check_names,
    choose_companions,
    choose_index,
    choose_weights,
)
from llmx.checkpoint.hub_resume import can_resume, fetch, has_digest
from llmx.errors import CheckpointError
from llmx.progress import Progress, Silent

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

DEFAULT_BRANCH = "main"
CONFIG = "config.json"


def resolve(repo_id: str, revision: str | None, progress: Progress) -> tuple[Path, str]:
    """Download a repository's checkpoint.

    Args:
        revision: branch, tag or commit; ``None`` is the main branch.

    Returns:
        The folder, and the commit that the revision stood for: all files are from this one.

    Raises:
        CheckpointError: not found, not allowed, not reachable or damaged on the way.
    """
    from huggingface_hub import constants

    with _explained(repo_id, revision):
        if constants.HF_HUB_OFFLINE:
            return _from_cache(repo_id, revision)
        snapshot = _list_files(repo_id, revision, progress)
        snapshot.fetch(_needed(snapshot))
        _remember(snapshot, revision or DEFAULT_BRANCH)
        return snapshot.folder, snapshot.commit


def resolve_config(repo_id: str, revision: str | None) -> Path | None:
    """Download a repository's ``config.json`` and nothing else.

    Returns:
        The folder that it is in; ``None`` if the repository has none.

    Raises:
        CheckpointError: as ``resolve``.
    """
    from huggingface_hub import constants

    with _explained(repo_id, revision):
        if constants.HF_HUB_OFFLINE:
            return _from_cache(repo_id, revision)[0]
        snapshot = _list_files(repo_id, revision, Silent())
        return snapshot.get(CONFIG).parent if CONFIG in snapshot.files else None


@define
class _Snapshot:
    """One commit of a repository, filled file by file."""

    repo_id: str
    commit: str
    files: Mapping[str, RepoSibling]
    progress: Progress
    folder: Path = Path()

    def fetch(self, names: Collection[str]) -> None:
        """Download what the cache does not hold yet, and report the bytes as they arrive."""
        absent = [name for name in names if not self._is_cached(name)]
        total = sum(self.files[name].size or 0 for name in absent)
        done = 0
        for name in names:

            def report(n_bytes: int, name: str = name) -> None:
                nonlocal done
                done += n_bytes
                self.progress.advanced(done, total, name)

            self.folder = self.get(name, report).parent

    def get(self, name: str, report: Callable[[int], None] = lambda _: None) -> Path:
        """One file, from the cache or downloaded and verified; ``report`` is told of bytes."""
        if self._is_cached(name):
            return self._download(name, report)
        file = self.files[name]
        if not can_resume(file):
            path = self._download(name, report)
            _verify(path, file)
            return path
        if not fetch(self.repo_id, self.commit, file, _reporting_bar(report), report):
            raise _damaged(name)
        return self._download(name, report)

    def _is_cached(self, name: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo_id, name, revision=self.commit), str)

    def _download(self, name: str, report: Callable[[int], None]) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                self.repo_id,
                name,
                revision=self.commit,
                tqdm_class=_reporting_bar(report),
            )
        )


def _list_files(repo_id: str, revision: str | None, progress: Progress) -> _Snapshot:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    if info.sha is None:
        raise CheckpointError(f"{repo_id} has no commit", remedy="The repository is empty.")
    files = {file.rfilename: file for file in info.siblings or ()}
    check_names(repo_id, files)
    return _Snapshot(repo_id, info.sha, files, progress)


def _needed(snapshot: _Snapshot) -> list[str]:
    """Small files first, so that a repository that is refused costs nothing."""
    companions = choose_companions(snapshot.files)
    index = choose_index(snapshot.files)
    if index is None:
        return [*companions, *choose_weights(snapshot.repo_id, snapshot.files)]
    shards = sorted(set((read_json(snapshot.get(index)).get("weight_map") or {}).values()))
    check_names(snapshot.repo_id, shards)
    missing = [name for name in shards if name not in snapshot.files]
    if missing or not shards:
        raise CheckpointError(
            f"{snapshot.repo_id}: {index} names {', '.join(missing[:3]) or 'no files'}, "
            "which the repository does not have",
            remedy="Try another revision; this one is incomplete.",
        )
    return [*companions, index, *shards]


def _remember(snapshot: _Snapshot, revision: str) -> None:
    """Note in the cache which commit a branch stood for, so that it is found offline."""
    if revision == snapshot.commit:
        return
    reference = contained(snapshot.folder.parents[1] / "refs", revision)
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(snapshot.commit, encoding="utf-8")


def _from_cache(repo_id: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    return folder, folder.name


def _verify(path: Path, file: RepoSibling) -> None:
    """Compare a download with the hash that the hub lists: SHA-256 of large files, else git's."""
    if file.lfs is not None:
        expected, digest = file.lfs.sha256, hashlib.sha256()
    elif file.blob_id is not None:
        expected, digest = file.blob_id, hashlib.sha1(usedforsecurity=False)
        digest.update(f"blob {path.stat().st_size}\0".encode())
    else:
        return
    if not has_digest(path, digest, expected):
        # Out of the cache with it, both the content and the name that points there.
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise _damaged(file.rfilename)


def _damaged(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} arrived damaged: its checksum is not the one that the hub lists",
        remedy="Run the command again; if it happens again, something between alters files.",
    )


def _reporting_bar(report: Callable[[int], None]) -> type:
    """A progress bar that draws nothing and passes the bytes on."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            report(int(n or 0))

    return Bar


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the client's errors into what to do about them."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo_id}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} is only for people who accepted its licence",
            remedy=f"Accept it at {page}, then set HF_TOKEN to a token of that account.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} is neither a local path nor a repository on {constants.ENDPOINT}",
            remedy="Check the spelling; if it is private, set HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} has no revision {revision}", remedy=f"See {page}/tree for its branches."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"{repo_id} is not in the cache and HF_HUB_OFFLINE forbids to download it",
                remedy="Run once without HF_HUB_OFFLINE, or name a local path.",
            ) from error
        raise _unreachable(repo_id, error) from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo_id, page, error) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo_id} is not a valid hub id: {error}") from error
    # The HTTP library's own base class, whichever library this version of the client uses.
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        raise _unreachable(repo_id, error) from error
    except OSError as error:
        raise CheckpointError(
            f"{repo_id} could not be downloaded: {str(error).splitlines()[0]}",
            remedy="Run the command again; it goes on where this one stopped.",
        ) from error


def _unreachable(repo_id: str, error: Exception) -> CheckpointError:
    from huggingface_hub import constants

    cause = error.__cause__ or error
    return CheckpointError(
        f"{repo_id} cannot be fetched from {constants.ENDPOINT}: {cause}",
        remedy="Check the network; HF_HUB_OFFLINE=1 uses what was downloaded before.",
    )


def _refused(repo_id: str, page: str, error: Any) -> CheckpointError:
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return CheckpointError(
            f"{repo_id}: the hub refuses access ({status})",
            remedy=f"Accept the licence at {page} if there is one, then set HF_TOKEN.",
        )
    return CheckpointError(
        f"{repo_id}: the hub answered {status}", remedy="Run the command again in a while."
    )
