"""What of a model's weights has a say in the structure of its program.

The form of each module, as quantization made it, and which pieces are equal to each other: equal
data is stored once. Another set of weights fits the structure if both are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from attrs import define, field
from torch import nn

from llmx.skeleton.pieces import Piece, form_of


@define
class Pattern:
    """Collects modules' forms and pieces' digests and keys, in any order."""

    forms: dict[str, str] = field(factory=dict)

    digests: dict[str, bytes] = field(factory=dict)
    keys: dict[str, str] = field(factory=dict)

    def add(self, piece: Piece) -> bytes:
        """Note a piece; returns the SHA-256 of its content."""
        found = hashlib.sha256(piece.content).digest()
        self.digests[piece.name] = found
        if piece.key is not None:
            self.keys[piece.name] = piece.key
        return found

    def add_form(self, name: str, module: nn.Module) -> None:
        """Note what kind of weights a module has."""
        self.forms[name] = form_of(module)

    def summary(self) -> str:
        """A digest that is the same for weights of the same forms with the same pieces equal."""
        groups = [sorted(self.forms.items()), _groups(self.digests), _groups(self.keys)]
        return hashlib.sha256(json.dumps(groups).encode()).hexdigest()


def _groups(values: Mapping[str, bytes] | Mapping[str, str]) -> list[list[str]]:
    grouped: dict[bytes | str, list[str]] = {}
    for name in sorted(values):
        grouped.setdefault(values[name], []).append(name)
    return list(grouped.values())
