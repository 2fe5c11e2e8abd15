"""The tools under comparison: their environments, and how each is told to do the same job."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).parent
CONTEXT = 2048
GROUP = 32
EXPORT_LLM_JOB = """\
base:
  model_class: llama3_2
  checkpoint: {weights}/meta/consolidated.00.pth
  params: {weights}/meta/params.json
  metadata: '{{"get_bos_id": 1, "get_eos_ids": [2, 0]}}'
model:
  use_kv_cache: true
  use_sdpa_with_kv_cache: true
  enable_dynamic_shape: true
export:
  max_seq_length: {context}
  max_context_length: {context}
  output_dir: {folder}
  output_name: model.pte
quantization:
  qmode: 8da4w
  group_size: {group}
  embedding_quantize: 4,{group}
backend:
  xnnpack:
    enabled: true
    extended_ops: true
"""


@frozen
class Tool:
    """A tool and the command that makes it export ``weights`` into ``folder``.

    ``requirements`` is a file of packages for an environment of its own; ``None`` for the
    environment that runs the benchmark.
    """

    name: str
    requirements: str | None
    command: Callable[[Path, Path, Path], Sequence[str]]

    def python(self, environments: Path) -> Path:
        """Its interpreter; the environment is made the first time."""
        if self.requirements is None:
            return Path(sys.executable)
        folder = environments / self.name
        python = folder / "bin" / "python"
        if not (folder / "installed").exists():
            venv.create(folder, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / self.requirements)]
            subprocess.run(pip, check=True)  # noqa: S603
            (folder / "installed").touch()
        return python


def _llmx(python: Path, weights: Path, folder: Path) -> Sequence[str]:
    job = ["export", "smollm2", "--checkpoint", str(weights / "hf"), "-o", str(folder / "out")]
    job += ["--no-cache"]
    job += [f"export.max_seq_length={CONTEXT}", f"export.max_context_length={CONTEXT}"]
    job += ["quantization.qmode=8da4w", f"quantization.group_size={GROUP}"]
    job += ["quantization.method=search"]  # as the others: without a text
    job += [f"quantization.embedding_quantize=4,{GROUP}"]
    return [str(python.parent / "llmx"), *job]


def _export_llm(python: Path, weights: Path, folder: Path) -> Sequence[str]:
    job = EXPORT_LLM_JOB.format(weights=weights, folder=folder, context=CONTEXT, group=GROUP)
    (folder / "job.yaml").write_text(job)
    module = "executorch.extension.llm.export.export_llm"
    return [str(python), "-m", module, "--config", str(folder / "job.yaml")]


def _optimum(python: Path, weights: Path, folder: Path) -> Sequence[str]:
    command = [str(python.parent / "optimum-cli"), "export", "executorch"]
    command += ["--model", str(weights / "hf"), "--task", "text-generation", "--recipe", "xnnpack"]
    command += ["--use_custom_sdpa", "--use_custom_kv_cache", "--max_seq_len", str(CONTEXT)]
    command += ["--qlinear", "8da4w", "--qlinear_group_size", str(GROUP)]
    command += ["--qembedding", "4w", "--qembedding_group_size", str(GROUP)]
    return [*command, "--output_dir", str(folder / "out")]


TOOLS = (
    Tool("llmx", None, _llmx),
    Tool("export_llm", "requirements-export_llm.txt", _export_llm),
    Tool("optimum-executorch", "requirements-optimum.txt", _optimum),
)


def export(tool: Tool, weights: Path, folder: Path, environments: Path) -> Path:
    """Run the tool unless its program is there; cost goes to ``export.json`` beside it.

    Raises:
        SystemExit: the tool failed; what it said is in ``export.log``.
    """
    cost = folder / "export.json"
    if not cost.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = tool.command(tool.python(environments), weights, folder)
        with (folder / "export.log").open("wb") as log:
            started = time.monotonic()
            process = subprocess.Popen(  # noqa: S603
                command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{tool.name} failed, see {folder / 'export.log'}")
        cost.write_text(json.dumps(_cost(used, time.monotonic() - started)))
    return next(folder.rglob("*.pte"))


def _cost(used: resource.struct_rusage, wall: float) -> dict[str, float]:
    """Seconds, and bytes of peak resident memory (the kernel counts kibibytes)."""
    cpu = used.ru_utime + used.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_bytes": used.ru_maxrss * 1024}
