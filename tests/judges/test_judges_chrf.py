"""The judge `chrf`: hand-worked scores, and where it abstains."""

from __future__ import annotations

import pytest

from tropism.judges.chrf import ChrF
from tropism.protocols import Judge
from tropism.recipe.build import build
from tropism.types import Completion, Group, Judgment


def scores(target: str | None, *said: str) -> tuple[float | None, ...]:
    (judgment,) = ChrF().judge([Group("g", (), tuple(map(Completion, said)), (), target)])
    return judgment.scores


def test_hand_worked() -> None:
    """ "ab" against "abc": unigrams 2 of 2 and 2 of 3, bigrams 1 of 1 and 1 of 2, so P = 1, R = (2/3 + 1/2) / 2 = 7/12 and
    F2 = 5 P R / (4 P + R) = 35/55; the other way round P = 7/12, R = 1 and F2 = (35/12) / (28/12 + 1) = 35/40."""
    assert scores("abc", "ab", "abc", "xyz") == pytest.approx((100 * 35 / 55, 100.0, 0.0))
    assert scores("ab", "abc") == pytest.approx((100 * 35 / 40,))


def test_space_counts_nowhere_and_nothing_is_worth_nothing() -> None:
    assert scores(" un chien ", "\nun chien", "", "Un chien")[:2] == pytest.approx((100.0, 0.0))
    assert scores("un chien", "Un chien")[0] < 100  # type: ignore[operator]  # case counts


def test_it_abstains_without_a_reference_and_for_what_failed() -> None:
    failed = Completion("", finish_reason="error")
    judge = build(Judge, {"kind": "chrf"}, "judge")
    assert judge.judge([Group("a", (), (Completion("x"), failed), (), "x"), Group("b", (), (Completion("x"),))]) == [
        Judgment("chrf@1", (100.0, None)),
        Judgment("chrf@1", (None,)),
    ]
