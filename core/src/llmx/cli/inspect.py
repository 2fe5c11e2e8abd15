"""``llmx inspect``: what is in a ``.pte``, whoever made it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.artifact import MANIFEST_NAME, Artifact

if TYPE_CHECKING:
    from rich.console import Console

    from llmx.pte.contents import Contents, MethodInfo
    from llmx.pte.parts import Part
    from llmx.pte.payloads import DelegateInfo

MEGA = 1e6


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every segment.")
def command(file: Path, as_json: bool) -> None:
    """Show what is in an ExecuTorch program: methods, metadata, bytes, operators.

    The program is read, not run: any .pte will do, also for a runtime that is not here.
    """
    path = Artifact.open(file).program if file.is_dir() else file
    from llmx.pte import read_contents

    contents = read_contents(path)
    layers = _named_layers(contents)
    if as_json:
        click.echo(json.dumps(_to_json(contents, layers), indent=2, ensure_ascii=False))
        return
    from llmx.cli.console import stdout

    _show(stdout(), contents, layers)


def _named_layers(contents: Contents) -> Mapping[str, int]:
    """Bytes of weights by layer, where the program's ``llmx.json`` lies beside it."""
    folder = contents.path.parent
    if not (folder / MANIFEST_NAME).is_file():
        return {}
    manifest = Artifact.open(folder).manifest
    program = manifest["program"]
    if program["file"] != contents.path.name or program.get("bytes") != contents.bytes:
        return {}
    found: Counter[str] = Counter()
    for module in manifest["weights"]["modules"]:
        words = module["name"].split(".")
        numbered = next((at for at, word in enumerate(words) if word.isdigit()), None)
        name = words[0] if numbered is None else ".".join(words[: numbered + 1])
        found[name] += module["stored_bytes"]
    return found


def _to_json(contents: Contents, layers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "file": str(contents.path),
        "bytes": contents.bytes,
        "schema_version": contents.version,
        "program_bytes": contents.program_bytes,
        "metadata": contents.metadata,
        "methods": [_method_json(each) for each in contents.methods],
        "layers": [{"name": name, "stored_bytes": count} for name, count in layers.items()],
        "segments": [
            {"kind": each.kind, "name": each.name or None, "bytes": each.bytes}
            for each in contents.segments
        ],
        "data_files": [
            {"name": each.name, "bytes": each.bytes, "keys": each.keys}
            for each in contents.data_files
        ],
    }


def _method_json(method: MethodInfo) -> dict[str, Any]:
    return {
        "name": method.name,
        "inputs": [str(each) for each in method.inputs],
        "outputs": [str(each) for each in method.outputs],
        "planned_bytes": method.planned_bytes,
        "state_bytes": method.state.bytes,
        "kv_bytes_per_token": method.state.bytes_per_token,
        "operators": [
            {"name": name, "calls": calls} for name, calls in sorted(method.kernels.items())
        ],
        "delegates": [
            {
                "backend": each.backend,
                "payload_bytes": each.payload_bytes,
                "named_data": sorted(each.named),
                "compile_specs": each.compile_specs,
            }
            for each in method.delegates
        ],
        "external_data": method.external,
        "parts": [
            {
                "kernels": each.kernels,
                "delegates": each.delegates,
                "constant_bytes": each.constant_bytes,
                "delegate_bytes": each.delegate_bytes,
            }
            for each in method.parts
        ],
    }


