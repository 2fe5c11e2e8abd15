"""Pieces of work on all processors."""

from __future__ import annotations

import pytest
import torch

from llmx.parallel import map_parallel, row_blocks


def test_every_item_is_worked_on_with_one_thread_each() -> None:
    threads = torch.get_num_threads()
    seen = map_parallel(lambda item: (item, torch.get_num_threads()), range(20))
    assert seen == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == threads


def test_an_error_of_a_piece_comes_through() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        map_parallel(lambda item: 1 // item, [1, 0, 2])
    assert torch.get_num_threads() == threads


def test_blocks_of_rows_cover_a_matrix_in_order() -> None:
    matrix = torch.arange(5 << 18).view(-1, 1 << 10)
    blocks = list(row_blocks(matrix.shape))
    assert len(blocks) > 1
    assert torch.equal(torch.cat([matrix[block] for block in blocks]), matrix)
    assert list(row_blocks(torch.Size([3, 1 << 20]))) == [slice(at, at + 1) for at in range(3)]


def test_pieces_may_be_worked_on_in_pieces() -> None:
    products = map_parallel(
        lambda row: map_parallel(lambda column: row * column, range(5)), range(30)
    )
    assert products == [[row * column for column in range(5)] for row in range(30)]


def test_nothing_is_nothing() -> None:
    assert map_parallel(str, []) == []
