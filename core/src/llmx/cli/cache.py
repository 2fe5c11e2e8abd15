"""``llmx cache``: what earlier exports left for later ones, and how to remove it."""

from __future__ import annotations

import json
import time

import click

from llmx.cache.location import FOLDER_VARIABLE, SIZE_VARIABLE, cache_folder, cache_limit
from llmx.cache.store import DiskStore, Entry

GIGA = 1e9
KINDS = {
    "programs": "finished programs",
    "skeletons": "lowered programs without weights",
    "weights": "quantized weights",
}


@click.group("cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show what earlier exports left for later ones; `llmx cache clear` removes it."""
    if context.invoked_subcommand is None:
        _show(as_json)


@command.command("clear")
def clear() -> None:
    """Remove everything from the cache."""
    store = _store()
    freed = sum(entry.bytes for entry in store.entries()) if store else 0
    if store:
        store.clear()
    click.echo(f"removed {freed / GIGA:.2f} GB")


def _store() -> DiskStore | None:
    folder = cache_folder()
    return None if folder is None else DiskStore(folder, cache_limit())


def _show(as_json: bool) -> None:
    store = _store()
    if as_json:
        click.echo(json.dumps(_described(store), indent=2))
        return
    if store is None:
        click.echo(f"no cache: {FOLDER_VARIABLE} is set to nothing")
        return
    from llmx.cli.console import stdout, table

    entries = store.entries()
    shown = table("kind", "entries", "size", "last used")
    for kind, found in _by_kind(entries).items():
        size = sum(entry.bytes for entry in found)
        used = max(entry.used for entry in found)
        shown.add_row(
            KINDS.get(kind, kind), str(len(found)), f"{size / 1e6:.1f} MB", _ago(time.time() - used)
        )
    if entries:
        stdout().print(shown)
    total = sum(entry.bytes for entry in entries)
    click.echo(f"{store.root}: {total / GIGA:.2f} of {store.limit / GIGA:g} GB ({SIZE_VARIABLE})")


def _described(store: DiskStore | None) -> dict[str, object]:
    entries = [] if store is None else store.entries()
    return {
        "folder": None if store is None else str(store.root),
        "limit_bytes": 0 if store is None else store.limit,
        "bytes": sum(entry.bytes for entry in entries),
        "entries": [
            {"kind": each.kind, "key": each.key, "bytes": each.bytes, "used": int(each.used)}
            for each in sorted(entries, key=lambda each: -each.used)
        ],
    }


def _by_kind(entries: list[Entry]) -> dict[str, list[Entry]]:
    kinds: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda each: each.kind):
        kinds.setdefault(entry.kind, []).append(entry)
    return kinds


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
