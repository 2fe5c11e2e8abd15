"""``MODEL_CARD.md``: what ``llmx.json`` says, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

MEGA = 1e6


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown with the front matter of Hugging Face's model cards."""
    return "\n".join([*_front_matter(manifest), *_body(manifest)]) + "\n"


def _front_matter(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    yield "library_name: executorch"
    source = manifest["source"]
    if source["revision"] is not None:  # a hub id, as only downloads have revisions
        yield f"base_model: {source['checkpoint']}"
    yield "pipeline_tag: text-generation"
    yield f"tags: [executorch, llmx, {manifest['family']}]"
    yield "---"
    yield ""


def _body(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_title(manifest)}"
    yield ""
    count = manifest["model"]["parameter_count"]
    yield f"A language model of {count:,} parameters for ExecuTorch's LLM runner."
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, text in _facts(manifest):
        yield f"| {name} | {text} |"
    yield ""
    yield "## Files"
    yield ""
    yield "| file | MB | SHA-256 |"
    yield "|---|---|---|"
    for name, entry in manifest["files"].items():
        yield f"| `{name}` | {entry['bytes'] / MEGA:.1f} | `{entry['sha256']}` |"
    yield ""
    yield from _use(manifest)
    yield from _checks(manifest)
    yield "## Licence"
    yield ""
    yield "That of the model that it was made from."


def _title(manifest: Mapping[str, Any]) -> str:
    quantized = manifest["config"]["quantization"]["qmode"]
    backend = ", ".join(manifest["config"]["backend"] or ()) or "portable kernels"
    words = (manifest["family"], manifest["size"], f"for {backend},", quantized or "not quantized")
    return " ".join(word for word in words if word)


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source, weights, model = manifest["source"], manifest["weights"], manifest["model"]
    if source["random_weights"]:
        yield "made from", "random weights: it is untrained"
    else:
        # A path says more about the exporting machine than about the model.
        name = source["checkpoint"] if source["revision"] else PurePath(source["checkpoint"]).name
        revision = f", revision `{source['revision']}`" if source["revision"] else ""
        yield "made from", f"`{name}`{revision}"
    if source["adapter"] is not None:
        yield "with the adapter", f"`{PurePath(source['adapter']).name}`"
    yield (
        "weights",
        f"{weights['quantized_layers']} of {weights['layers']} layers quantized, "
        f"{weights['bits_per_weight']:.2f} bits a weight, {weights['stored_bytes'] / MEGA:.1f} MB",
    )
    length = manifest["config"]["export"]["max_context_length"]
    yield "context", f"{length} tokens; KV caches of {model['kv_cache_bytes'] / MEGA:.1f} MB"
    ids = ", ".join(map(str, model["eos_ids"]))
    yield "tokens", f"begins with {model['bos_id']}, ends with {ids}"
    if manifest["sampling"]:
        sampling = ", ".join(f"{key} {value}" for key, value in manifest["sampling"].items())
        yield "sampling", sampling
    versions = manifest["versions"]
    yield "made with", ", ".join(f"{name} {versions[name]}" for name in versions)


def _use(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Use"
    yield ""
    if manifest["tokenizer"] is None:
        yield "The tokenizer is not in this bundle."
    else:
        yield "```console"
        yield f"$ llmx {'chat' if manifest['chat_template'] else 'run'} ."
        yield "```"
        yield ""
        program = manifest["program"]
        files = [program["file"], *program.get("data_files", ()), manifest["tokenizer"]]
        names = [f"`{each}`" for each in files]
        yield (
            f"In an app, give {', '.join(names[:-1])} and {names[-1]} to ExecuTorch's LLM runner."
        )
    if manifest["chat_template"]:
        yield "Write prompts with the Jinja template in `llmx.json` (`chat_template`)."
    yield ""


def _checks(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Checks"
    yield ""
    verification = manifest["verification"]
    checks = manifest["checks"] if verification is None else verification["checks"]
    if verification is not None and not verification["passed"]:
        yield "**This model failed its verification.**"
        yield ""
    # Numbers of differing tokens have a bound of 0.
    if not any(each["bound"] for each in checks):
        yield "The program was not run: the machine that made it cannot execute it."
        yield ""
    if not checks:
        return
    yield "| check | outcome | figure | at most |"
    yield "|---|---|---|---|"
    for each in checks:
        outcome = {True: "passed", False: "**failed**", None: "not made"}[each["passed"]]
        figures = f"{_number(each['figure'])} | {_number(each['bound'])}"
        yield f"| {each['name']} | {outcome} | {figures} |"
    yield ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
