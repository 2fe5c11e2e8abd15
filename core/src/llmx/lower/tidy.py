"""Equal ways of writing an exported graph made one, the one that backends take."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)
CASTS = (torch.ops.aten.to.dtype, torch.ops.aten.to.device)
CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)
SHAPED = torch.ops.aten.unsqueeze.default
INFERRED = -1


def tidy(program: ExportedProgram) -> ExportedProgram:
    """The same program, changed in place.

    The length of a call in a view's shape becomes -1: delegates infer a dimension, but take no
    symbol for one. Casts to the type that a tensor has, and checks that it has it, go. What each
    layer would shape anew is shaped once before them, so that they stay the same program.
    """
    module: GraphModule = program.graph_module
    shaped: dict[object, Node] = {}
    for node in list(module.graph.nodes):
        if node.target is SHAPED:
            first = shaped.setdefault((node.args, tuple(node.kwargs.items())), node)
            if first is not node:
                node.replace_all_uses_with(first)
                module.graph.erase_node(node)
        elif node.target in VIEWS:
            _infer(node)
        elif node.target in CHECKS:
            module.graph.erase_node(node)
        elif node.target in CASTS and _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return program


def _infer(node: Node) -> None:
    shape = node.meta["val"].shape
    symbols = [at for at, size in enumerate(shape) if not isinstance(size, int)]
    if len(symbols) == 1:
        sizes = [INFERRED if at in symbols else int(size) for at, size in enumerate(shape)]
        node.args = (node.args[0], sizes)


def _changes_nothing(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = source.meta["val"], node.meta["val"]
    copies = node.kwargs.get("copy", False) or node.kwargs.get("memory_format") is not None
    same: bool = before.dtype == after.dtype and before.device == after.device
    return same and not copies and all(each is not True for each in node.args)
