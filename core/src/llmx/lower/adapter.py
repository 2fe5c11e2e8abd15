"""A LoRA adapter merged into the weights while they stream by, or kept beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
from torch import Tensor

from llmx.checkpoint import Checkpoint, IntegerWeight, WeightMap, apply, plan
from llmx.checkpoint.base import TensorInfo
from llmx.checkpoint.lora import LoraCheckpoint
from llmx.checkpoint.weight_map import Step
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.model.adapted import LowRank
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


def kept_beside(
    adapter: LoraCheckpoint,
    family: FamilySpec,
    params: DecoderParams,
    shapes: Mapping[str, tuple[int, ...]],
) -> Mapping[str, LowRank]:
    """What ``adapter`` adds to each of the decoder's weights, by name; arguments as above.

    Raises:
        CheckpointError: it changes a layer that the model does not have, or of another shape.
    """
    ups = _Ups(
        source=adapter.source,
        layout=adapter.layout,
        files=adapter.files,
        interleaved_qk=adapter.interleaved_qk,
        tensors={
            name: TensorInfo(adapter.inner.tensors[up].shape, info.dtype)
            for (name, info), (_, up) in zip(
                adapter.tensors.items(), adapter.factors.values(), strict=True
            )
        },
        adapter=adapter,
    )
    steps = _steps(ups, family, params, shapes, factors=True)
    found = {}
    for name, step in steps.items():
        down, _ = adapter.factors[step.source]
        up = dict(apply([step], ups))[name]
        found[name] = LowRank(adapter.inner.read(down).float(), up)
    return found


@attrs.frozen(kw_only=True, slots=False)
class _Ups(Checkpoint):
    """The second factors alone, scaled, under the names of the weights that they change.

    Their rows are the weights' own, so that a family's map holds for them.
    """

    adapter: LoraCheckpoint

    def read(self, name: str) -> Tensor:
        _, up = self.adapter.factors[name]
        scaled: Tensor = self.adapter.inner.read(up).float() * self.adapter.scales[name]
        return scaled


def _steps(
    adapter: Checkpoint,
    family: FamilySpec,
    params: DecoderParams,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    factors: bool = False,
) -> Mapping[str, Step]:
    """How what the adapter adds becomes the decoder's, by the decoder's names.

    ``factors``: its tensors have the rows of the decoder's, but columns of their own.
    """
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
        columns = adapter.tensors[source].shape[1:]
        wanted |= {name: (shapes[name][0], *columns) if factors else shapes[name] for name in names}
    return {
        (target if isinstance(target, str) else target.name): step
        for step in plan(weight_map, adapter, wanted)
        for target in step.targets
    }
