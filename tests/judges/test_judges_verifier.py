"""A function as a judge: what it is offered, what it may answer."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import json
import math
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch

from tropism.errors import TropismError
from tropism.judges.verifier import Verifier
from tropism.phrasebook.quality import quality
from tropism.types import Completion, Group, Judgment, Message

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
        (needs_more, "needs temperature: it can only get completion, target, prompt, meta"),
        (lambda *completions: 1.0, "needs completions"),
        ("tropism.phrasebook.quality:_CHATTER_MOST", "'tropism.phrasebook.quality:_CHATTER_MOST' is not a function"),
        (5, "the judge function 5 is not a function"),
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
    with pytest.raises(TropismError, match=r"which is neither a number nor None, for the completion .* \(group g\)"):
        judged(lambda completion: answer)


def test_groups_in_judgments_out() -> None:
    groups = [GROUP, Group("h", (), (Completion("x"),))]
    assert [len(j.scores) for j in Verifier(lambda completion: 1.0).judge(groups)] == [3, 1]
    assert Verifier(lambda completion: 1.0).judge([]) == []


def fails_on_five(completion: str) -> float:
    table = {"4": 1.0, "": 0.0}
    return table[completion]


def leaves(completion: str) -> float:
    sys.exit(0)


def hangs(completion: str) -> float:
    while completion == "five":
        with contextlib.suppress(Exception):  # as code does that catches all it can
            time.sleep(10)
    return 1.0


def test_a_function_that_raises_is_named_with_prompt_completion_and_its_own_lines() -> None:
    with pytest.raises(TropismError) as caught:
        judged(fails_on_five)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        "the judge function fails_on_five raised KeyError ('five') for the completion 'five' of the prompt '2 + 2?' "
        '(group g): fix it, or set on_error = "skip" to leave such completions without a score'
    )
    at = inspect.getsourcelines(fails_on_five)[1] + 2
    assert lines[:2] == [f'  File "{__file__}", line {at}, in fails_on_five', "    return table[completion]"]
    assert not any(line.startswith("  File") for line in lines[2:])


def test_long_texts_are_shortened_and_no_line_of_a_library_or_of_this_package_is_shown() -> None:
    group = Group("g", (Message("user", "why " * 200),), (Completion("{" + "x\n" * 500),))

    def reads(completion: str) -> float:
        return json.loads(completion)["score"]

    with pytest.raises(TropismError) as caught:
        Verifier(reads).judge([group])
    first, *lines = str(caught.value).splitlines()
    assert len(first) < 500 and "raised JSONDecodeError (Expecting property name" in first
    assert [line for line in lines if line.startswith("  File")] == [lines[0]] and f'"{__file__}"' in lines[0]


@pytest.mark.parametrize("function", [fails_on_five, lambda completion: "good" if completion == "five" else 1.0])
def test_what_fails_can_be_left_without_a_score_and_is_counted(function: Any) -> None:
    verifier = Verifier(function, on_error="skip")
    (judgment,) = verifier.judge([GROUP])
    assert judgment.scores[0] == 1.0 and judgment.scores[1] is None and judgment.scores[2] is not None
    assert len(verifier.skipped) == 1 and "for the completion 'five' of the prompt '2 + 2?'" in verifier.skipped[0]
    assert verifier == Verifier(function, on_error="skip")  # the count is no part of what it is


def test_sys_exit_is_an_error_like_another_and_ctrl_c_is_not() -> None:
    with pytest.raises(TropismError, match=r"the judge function leaves raised SystemExit \(0\) for the completion '4'"):
        judged(leaves)
    assert judged(leaves, on_error="skip").scores == (None, None, None)

    def interrupted(completion: str) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(interrupted, on_error="skip")


def test_a_call_that_hangs_is_ended_and_the_signal_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    verifier = Verifier(hangs, on_error="skip", timeout_s=0.1)
    assert verifier.judge([GROUP])[0].scores == (1.0, None, 1.0)
    assert 0.1 <= time.monotonic() - began < 5
    assert verifier.skipped[0].startswith("hangs took longer than timeout_s = 0.1 for the completion 'five'")
    with pytest.raises(TropismError, match=r"hangs took longer than timeout_s = 0\.1"):
        judged(hangs, timeout_s=0.1)
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_thread_that_no_signal_reaches_is_told_so() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        said = pool.submit(judged, fails_on_five, timeout_s=1.0).exception()
    assert isinstance(said, TropismError) and "timeout_s works only in the main thread" in str(said)


@pytest.mark.parametrize(
    "answer", [torch.ones(2), np.ones(2), 10**400, "nan", "1.0", 1j], ids=lambda a: type(a).__name__
)
def test_odd_answers_are_no_numbers(answer: Any) -> None:
    with pytest.raises(TropismError, match="which is neither a number nor None"):
        judged(lambda completion: answer)


async def waits(completion: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (waits, "is async: make it a plain function"),
        (max, "the parameters of .* cannot be read: wrap it in a function"),
    ],
)
def test_functions_that_cannot_be_called_by_name_are_refused(function: Any, says: str) -> None:
    with pytest.raises(TropismError, match=says):
        Verifier(function)
