"""The spread of a panel, by hand, and the order of the queue that follows from it."""

from __future__ import annotations

import pytest
from feedback_cases import person, project

from tropism.feedback import queue
from tropism.feedback.select import order, spreads
from tropism.feedback.store import Store
from tropism.types import Judgment


def said(*scores: tuple[float | None, ...]) -> list[Judgment]:
    return [Judgment("member", s) for s in scores]


def test_spread_by_hand():
    a, b = said((5, 3), (1, 1), (5, 1)), said((4, 5), (7, 7), (6, 7))
    unit_a = (62 / 6 - (16 / 6) ** 2) ** 0.5  # of 5 3 1 1 5 1: the mean square less the square of the mean
    unit_b = (224 / 6 - (36 / 6) ** 2) ** 0.5  # of 4 5 7 7 6 7
    first = abs(2 / unit_a + 1 / unit_b) / 2  # of two numbers the deviation is half their distance
    third = abs(4 / unit_a + 1 / unit_b) / 2
    assert spreads([a, b]) == pytest.approx([first, 0.0, third])


def test_a_constant_is_no_disagreement_and_a_missing_score_does_not_count():
    a, b = said((1, 2, 3), (4, None, 1), (0, 0, 0)), said((2, 3, 4), (5, 9, 2), (None, None, 1))
    assert spreads([a, a]) == pytest.approx([0, 0, 0])
    first, second, third = spreads([a, b])
    assert first > 0 and second > 0  # their units differ
    assert third == 0.0  # nothing is left to compare
    assert spreads([]) == []


def test_the_queue_follows_the_priorities(store: Store):
    asked = project(store, groups=4, per_group=1)
    assert order(store, "p", {"g2": -3.0, "g3": -1.0, "gone": -9.0}) == 2
    with store.writing() as session:
        ann, given = person(session, "ann", asked), []
        while (leased := queue.next_group(session, asked, ann, 0.0)) is not None:
            given.append(leased.group.uid)
            queue.submit(session, leased.token, ann, {"ranks": [1, 2, 3]}, 1.0)
    assert given == ["g2", "g3", "g0", "g1"]
