"""Which models ``transformers`` has, from its source: importing it takes seconds."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLE = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
SOURCE = "models/auto/modeling_auto.py"


def is_causal_model(model_type: object) -> bool:
    """Whether it has a causal language model of that ``model_type``."""
    return model_type in causal_models()


@cache
def causal_models() -> frozenset[str]:
    """Every ``model_type`` with a causal language model.

    Raises:
        LookupError: this version keeps its table elsewhere.
    """
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        raise LookupError("transformers is not installed")
    text = (Path(spec.origin).parent / SOURCE).read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == TABLE:
            table: Any = statement.value
            return frozenset(name for name, _ in ast.literal_eval(table.args[0]))
    raise LookupError(f"{SOURCE} of this version of transformers has no {TABLE}")
