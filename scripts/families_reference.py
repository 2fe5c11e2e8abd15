"""Tables of the installed families, from their plugins."""

from __future__ import annotations

from collections.abc import Iterator

from llmx.cli.models import readable_count
from llmx.model.params import ModelSize
from llmx.plugins import FAMILIES, Installed, installed, load

OURS = ("llmx-plugin-llama", "llmx-plugin-phi", "llmx-plugin-qwen", "llmx-plugin-smollm")


def families() -> str:
    """One table of sizes for each family of this repository."""
    ours = [each for each in installed(FAMILIES) if each.distribution in OURS]
    return "\n".join(line for plugin in ours for line in _section(plugin))


def _section(plugin: Installed) -> Iterator[str]:
    family = load(plugin.name, None).family
    ids = family.token_ids(checkpoint=None)
    yield f"### {plugin.name}\n"
    yield f"From `{plugin.distribution}`. Texts end at the ids {_listed(ids.eos)}.\n"
    yield "| size | parameters | context | weights | configuration |"
    yield "|---|---|---|---|---|"
    for index, (name, size) in enumerate(family.sizes().items()):
        yield _row(name, size, is_default=index == 0)
    yield ""


def _row(name: str, size: ModelSize, *, is_default: bool) -> str:
    repo = f"[{size.hub_repo}](https://huggingface.co/{size.hub_repo})"
    cells = (
        f"`{name}`" + (" (default)" if is_default else ""),
        readable_count(size.params.parameter_count),
        f"{size.params.max_position:,}",
        repo,
        f"[config.json]({size.config_url})",
    )
    return f"| {' | '.join(cells)} |"


def _listed(ids: tuple[int, ...]) -> str:
    return ", ".join(str(each) for each in ids)
