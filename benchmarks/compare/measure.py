"""What the exported programs do on one runtime: load time, speed in turns, and quality."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from llmx.native import register_operators

DECODE_POSITIONS = (16, 440, 2000)
PREFILL_LENGTHS = (128, 400)
STEPS = 32
PROMPTS = 2
LONGEST_TEXT = 512


@frozen
class Program:
    """``forward`` of a ``.pte``, whichever of the tools made it.

    The second input is the position of the first token for programs made for ExecuTorch's runner,
    and the position of every token for those of optimum-executorch.
    """

    path: Path
    program: Any = field(repr=False)
    method: Any = field(repr=False)
    all_positions: bool

    @classmethod
    def load(cls, path: Path) -> Program:
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        sizes = program.metadata("forward").input_tensor_meta(1).sizes()
        return cls(path, program, program.load_method("forward"), tuple(sizes) != (1,))

    def inputs(self, tokens: Tensor, start: int) -> list[Tensor]:
        last = start + tokens.shape[1] if self.all_positions else start + 1
        return [tokens, torch.arange(start, last)]

    def last_logits(self, tokens: Tensor, start: int) -> Tensor:
        """tokens [1, S] to the logits [vocab] that follow the last of them."""
        logits: Tensor = self.method.execute(self.inputs(tokens, start))[0]
        return logits.reshape(-1, logits.shape[-1])[-1].clone()


def measure(
    programs: Mapping[str, Path], weights: Path, texts: Path, rounds: int
) -> dict[str, Any]:
    """Load times (s), speeds (tokens/s) and divergences of every program, by tool."""
    register_operators()
    loads, speeds = _loads_and_speeds(programs, rounds)
    loaded = {name: Program.load(path) for name, path in programs.items()}
    divergences = _divergences(loaded, weights, texts)
    return {
        name: {
            "bytes": programs[name].stat().st_size,
            "load_s": loads[name],
            **speeds[name],
            "kl": divergences[name],
        }
        for name in programs
    }


def _loads_and_speeds(
    programs: Mapping[str, Path], rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Seconds to load, and tokens per second by kind of call; one figure of each per round.

    In every round each program is loaded anew, in random order: where its memory happens to lie
    makes up to a sixth of the speed of decoding.
    """
    loads: dict[str, list[float]] = {name: [] for name in programs}
    speeds: dict[str, dict[str, Any]] = {name: {} for name in programs}
    for _ in range(rounds):
        for name in _shuffled(programs):
            started = time.perf_counter()
            program = Program.load(programs[name])
            loads[name].append(time.perf_counter() - started)
            for length in PREFILL_LENGTHS:
                rate = length * _calls_per_second(program, length, [0] * PROMPTS)
                speeds[name].setdefault("prefill", {}).setdefault(str(length), []).append(rate)
            for position in DECODE_POSITIONS:
                rate = _calls_per_second(program, 1, range(position, position + STEPS))
                speeds[name].setdefault("decode", {}).setdefault(str(position), []).append(rate)
    return loads, speeds


def _calls_per_second(program: Program, length: int, starts: Sequence[int]) -> float:
    """Of ``length`` tokens; a call before them, which sets up the shapes, is not counted."""
    inputs = [program.inputs(torch.randint(1000, (1, length)), start) for start in starts]
    program.method.execute(inputs[0])
    started = time.perf_counter()
    for each in inputs:
        program.method.execute(each)
    return len(inputs) / (time.perf_counter() - started)


def _shuffled(programs: Mapping[str, Any]) -> list[str]:
    return random.sample(list(programs), len(programs))


def _divergences(
    programs: Mapping[str, Program], weights: Path, texts: Path
) -> dict[str, dict[str, float]]:
    """KL to the model as published, over all texts: mean and median in nats per token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights / "hf")
    # The bf16 weights, computed in fp32.
    model = AutoModelForCausalLM.from_pretrained(weights / "hf", dtype=torch.float32)
    found: dict[str, list[float]] = {name: [] for name in programs}
    for path in sorted(texts.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :LONGEST_TEXT]
        with torch.no_grad():
            expected = model(ids).logits[0].log_softmax(-1)
        for name, program in programs.items():
            rows = [program.last_logits(ids[:, at : at + 1], at) for at in range(ids.shape[1])]
            actual = torch.stack(rows).log_softmax(-1)
            found[name] += (expected.exp() * (expected - actual)).sum(-1).tolist()
    return {
        name: {"mean": statistics.fmean(each), "median": statistics.median(each)}
        for name, each in found.items()
    }
