"""A new family's package."""

from __future__ import annotations

from collections.abc import Mapping
from pprint import pformat

import attrs

from llmx.model.params import DecoderParams, RopeScaling
from llmx.scaffold.description import Description
from llmx.scaffold.package import PackageName, common_values, render

# What stands in until the author knows better: small enough to export in seconds.
TINY = DecoderParams(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128, vocab_size=256,
    max_position=256,
)  # fmt: skip
INDENT = " " * 12


def family_package(package: PackageName, found: Description | None) -> Mapping[str, str]:
    """Files of the package by path; without ``found`` for a made-up tiny model."""
    values = common_values(package) | (_unknown() if found is None else _known(found))
    compared = found is not None and found.in_transformers
    test = "family_test.txt" if compared else "family_test_random.txt"
    return {
        "pyproject.toml": render("family_pyproject.txt", values),
        "README.md": render("family_readme.txt", values),
        f"src/{package.module}/__init__.py": render("family_module.txt", values),
        "tests/test_conformance.py": render(test, values),
    }


def _unknown() -> dict[str, str]:
    return {
        "size": "tiny",
        "params": _params(TINY),
        "attrs": "",
        "imports": "",
        "hub_repo": "ORGANISATION/MODEL",
        "bos": "None",
        "eos": "(0,)",
        "model_type": "MODEL_TYPE",
        "decoder": "decoder_params(config)",
        "extra": "",
        "notes": _notes(
            [
                "the sizes: SIZES has one that is made up",
                "MODEL_TYPE, as config.json has it",
                "the ids at which texts begin and end",
            ]
        ),
    }


def notes(found: Description) -> list[str]:
    """What the author of the package has to find out."""
    lines = list(found.unknown)
    if not found.in_transformers:
        lines.append(
            f"what to compare logits with: transformers does not build {found.model_type!r} here, "
            "so the test is of an export with random weights"
        )
    if found.hub_repo is None:
        lines.append("the hub id of the weights: ORGANISATION/MODEL stands for it")
    if found.unmapped:
        listed = ", ".join(found.unmapped)
        lines.append(f"what becomes of these tensors, which are not mapped: {listed}")
    return [*lines, "whether GGUF files of it reorder the rows of q and k: assumed not"]


def _known(found: Description) -> dict[str, str]:
    return {
        "size": _size_name(found.params.parameter_count),
        "params": _params(found.params),
        "attrs": "import attrs\n" if found.hidden else "",
        "imports": _rope_import(found.params.rope_scaling),
        "hub_repo": found.hub_repo or "ORGANISATION/MODEL",
        "bos": repr(found.tokens.bos),
        "eos": repr(found.tokens.eos),
        "model_type": found.model_type,
        "decoder": _decoder(found.hidden),
        "extra": _extra(found),
        "notes": _notes(notes(found)),
    }


def _params(params: DecoderParams) -> str:
    """Arguments that differ from their defaults, one per line."""
    lines = []
    for each in attrs.fields(DecoderParams):
        value = getattr(params, each.name)
        implied = each.name == "rotary_dim" and value == params.head_dim
        if value != each.default and not implied:
            lines.append(f"{INDENT}{each.name}={value!r},")
    return "\n".join(lines)


def _rope_import(scaling: RopeScaling) -> str:
    plain = attrs.fields(DecoderParams).rope_scaling.default
    if scaling == plain:
        return ""
    return f"from llmx.model.params import {type(scaling).__name__}\n"


def _decoder(hidden: Mapping[str, bool]) -> str:
    """How the parameters come from a configuration that does not say all."""
    if not hidden:
        return "decoder_params(config)"
    stated = ", ".join(f"{name}={value}" for name, value in hidden.items())
    return f"attrs.evolve(decoder_params(config), {stated})"


def _extra(found: Description) -> str:
    if not found.extra:
        return ""
    entries = pformat(dict(found.extra), width=80, sort_dicts=False).replace("\n", "\n        ")
    return f".updated(\n        {entries}\n    )"


def _notes(lines: list[str]) -> str:
    return "\n".join(f"- [ ] {each}" for each in lines)


def _size_name(count: int) -> str:
    from llmx.cli.models import readable_count

    return readable_count(count).lower()
