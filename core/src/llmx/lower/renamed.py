"""A program whose weights have other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec

T = TypeVar("T")
NAMED = (InputKind.PARAMETER, InputKind.BUFFER)


def with_names(program: ExportedProgram, name_of: Callable[[str], str]) -> ExportedProgram:
    """``program`` with the name that ``name_of`` gives for each of its parameters and buffers.

    State, which the program itself changes, keeps its names.
    """
    signature = program.graph_signature
    state = set(signature.buffers_to_mutate.values())
    names = {
        spec.target: name_of(spec.target)
        for spec in signature.input_specs
        if spec.kind in NAMED and spec.target is not None and spec.target not in state
    }
    if all(name == new for name, new in names.items()):
        return program
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=ExportGraphSignature(
            input_specs=[_renamed(spec, names) for spec in signature.input_specs],
            output_specs=signature.output_specs,
        ),
        state_dict=_with_keys(program.state_dict, names),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        constants=_with_keys(program.constants, names),
        verifiers=[program.verifier],
    )


def _renamed(spec: InputSpec, names: Mapping[str, str]) -> InputSpec:
    return (
        spec if spec.target is None else replace(spec, target=names.get(spec.target, spec.target))
    )


def _with_keys(held: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    return {names.get(name, name): value for name, value in held.items()}
