"""How far programs are from the model that they were made of, on texts that nobody calibrated on.

    .venv/bin/python benchmarks/quality.py --checkpoint CHECKPOINT [NAME=]PROGRAM ...

Each program (a .pte of any tool whose ``forward`` takes tokens and a position) reads the held-out
texts token by token. Printed are its size, the mean Kullback-Leibler divergence of its predictions
from the float model's in nats per token, and perplexity beside the float model's.

A graph of ``export.export_only=true debug.generate_full_logits=true`` (.pt2) is run by PyTorch,
a text at a time; its size is that of its weights as ``llmx.json`` beside it has them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from attrs import asdict, define, frozen
from torch import Tensor

from llmx.plugins import load
from llmx.quantize.embedding import quantized_operators
from llmx.run.runtime import ProgramMethod, register_operators
from llmx.run.tokenizer import load_tokenizer
from llmx.testing.eager import load_eager

TEXTS = Path(__file__).parent / "heldout"
FIRST = "<|endoftext|>"


@frozen
class Quality:
    """One program's row: bytes, nats per token, and perplexities of itself and in float."""

    name: str
    bytes: int
    divergence: float
    perplexity: float
    float_perplexity: float


@define
class Sums:
    """What is added up over all positions of all texts."""

    divergence: float = 0.0
    loss: float = 0.0
    float_loss: float = 0.0
    positions: int = 0
    predictions: int = 0

    def add(self, wanted: Tensor, found: Tensor, following: int | None) -> None:
        """Log-probabilities [vocab] of the float model and of the program for the next token."""
        self.divergence += float((wanted.exp() * (wanted - found)).sum())
        self.positions += 1
        if following is not None:
            self.loss -= float(found[following])
            self.float_loss -= float(wanted[following])
            self.predictions += 1


def measure(
    name: str, program: Path, texts: Sequence[Sequence[int]], exact: Callable[[Tensor], Tensor]
) -> Quality:
    """Run every text through a program or a graph, and through the float model."""
    read, size = _graph(program) if program.suffix == ".pt2" else _program(program)
    sums = Sums()
    for ids in texts:
        wanted = exact(torch.tensor([ids])).log_softmax(-1)
        for at, logits in enumerate(read(ids)):
            found = logits.float().reshape(-1, wanted.shape[-1])[-1].log_softmax(-1)
            sums.add(wanted[at], found, ids[at + 1] if at + 1 < len(ids) else None)
    return Quality(
        name=name,
        bytes=size,
        divergence=sums.divergence / sums.positions,
        perplexity=math.exp(sums.loss / sums.predictions),
        float_perplexity=math.exp(sums.float_loss / sums.predictions),
    )


Reader = Callable[[Sequence[int]], Iterable[Tensor]]
"""Gives the logits behind each token of a text."""


def _program(path: Path) -> tuple[Reader, int]:
    method = ProgramMethod(path)

    def read(ids: Sequence[int]) -> Iterable[Tensor]:
        for at, token in enumerate(ids):
            yield method(torch.tensor([[token]]), torch.tensor([at]))

    return read, path.stat().st_size


def _graph(path: Path) -> tuple[Reader, int]:
    register_operators()
    quantized_operators()
    graph = torch.export.load(path).module()
    modules = json.loads((path.parent / "llmx.json").read_text("utf-8"))["weights"]["modules"]

    @torch.no_grad()
    def read(ids: Sequence[int]) -> Iterable[Tensor]:
        logits: Tensor = graph(torch.tensor([list(ids)]), torch.tensor([0]))
        return logits[0]

    return read, sum(each["stored_bytes"] for each in modules)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--family", default="smollm2")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="e.g. that of an artifact")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("programs", nargs="+", metavar="[NAME=]PROGRAM")
    given = parser.parse_args(arguments)

    tokenizer = load_tokenizer(given.tokenizer)
    texts = [
        tokenizer.encode(FIRST) + tokenizer.encode(path.read_text("utf-8"))
        for path in sorted(TEXTS.glob("*.txt"))
    ]
    family = load(given.family, None).family
    model = load_eager(
        family, given.checkpoint, max_context_length=max(len(ids) for ids in texts)
    ).model

    def exact(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(tokens, torch.tensor([0]))[0]
        return logits

    rows = []
    for each in given.programs:
        name, _, path = each.rpartition("=")
        rows.append(measure(name or Path(path).parent.name, Path(path), texts, exact))
        sys.stdout.write(_line(rows[-1]))
        sys.stdout.flush()
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _line(row: Quality) -> str:
    worse = row.perplexity / row.float_perplexity - 1
    return (
        f"{row.name:32} {row.bytes / 1e6:7.1f} MB  KL {row.divergence:.4f}  "
        f"perplexity {row.perplexity:.2f} ({worse:+.1%})\n"
    )


if __name__ == "__main__":
    main()
