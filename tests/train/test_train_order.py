from __future__ import annotations

import pytest

from tropism.train.order import Order


def test_each_pass_is_a_new_permutation():
    order = Order(7, seed=3)
    passes = [order.take(7) for _ in range(5)]
    assert all(sorted(taken) == list(range(7)) for taken in passes)
    assert len({tuple(taken) for taken in passes}) > 1
    assert Order(7, seed=3).take(35) == [i for taken in passes for i in taken]
    assert Order(7, seed=4).take(35) != Order(7, seed=3).take(35)


@pytest.mark.parametrize("taken", [0, 3, 7, 9, 20])
def test_a_position_is_the_whole_state(taken: int):
    order = Order(7, seed=3)
    order.take(taken)
    assert order.position == taken
    expected = order.take(16)
    assert Order(7, seed=3, position=taken).take(16) == expected
    moved = Order(7, seed=3)
    moved.take(2)
    moved.position = taken  # as a stage sets it from a checkpoint
    assert moved.take(16) == expected


def test_a_take_crosses_the_end_of_a_pass():
    order = Order(4, seed=0)
    taken = order.take(3) + order.take(3) + order.take(2)
    assert sorted(taken[:4]) == sorted(taken[4:]) == [0, 1, 2, 3]
