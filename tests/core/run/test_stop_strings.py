"""Text is passed on up to the first stop string, and never a part of one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmx.run.stop_strings import StopStrings


def passed(pieces: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    """What comes out after each piece and at the end, and whether a stop was found."""
    filtered = StopStrings(stops)
    shown = [filtered.push(piece) for piece in pieces]
    return [*shown, filtered.flush()], filtered.found


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["one", " two"], [], ["one", " two", ""], False),
        (["one", " STOP two"], ["STOP"], ["one", " ", ""], True),
        (["a ST", "OP b"], ["STOP"], ["a ", "", ""], True),
        (["a ST", "UB b"], ["STOP"], ["a ", "STUB b", ""], False),
        (["a S", "T", "O"], ["STOP"], ["a ", "", "", "STO"], False),
        (["aaab"], ["aab"], ["a", ""], True),
        (["x\n", "\ny"], ["\n\n"], ["x", "", ""], True),
        (["ab", "cd"], ["d", "bc"], ["a", "", ""], True),
        (["a", "stop", "b"], ["stop"], ["a", "", "", ""], True),
        (["", "a"], [""], ["", "a", ""], False),
    ],
)
def test_what_is_certain_is_shown(
    pieces: list[str], stops: list[str], shown: list[str], found: bool
) -> None:
    assert passed(pieces, stops) == (shown, found)
