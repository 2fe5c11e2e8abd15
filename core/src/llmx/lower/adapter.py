"""A LoRA adapter merged into the weights while they stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from llmx.checkpoint import Checkpoint, IntegerWeight, WeightMap, apply, plan
from llmx.checkpoint.weight_map import Step
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.model.params import DecoderParams


def merged(
    tensors: Iterable[tuple[str, Tensor | IntegerWeight]],
    adapter: Checkpoint,
    family: FamilySpec,
    params: DecoderParams,
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, Tensor | IntegerWeight]]:
    """``tensors`` with what ``adapter`` adds to them; what it changes becomes fp32.

    Args:
        adapter: see ``llmx.checkpoint.lora``.
        shapes: of the model's parameters, by name.

    Raises:
        CheckpointError: it changes a layer that the model does not have, or of another shape.
    """
    steps = _steps(adapter, family, params, shapes)

    def stream() -> Iterator[tuple[str, Tensor | IntegerWeight]]:
        for name, tensor in tensors:
            step = steps.get(name)
            if step is None:
                yield name, tensor
                continue
            values = tensor.dequantize() if isinstance(tensor, IntegerWeight) else tensor.float()
            yield name, values + dict(apply([step], adapter))[name]

    return stream()


def _steps(
    adapter: Checkpoint,
    family: FamilySpec,
    params: DecoderParams,
    shapes: Mapping[str, tuple[int, ...]],
) -> Mapping[str, Step]:
    """How what the adapter adds becomes the decoder's, by the decoder's names."""
    weight_map = family.convert_weights(checkpoint=adapter, params=params)
    if not isinstance(weight_map, WeightMap):
        raise CheckpointError(
            "this family converts weights itself, so an adapter's names cannot be told",
            remedy="merge it with PEFT (merge_and_unload) and export the result",
        )
    wanted: dict[str, tuple[int, ...]] = {}
    for source in adapter.tensors:
        targets = weight_map.find(source)
        names = [each if isinstance(each, str) else each.name for each in targets or ()]
        if not names or any(name not in shapes for name in names):
            raise CheckpointError(
                f"{adapter.source} changes {source.removesuffix('.weight')}, which this model "
                "does not have as a layer of its own",
                remedy="check that the adapter was made for this model",
            )
        wanted |= {name: shapes[name] for name in names}
    return {
        (target if isinstance(target, str) else target.name): step
        for step in plan(weight_map, adapter, wanted)
        for target in step.targets
    }
