"""A function as a judge: what it is offered, what it may answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tropism.judges.verifier import Verifier
from tropism.phrasebook.quality import quality
from tropism.types import Completion, Group, Judgment, Message, TropismError

GROUP = Group(
    "g", (Message("user", "2 + 2?"),), (Completion("4"), Completion("five"), Completion("")), (), "4", {"kind": "sum"}
)


def judged(function: Any, **more: Any) -> Judgment:
    (judgment,) = Verifier(function, **more).judge([GROUP])
    return judgment


def test_a_function_is_offered_what_it_asks_for_by_name() -> None:
    assert judged(lambda completion: len(completion)).scores == (1.0, 4.0, 0.0)
    assert judged(lambda target, completion: completion == target).scores == (1.0, 0.0, 0.0)
    assert judged(lambda prompt: len(prompt[0].content)).scores == (6.0,) * 3
    assert judged(lambda meta, completion, bonus=0.5: (meta["kind"] == "sum") + bonus).scores == (1.5,) * 3
    assert judged(lambda: 7).scores == (7.0,) * 3


def test_none_and_nan_are_abstentions_and_never_zero() -> None:
    answers = iter([None, math.nan, 0.0])
    assert judged(lambda completion: next(answers)).scores == (None, None, 0.0)


def test_infinity_is_a_score_that_the_loss_will_refuse() -> None:
    assert judged(lambda completion: -math.inf).scores == (-math.inf,) * 3


def test_any_number_will_do() -> None:
    for number in (2, True, np.float32(2.0), np.int64(2)):
        assert all(isinstance(s, float) for s in judged(lambda completion, n=number: n).scores)


def test_a_function_by_name() -> None:
    by_name = judged("tropism.phrasebook.quality:quality", name="truth")
    assert by_name == Judgment("truth", tuple(quality(c.text, "4") for c in GROUP.completions))
    assert judged(quality).judge == "verifier"


def needs_more(completion: str, temperature: float) -> float:
    return temperature


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (needs_more, "asks for temperature: it may ask for completion, target, prompt, meta"),
        (lambda *completions: 1.0, "asks for completions"),
        ("tropism.phrasebook.quality:_CHATTER_MOST", "'tropism.phrasebook.quality:_CHATTER_MOST' is no function"),
        (5, "the judge function 5 is no function"),
        ("no_such_module:f", "verifier.function: kind 'no_such_module:f' cannot be imported"),
        ("quality", "verifier.function: there is no kind 'quality' among the judges"),
    ],
)
def test_what_cannot_judge_is_refused_at_once(function: Any, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        Verifier(function)
    assert says in str(caught.value)


@pytest.mark.parametrize("answer", ["good", [1.0], {}])
def test_an_answer_that_is_no_number_names_the_group(answer: Any) -> None:
    with pytest.raises(TropismError, match="for a completion of group g: it must return a number or None"):
        judged(lambda completion: answer)


def test_groups_in_judgments_out() -> None:
    groups = [GROUP, Group("h", (), (Completion("x"),))]
    assert [len(j.scores) for j in Verifier(lambda completion: 1.0).judge(groups)] == [3, 1]
    assert Verifier(lambda completion: 1.0).judge([]) == []
