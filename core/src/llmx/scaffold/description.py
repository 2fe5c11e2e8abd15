"""What a model's own files say about it, for the plugin that will read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.checkpoint import Checkpoint, TokenIds, WeightMap, decoder_map, plan
from llmx.checkpoint.base import TensorInfo
from llmx.checkpoint.companions import read_companions
from llmx.checkpoint.files import read_json
from llmx.checkpoint.opening import HUB_ID, WEIGHT_SUFFIXES, open_checkpoint
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
# Fields that no decoder reads: about files, training, tokens and other programs.
NO_ARITHMETIC = re.compile(
    r"architectures|auto_map|(torch_)?dtype|transformers_version|_.*|use_cache|model_type|.*_token_id"
    r"|.*dropout.*|.*pdrop|initializer_range|pretraining_tp|max_window_layers|use_sliding_window"
    r"|vocab_size_.*|tokenizer_.*|task_specific_params|output_(attentions|hidden_states)|return_dict"
)


@frozen(kw_only=True)
class Description:
    """What could be found out, and in ``unknown`` what could not.

    ``hub_repo`` is ``None`` for files. ``in_transformers`` is whether the installed one builds
    such a model. ``hidden`` are parameters that the tensors tell and the
    configuration does not, by their names in ``DecoderParams``. ``extra`` are entries of a weight
    map beyond the usual names; ``unmapped`` are stored names, with ``{i}`` for the layer, that
    nothing is known about.
    """

    hub_repo: str | None
    in_transformers: bool
    model_type: str
    params: DecoderParams
    hidden: Mapping[str, bool]
    tokens: TokenIds
    extra: Mapping[str, Targets]
    unmapped: Sequence[str]
    unknown: Sequence[str]


class _Asked(Mapping[str, Any]):
    """A configuration that remembers which of its fields were asked for."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def ignored(self) -> Sequence[str]:
        """Fields that are set, were not asked for and may change what a model computes."""
        return [
            f"{name}={value!r}"
            for name, value in self._fields.items()
            if name not in self.names and value and not NO_ARITHMETIC.fullmatch(name)
        ]


def describe(source: str, revision: str | None) -> Description:
    """Read a folder, a ``config.json`` or a hub id; weights are not downloaded for it.

    Raises:
        CheckpointError: there is no configuration, or the decoder does not do what it asks for.
    """
    path = Path(source).expanduser()
    file = path if path.suffix == ".json" and path.is_file() else None
    config = read_json(file) if file else read_config(source, revision=revision, params=None)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            f"{source} does not say its model_type", remedy=f"name a {CONFIG} as on the hub"
        )
    asked = _Asked(config)
    try:
        usual = decoder_params(asked)
    except CheckpointError as error:
        # Its remedy is such a plugin as is to be written here.
        raise CheckpointError(error.message, remedy=OWN_MODEL) from error
    unknown: list[str] = []
    if ignored := asked.ignored():
        unknown.append(f"what the decoder would have to make of {', '.join(ignored)}")
    folder = path if path.is_dir() else None
    reference = _in_transformers(config)
    checkpoint = _stored(folder) or reference
    if checkpoint is None:
        unknown.append("the names of its tensors: the usual ones are assumed")
    params = usual
    extra: dict[str, Targets] = {}
    unmapped: list[str] = []
    if checkpoint is not None:
        params = _with_hidden_parts(usual, checkpoint.tensors)
        extra, unmapped = _names(checkpoint, params)
        unknown += _differences(checkpoint, params, extra, unmapped)
    return Description(
        hub_repo=source if HUB_ID.fullmatch(source) and not path.exists() else None,
        in_transformers=reference is not None,
        model_type=model_type,
        params=params,
        hidden={
            each.name: getattr(params, each.name)
            for each in attrs.fields(DecoderParams)
            if getattr(params, each.name) != getattr(usual, each.name)
        },
        tokens=_tokens(folder, config, unknown),
        extra=extra,
        unmapped=unmapped,
        unknown=unknown,
    )


def _stored(folder: Path | None) -> Checkpoint | None:
    """The folder's checkpoint; ``None`` if it holds a configuration only."""
    if folder is None or not any(each.suffix in WEIGHT_SUFFIXES for each in folder.iterdir()):
        return None
    return open_checkpoint(str(folder))


def _in_transformers(config: Mapping[str, Any]) -> Checkpoint | None:
    """What ``transformers`` would store; ``None`` if it is not there or builds no such model."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        from llmx.testing.reference import meta_model
        from llmx.testing.shapes import full_size_checkpoint

        with hushed():
            return full_size_checkpoint(meta_model(config["model_type"], fields))
    except Exception:  # of many kinds, by what the configuration lacks
        return None


def _with_hidden_parts(params: DecoderParams, shapes: Mapping[str, TensorInfo]) -> DecoderParams:
    """Biases and norms that configurations leave unsaid, by the tensors that they have."""
    first = {name.partition(".0.")[2] for name in shapes if ".0." in name}
    return attrs.evolve(
        params,
        qkv_bias=any(each.endswith((".q_proj.bias", "qkv_proj.bias")) for each in first),
        output_bias=any(each.endswith(".o_proj.bias") for each in first),
        mlp_bias=any(each.endswith((".gate_proj.bias", ".gate_up_proj.bias")) for each in first),
        qk_norm=any(each.endswith(".q_norm.weight") for each in first),
    )


def _usual_map(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    return decoder_map(checkpoint, params, gguf_interleaved_qk=False)


def _names(checkpoint: Checkpoint, params: DecoderParams) -> tuple[dict[str, Targets], list[str]]:
    usual = _usual_map(checkpoint, params)
    extra: dict[str, Targets] = {}
    unmapped: dict[str, None] = {}
    for name in checkpoint.tensors:
        if usual.find(name) is not None:
            continue
        pattern = NUMBER.sub("{i}", name, count=1)
        for part, targets in FUSED.items():
            for kind in ("weight", "bias"):
                if pattern.endswith(f".{part}.{kind}"):
                    extra[pattern] = tuple(f"{each}.{kind}" for each in targets)
        if pattern not in extra:
            unmapped[pattern] = None
    return extra, list(unmapped)


def _differences(
    checkpoint: Checkpoint,
    params: DecoderParams,
    extra: Mapping[str, Targets],
    unmapped: Iterable[str],
) -> Iterable[str]:
    """Where the tensors that are mapped are not those of the decoder."""
    from llmx.model.decoder import Decoder
    from llmx.model.shapes import parameter_shapes

    dropped: dict[str, Targets] = dict.fromkeys(unmapped)
    weight_map = _usual_map(checkpoint, params).updated({**extra, **dropped})
    try:
        plan(weight_map, checkpoint, parameter_shapes(Decoder, params))
    except CheckpointError as error:
        yield (
            "its model, for build_model to make; it is not the decoder of llmx, and the tests "
            f"fail until then ({error.message})"
        )


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
