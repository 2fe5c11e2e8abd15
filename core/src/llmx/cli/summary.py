"""What an export did, in a few lines for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmx.artifact import Artifact
from llmx.cli.console import stdout
from llmx.cli.delegation_table import operator_table, outside_table
from llmx.cli.memory_table import peak_table
from llmx.cli.weights_table import weights_table
from llmx.report.page import PAGE_NAME

MEGA = 1e6
FAILED = 1
REUSED = {
    "program": "the whole program; `--no-cache` makes it anew",
    "skeleton": "the lowered program, filled with these weights; `--no-cache` lowers it anew",
}


def report_export(artifact: Artifact, *, as_json: bool, verbose: bool) -> int:
    """Print a fresh artifact's summary, or its ``llmx.json``; gives the exit code."""
    if as_json:
        click.echo(json.dumps(artifact.manifest, indent=2))
    else:
        print_summary(stdout(), artifact, verbose=verbose)
    return FAILED if artifact.failed else 0


def print_summary(console: Console, artifact: Artifact, *, verbose: bool) -> None:
    """Print size, quantization, delegation, context and checks of a fresh artifact.

    ``verbose`` adds the tables of weights, of operators, of what was left outside and why, and of
    the peak of the memory plan.
    """
    manifest = artifact.manifest
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    for heading, text in _rows(artifact):
        grid.add_row(heading, escape(text))
    console.print(grid)
    if verbose:
        console.print()
        console.print(weights_table(manifest["weights"]["modules"]))
    if verbose and manifest["delegation"] is not None:
        console.print()
        console.print(operator_table(manifest["delegation"]))
        console.print()
        console.print(outside_table(manifest["delegation"]["outside"]))
        console.print()
        console.print(peak_table(manifest["memory"]))


def _rows(artifact: Artifact) -> Iterator[tuple[str, str]]:
    manifest = artifact.manifest
    program, weights = manifest["program"], manifest["weights"]
    yield "program", f"{artifact.program}, {program['bytes'] / MEGA:.1f} MB"
    for name in program["data_files"]:
        size = manifest["files"][name]["bytes"] / MEGA
        yield "", f"with weights in {name}, {size:.1f} MB"
    yield (
        "weights",
        f"{weights['elements'] / MEGA:.1f} M at {weights['bits_per_weight']:.2f} bits each, "
        f"{weights['quantized_layers']} of {weights['layers']} layers quantized",
    )
    for line in _schemes(weights["modules"]):
        yield "", line
    lowered = manifest["delegation"] is not None
    if lowered:
        yield "delegation", _delegation(manifest["delegation"])
        yield "memory", _memory(manifest["memory"])
    yield "context", _context(manifest)
    if lowered:
        yield "check", _checks(manifest["checks"])
    yield "time", _stages(manifest["stages"])
    if manifest["reused"] is not None:
        yield "from cache", REUSED[manifest["reused"]]
    if manifest["config"]["debug"]["report"]:
        yield "report", str(artifact.folder / PAGE_NAME)
    tokenizer = artifact.tokenizer
    if not lowered:
        yield "next", f"torch.export.load({str(artifact.program)!r})"
    elif tokenizer is None:
        yield "tokenizer", "none found; add one with --tokenizer FILE to run the model"
    else:
        yield (
            "next",
            f"llmx {'chat' if artifact.chat_template else 'run'} {_shown(artifact.folder)}",
        )


def _schemes(modules: list[Mapping[str, Any]]) -> Iterator[str]:
    """Layers by kind, bits and group size."""
    counts = Counter(
        (each["kind"], each["bits"], each["group"]) for each in modules if each["kind"] != "other"
    )
    for (kind, bits, group), count in sorted(counts.items(), key=lambda item: -item[1]):
        plural = "s" if count > 1 else ""
        groups = f" in groups of {group}" if group is not None else ""
        yield f"{count} {kind}{plural} of {bits} bits{groups}"


def _delegation(delegation: Mapping[str, Any]) -> str:
    if not delegation["subgraphs"]:
        return f"none; {delegation['other_nodes']} nodes run on portable kernels"
    return (
        f"{delegation['delegated_nodes']} nodes in {delegation['subgraphs']} subgraphs, "
        f"{delegation['other_nodes']} nodes left to portable kernels"
    )


def _memory(memory: Mapping[str, Any]) -> str:
    words = f"{memory['planned_bytes'] / MEGA:.1f} MB planned for the longest input"
    largest = next((each for each in memory["peak_tensors"] if each["operator"] != "state"), None)
    if largest is None:
        return words
    where = largest["module"] or largest["name"]
    state = f"{memory['state_bytes'] / MEGA:.1f} MB of it state"
    return f"{words}, {state}; the largest at the peak is of {where}"


def _context(manifest: Mapping[str, Any]) -> str:
    length = manifest["config"]["export"]["max_context_length"]
    model = manifest["config"]["model"]
    if not model["use_kv_cache"]:
        return f"{length} tokens, no KV cache"
    kind = "int8 KV cache" if model["quantize_kv_cache"] else "KV cache"
    cache = f"{manifest['model']['kv_cache_bytes'] / MEGA:.1f} MB of {kind}"
    if model["use_attention_sink"] is None:
        return f"{length} tokens, {cache}"
    sinks, window = model["use_attention_sink"].split(",")
    return f"the first {int(sinks)} and the last {int(window)} of {length} tokens, {cache}"


def _checks(checks: list[Mapping[str, Any]]) -> str:
    failed = [each["name"] for each in checks if not each["passed"]]
    outcome = f"failed: {', '.join(failed)}" if failed else f"{len(checks)} of {len(checks)} passed"
    # A bound of 0 is for counts, of which there must be none.
    compared = [each for each in checks if each["bound"]]
    if not compared:
        return f"{outcome}; the program was not run on this machine"
    worst = max(compared, key=lambda each: float(each["figure"] / each["bound"]))
    return (
        f"{outcome}; logits differ by at most "
        f"{worst['figure']:.1g} of their deviation (bound {worst['bound']:.1g})"
    )


def _stages(stages: list[Mapping[str, Any]]) -> str:
    seconds = sum(each["seconds"] for each in stages)
    longest = max(stages, key=lambda each: float(each["seconds"]))
    peak = max(each["peak_bytes"] for each in stages)
    return (
        f"{seconds:.0f} s, of which {longest['seconds']:.0f} s for {longest['name']!r}; "
        f"peak memory {peak / 1e9:.2f} GB"
    )


def _shown(folder: Path) -> str:
    text = str(folder)
    return f"'{text}'" if " " in text else text
