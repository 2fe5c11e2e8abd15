"""What a model's own files say about it, for the plugin that will read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.checkpoint import TokenIds, hf_decoder_map
from llmx.checkpoint.base import TensorInfo
from llmx.checkpoint.companions import read_companions
from llmx.checkpoint.files import read_json
from llmx.checkpoint.opening import open_checkpoint
from llmx.checkpoint.peek import read_config
from llmx.checkpoint.weight_map import Targets
from llmx.errors import CheckpointError, ConfigError
from llmx.model.hf_config import decoder_params
from llmx.model.params import DecoderParams
from llmx.quiet import hushed

CONFIG = "config.json"
OWN_MODEL = (
    "make the package without --from and write its build_model and params_from_hf; "
    "docs/examples has four such families"
)
NO_ENDS = TokenIds(bos=None, eos=(0,))
ATTENTION = "layers.{i}.attention"
FUSED: Mapping[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": tuple(f"{ATTENTION}.{each}_proj" for each in "qkv"),
    "self_attn.W_pack": tuple(f"{ATTENTION}.{each}_proj" for each in "qkv"),
    "mlp.gate_up_proj": tuple(f"layers.{{i}}.feed_forward.{each}_proj" for each in ("gate", "up")),
}
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@frozen(kw_only=True)
class Description:
    """What could be found out, and in ``unknown`` what could not.

    ``extra`` are entries of a weight map beyond the usual names; ``unmapped`` are stored names,
    with ``{i}`` for the layer, that nothing is known about.
    """

    source: str
    model_type: str
    params: DecoderParams
    tokens: TokenIds
    extra: Mapping[str, Targets]
    unmapped: Sequence[str]
    unknown: Sequence[str]


def describe(source: str, revision: str | None) -> Description:
    """Read a folder, a ``config.json`` or a hub id; weights are not downloaded for it.

    Raises:
        CheckpointError: there is no configuration, or the decoder does not do what it asks for.
    """
    folder = Path(source).expanduser()
    file = folder if folder.suffix == ".json" and folder.is_file() else None
    config = read_json(file) if file else read_config(source, revision=revision, params=None)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            f"{source} does not say its model_type", remedy=f"name a {CONFIG} as on the hub"
        )
    unknown: list[str] = []
    shapes = _shapes(folder if folder.is_dir() else None, config, unknown)
    try:
        usual = decoder_params(config)
    except CheckpointError as error:
        # Its remedy is such a plugin as is to be written here.
        raise CheckpointError(error.message, remedy=OWN_MODEL) from error
    params = _with_hidden_parts(usual, shapes)
    extra, unmapped = _names(shapes, params)
    return Description(
        source=source,
        model_type=model_type,
        params=params,
        tokens=_tokens(folder if folder.is_dir() else None, config, unknown),
        extra=extra,
        unmapped=unmapped,
        unknown=unknown,
    )


def _shapes(
    folder: Path | None, config: Mapping[str, Any], unknown: list[str]
) -> Mapping[str, TensorInfo]:
    """Stored tensors by name: those of the folder, else those that ``transformers`` would store."""
    if folder is not None:
        try:
            return open_checkpoint(str(folder)).tensors
        except CheckpointError:
            pass  # a folder with the configuration only
    try:
        from llmx.testing.reference import meta_model

        fields = {key: value for key, value in config.items() if key != "model_type"}
        with hushed():
            model: Any = meta_model(config["model_type"], fields)
    except Exception as error:
        unknown.append(
            f"the names of its tensors ({type(error).__name__} from transformers); the usual ones "
            "are assumed"
        )
        return {}
    return {name: TensorInfo(tuple(each.shape), "bf16") for name, each in model.named_parameters()}


def _with_hidden_parts(params: DecoderParams, shapes: Mapping[str, TensorInfo]) -> DecoderParams:
    """Biases and norms that configurations leave unsaid, by the tensors that they have."""
    if not shapes:
        return params
    first = {name.partition(".0.")[2] for name in shapes if ".0." in name}
    return attrs.evolve(
        params,
        qkv_bias=any(each.endswith((".q_proj.bias", "qkv_proj.bias")) for each in first),
        output_bias=any(each.endswith(".o_proj.bias") for each in first),
        mlp_bias=any(each.endswith((".gate_proj.bias", ".gate_up_proj.bias")) for each in first),
        qk_norm=any(each.endswith(".q_norm.weight") for each in first),
    )


def _names(
    shapes: Mapping[str, TensorInfo], params: DecoderParams
) -> tuple[Mapping[str, Targets], Sequence[str]]:
    usual = hf_decoder_map(params)
    extra: dict[str, Targets] = {}
    unmapped: dict[str, None] = {}
    for name in shapes:
        if usual.find(name) is not None or name in usual.entries:
            continue
        pattern = NUMBER.sub("{i}", name, count=1)
        for part, targets in FUSED.items():
            for kind in ("weight", "bias"):
                if pattern.endswith(f".{part}.{kind}"):
                    extra[pattern] = tuple(f"{each}.{kind}" for each in targets)
        if pattern not in extra:
            unmapped[pattern] = None
    return extra, list(unmapped)


def _tokens(folder: Path | None, config: Mapping[str, Any], unknown: list[str]) -> TokenIds:
    generation = {} if folder is None else read_companions(folder, None).generation_config
    ends: list[int] = []
    for where in (generation, config):
        value = where.get("eos_token_id")
        ends += [each for each in _listed(value) if isinstance(each, int) and each not in ends]
    bos = generation.get("bos_token_id", config.get("bos_token_id"))
    if not ends:
        unknown.append("the ids at which texts end; 0 stands for them")
    return TokenIds(bos if isinstance(bos, int) else None, tuple(ends) or NO_ENDS.eos)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]