def _show(console: Console, contents: Contents, layers: Mapping[str, int]) -> None:
    from rich.markup import escape

    from llmx.cli.console import table
    from llmx.pte.contents import bytes_by_kind

    console.print(f"[bold]{escape(str(contents.path))}[/bold], {_megabytes(contents.bytes)}")
    console.print()
    made = table("stored", "segments", "MB")
    made.add_row("program (graph, tables)", "", _mega(contents.program_bytes))
    for (kind, name), (count, size) in bytes_by_kind(contents.segments).items():
        made.add_row(escape(f"{kind} {name}".strip()), str(count), _mega(size))
    console.print(made)
    if contents.data_files:
        console.print()
        made = table("beside it", "weights", "MB")
        for beside in contents.data_files:
            there = "not there" if beside.bytes is None else _mega(beside.bytes)
            made.add_row(escape(beside.name), str(len(beside.keys)), there)
        console.print(made)
    if contents.metadata:
        console.print()
        made = table("metadata", "value")
        for key, value in sorted(contents.metadata.items()):
            made.add_row(escape(key), escape(_text(value)))
        console.print(made)
    for method in contents.methods:
        console.print()
        _show_method(console, method)
    if layers:
        console.print()
        made = table("weights of", "MB")
        for line, amount in _grouped(layers):
            made.add_row(escape(line), amount)
        console.print(made)


def _show_method(console: Console, method: MethodInfo) -> None:
    from rich.markup import escape
    from rich.table import Table

    from llmx.cli.console import table

    console.print(f"[bold]method {escape(method.name)}[/bold]")
    grid = Table.grid(padding=(0, 2))
    for heading, text in (
        ("takes", ", ".join(map(str, method.inputs)) or "nothing"),
        ("returns", ", ".join(map(str, method.outputs)) or "nothing"),
        ("memory", f"{_megabytes(method.planned_bytes)} planned, with {_state(method)}"),
        ("delegates", _delegates(method.delegates)),
    ):
        grid.add_row(heading, escape(text))
    if method.external:
        grid.add_row("elsewhere", escape(f"data of {len(method.external)} tensors"))
    console.print(grid)
    if method.kernels:
        console.print()
        made = table("operator that the runtime brings", "calls")
        for name, calls in sorted(method.kernels.items()):
            made.add_row(escape(name), str(calls))
        console.print(made)
    if len(method.parts) > 1:
        console.print()
        made = table("in order of execution", "kernels", "delegates", "MB")
        for part, times, where in _runs(method.parts):
            size = part.constant_bytes + part.delegate_bytes
            each = " each" if times > 1 else ""
            made.add_row(where, str(part.kernels), str(part.delegates), f"{_mega(size)}{each}")
        console.print(made)


def _runs(parts: tuple[Part, ...]) -> list[tuple[Part, int, str]]:
    """Equal parts that follow each other, as one line."""
    found: list[tuple[Part, int, str]] = []
    start = 0
    while start < len(parts):
        end = start
        while end + 1 < len(parts) and parts[end + 1] == parts[start]:
            end += 1
        found.append((parts[start], end - start + 1, _where(start, end, len(parts))))
        start = end + 1
    return found


def _where(start: int, end: int, count: int) -> str:
    if start == count - 1:
        return f"behind the attention of layer {count - 2}"
    if start == end:
        return f"up to the attention of layer {start}"
    return f"up to the attention of layers {start} to {end}"


def _grouped(layers: Mapping[str, int]) -> list[tuple[str, str]]:
    """Layers of one size that follow each other, as one line."""
    lines: list[list[Any]] = []
    for name, size in layers.items():
        if lines and lines[-1][2] == size and name[-1:].isdigit():
            lines[-1][1] = name
        else:
            lines.append([name, name, size])
    return [
        (first, _mega(size)) if first == last else (f"{first} to {last}", f"{_mega(size)} each")
        for first, last, size in lines
    ]


def _state(method: MethodInfo) -> str:
    state = method.state
    if not state.bytes:
        return "no state outside of delegates"
    if state.bytes_per_token is None:
        return f"{_megabytes(state.bytes)} of state"
    return (
        f"{_megabytes(state.bytes)} of state; KV cache {state.bytes_per_token / 1e3:.1f} kB a token"
    )


def _delegates(delegates: tuple[DelegateInfo, ...]) -> str:
    counts = Counter(each.backend for each in delegates)
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _mega(size: int) -> str:
    return f"{size / MEGA:.2f}"


def _megabytes(size: int) -> str:
    return f"{size / MEGA:.1f} MB"
