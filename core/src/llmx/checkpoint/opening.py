"""Which reader a checkpoint needs, judged by what files and folders hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from llmx.checkpoint.base import Checkpoint
from llmx.checkpoint.companions import find_tokenizer, read_companions
from llmx.checkpoint.files import contained, read_json
from llmx.checkpoint.formats import Format, sniff, sniff_all
from llmx.errors import CheckpointError
from llmx.progress import Progress, Silent

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".gguf")
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")


@frozen
class Request:
    """What is asked for: ``source`` for messages, ``revision`` of a download, ``params`` given."""

    source: str
    revision: str | None
    params: Path | None


def open_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    params: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a file, a folder or a hub id; only headers are read.

    Args:
        source: a path, or ``organisation/name`` on the hub. An existing path wins.
        revision: branch, tag or commit of a hub id.
        params: ``params.json`` or ``config.json`` to use instead of the one beside the weights.
        progress: told about downloads.

    Raises:
        CheckpointError: nothing usable is there, or it is damaged.
    """
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise CheckpointError(
                f"{source} is a local path, it has no revision {revision}",
                remedy="Leave --revision out, or name a hub id.",
            )
        return _open_path(path, Request(source, None, params))
    if not HUB_ID.fullmatch(source) or source.endswith(WEIGHT_SUFFIXES):
        raise CheckpointError(
            f"no such file or folder: {source}",
            remedy="Name a checkpoint file or folder, or a hub id such as organisation/name.",
        )
    from llmx.checkpoint import hub

    folder, commit = hub.resolve(source, revision, progress or Silent())
    return _open_path(folder, Request(source, commit, params))


def _open_path(path: Path, request: Request) -> Checkpoint:
    if not path.is_dir():
        kind = sniff(path)
        if kind == "gguf":
            # What lies beside a file that was named alone may belong to another model.
            return _open_gguf(path, request, tokenizer_file=None)
        return _open_files(kind, (path,), path.parent, request)
    files: Sequence[Path]
    found = sniff_all(path)
    index_file = _find_index(path, found)
    if index_file is not None:
        index = _read_index(path, index_file)
        files = sorted(set(index.values()))
        return _open_files(sniff(files[0]), files, path, request, index)
    if files := _choose_safetensors(found["safetensors"]):
        return _open_files("safetensors", files, path, request)
    if files := _choose_torch(found["torch"]):
        return _open_files("torch", files, path, request)
    if len(found["gguf"]) == 1:
        return _open_gguf(found["gguf"][0], request, tokenizer_file=find_tokenizer(path))
    raise _nothing_to_open(path, request.source, (*found["torch"], *found["gguf"]))


def _open_files(
    kind: Format,
    files: Sequence[Path],
    folder: Path,
    request: Request,
    index: Mapping[str, Path] | None = None,
) -> Checkpoint:
    if kind == "safetensors":
        from llmx.checkpoint.safetensors_reader import open_safetensors as open_files
    else:
        from llmx.checkpoint.torch_reader import open_torch as open_files
    return open_files(
        files,
        read_companions(folder, request.params),
        source=request.source,
        revision=request.revision,
        index=index,
    )


def _open_gguf(path: Path, request: Request, *, tokenizer_file: Path | None) -> Checkpoint:
    from llmx.checkpoint.gguf_reader import open_gguf

    if request.params is not None:
        raise CheckpointError(
            f"{request.source} is GGUF and describes itself; {request.params} is not needed",
            remedy="Leave --params out.",
        )
    return open_gguf(
        path,
        source=request.source,
        revision=request.revision,
        tokenizer_file=tokenizer_file,
    )


def _find_index(folder: Path, found: Mapping[Format, Sequence[Path]]) -> Path | None:
    """The index of a sharded checkpoint: safetensors first, the unprefixed one of several."""
    for suffix in INDEX_SUFFIXES:
        if suffix.startswith(".bin") and found["safetensors"]:
            continue
        indexes = sorted(folder.glob(f"*{suffix}"))
        if len(indexes) > 1:
            indexes = [path for path in indexes if path.name == f"model{suffix}"]
            if not indexes:
                raise CheckpointError(
                    f"{folder} holds several indexes, none of them named model{suffix}",
                    remedy="Move the other variants of the model to a folder of their own.",
                )
        if indexes:
            return indexes[0]
    return None


def _read_index(folder: Path, index_file: Path) -> dict[str, Path]:
    weight_map = read_json(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_file} has no weight_map", remedy="Fetch the file again.")
    index = {name: contained(folder, str(file)) for name, file in weight_map.items()}
    missing = sorted({path.name for path in index.values() if not path.is_file()})
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(set(index.values()))} shards: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}",
            remedy="Fetch the missing files; the index names them.",
        )
    return index


def _choose_safetensors(files: Sequence[Path]) -> Sequence[Path]:
    """``model.safetensors`` where there is one: others beside it are copies or adapters."""
    return [path for path in files if path.name == "model.safetensors"] or files


def _choose_torch(files: Sequence[Path]) -> Sequence[Path]:
    """All of Meta's or Hugging Face's numbered files, or the only one there is.

    Training leaves other archives of torch.save in the same folder, such as an optimizer's state.
    """
    for pattern in ("consolidated*.pth", "pytorch_model*.bin"):
        if named := [path for path in files if path.match(pattern)]:
            return named
    return files if len(files) == 1 else ()


def _nothing_to_open(folder: Path, source: str, several: Sequence[Path]) -> CheckpointError:
    if several:
        return CheckpointError(
            f"{source} holds several checkpoints: {', '.join(path.name for path in several)}",
            remedy="Name one of the files.",
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
            sniff(path)  # says what is wrong with a file that is called a checkpoint
    return CheckpointError(
        f"{source} holds no checkpoint; looked for safetensors (one file, or shards with an "
        "index), consolidated.NN.pth, pytorch_model.bin and GGUF",
        remedy="Name the folder that has the weights, or a weight file.",
    )
