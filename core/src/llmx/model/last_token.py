"""A last layer that computes only what the logits of the last token need.

Nothing but the head comes after it, and the head reads one token: of the others, the last layer has
to keep keys and values, no more. Reading a prompt takes nearly a whole layer's products less.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from llmx.model.attention import Attention
from llmx.model.decoder import Decoder, Layer
from llmx.model.kv_cache import FusedCore
from llmx.model.shallow import shallow_copy


class LastTokenAttention(Attention):
    """The last token's queries on the keys and values of all; shares another one's parts."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(shallow_copy(attention)))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        """As ``Attention``, for one token: [1, 1, dim]."""
        q = self.queries(x[:, -1:], cos[:, -1:], sin[:, -1:])
        k, v = self.keys(x, cos, sin), self.heads(self.v_proj(x))
        return self.attend(q, k, v, place.of_last(x.shape[1]))


class LastTokenLayer(Layer):
    """``Layer`` from x [1, S, dim] to what it gives for the last token, [1, 1, dim]."""

    def __init__(self, layer: Layer) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(shallow_copy(layer)))
        self.attention = LastTokenAttention(layer.attention)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        last = x[:, -1:] + self.attention(self.attention_norm(x), cos, sin, place)
        out: Tensor = last + self.feed_forward(self.feed_forward_norm(last))
        return out


def last_token_only(model: nn.Module) -> nn.Module:
    """The model with such a last layer, if it gives the last token's logits and can have one.

    The given model stays as it is and shares all weights with the result.
    """
    if type(model).forward is not Decoder.forward or model.full_logits:
        return model
    layers: Any = model.layers
    *others, last = layers
    if type(last) is not Layer:
        return model
    attention = last.attention
    if type(attention) is not Attention or not isinstance(attention.core, FusedCore):
        return model
    shortened = shallow_copy(model)
    shortened.layers = nn.ModuleList([*others, LastTokenLayer(last)])
    return shortened
