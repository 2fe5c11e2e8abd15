"""Pieces of work on all processors."""

from __future__ import annotations

import pytest
import torch

from llmx.parallel import for_each


def test_every_item_is_worked_on_with_one_thread_each() -> None:
    threads, seen = torch.get_num_threads(), []
    for_each(lambda item: seen.append((item, torch.get_num_threads())), range(20))
    assert sorted(seen) == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == threads


def test_an_error_of_a_piece_comes_through() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        for_each(lambda item: 1 // item, [1, 0, 2])
    assert torch.get_num_threads() == threads
