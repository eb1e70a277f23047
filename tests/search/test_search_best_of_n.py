"""Best of n by hand, and the pure choice behind it, which is rejection sampling."""

from __future__ import annotations

import math

import pytest

from tropism.asking.search import drive
from tropism.engines.scripted import Scripted
from tropism.errors import TropismError
from tropism.judges.annotator import Annotator
from tropism.judges.verifier import Verifier
from tropism.protocols import Search
from tropism.recipe.build import build
from tropism.search.best_of_n import BestOfN
from tropism.types import Completion, Group, Judgment, Message, Rate, Sample, SamplingParams

PARAMS = SamplingParams(n=99, max_tokens=7, seed=3)


def asked(question: str) -> Group:
    return Group(f"g {question}", (Message("user", question),), target="deux", meta={"source": "x"})


def judged(*scores: float | None, judge: str = "rm@1") -> Group:
    completions = tuple(Completion(f"{k}") for k in range(len(scores)))
    return Group("g", (Message("user", "?"),), completions, (Judgment(judge, scores),), target="t", meta={"a": 1})


def test_it_asks_for_n_samples_then_for_a_judgment_of_all_of_them() -> None:
    steps = BestOfN(3).search(asked("two"), PARAMS)
    assert next(steps) == Sample(asked("two").prompt, SamplingParams(n=3, max_tokens=7, seed=3))
    completions = (Completion("a"), Completion("b"), Completion("c"))
    wanted = Group("g two", asked("two").prompt, completions, target="deux", meta={"source": "x"})
    assert steps.send(completions) == Rate(wanted)
    with pytest.raises(StopIteration) as end:
        steps.send(Judgment("rm", (1.0, 3.0, 2.0)))
    assert end.value.value is completions[1]


def test_the_longest_of_n_is_kept() -> None:
    engine = Scripted({"two": ("d", "deu", "deux", "de"), "one": ("un", "u", "une", "uni")})
    judge = Verifier(len_of)
    kept = {
        n: [f.group.completions[0].text for f in drive(BestOfN(n), [asked("two"), asked("one")], engine, judge, PARAMS)]
        for n in (1, 2, 3, 4)
    }
    assert kept == {1: ["d", "un"], 2: ["deu", "un"], 3: ["deux", "une"], 4: ["deux", "une"]}


def len_of(completion: str) -> float:
    return float(len(completion))


def test_the_judge_sees_the_reference() -> None:
    engine = Scripted({"two": ("zwei", "deus", "deux")})
    (found,) = drive(BestOfN(3), [asked("two")], engine, Annotator(noise=0.0, position_bias=0.0), PARAMS)
    assert found.group.completions == (Completion("deux", policy="scripted@0"),)
    assert found.group.judgments[0].scores == (-1.0,)
    assert (found.group.target, found.group.meta, found.group.id) == ("deux", {"source": "x"}, "g two")


def test_what_nobody_can_score_is_answered_by_the_first_sample() -> None:
    (found,) = drive(
        BestOfN(2), [asked("two")], Scripted({"two": ("a", "b")}), Verifier(lambda completion: None), PARAMS
    )
    assert found.group.completions[0].text == "a"
    assert found.group.judgments[0].scores == (None,)


def test_greedy_samples_leave_no_choice() -> None:
    greedy = SamplingParams(temperature=0.0)
    with pytest.raises(TropismError, match="all 2 greedy completions are the same: use a temperature above 0"):
        next(BestOfN(2).search(asked("two"), greedy))
    assert next(BestOfN(1).search(asked("two"), greedy)) == Sample(asked("two").prompt, greedy)


def test_a_recipe_finds_it() -> None:
    assert build(Search, "best_of_n", "search") == BestOfN(16)
    assert build(Search, {"kind": "best_of_n", "n": 4}, "search") == BestOfN(4)
    with pytest.raises(TropismError, match="search: there is no kind 'best_of' among the search: did you mean 'best_"):
        build(Search, "best_of", "search")


def best(group: Group, judge: str) -> Group | None:
    judgment = group.judgment(judge)
    return None if judgment is None or judgment.best is None else group.only(judgment.best)


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ((1.0, 3.0, 2.0), "1"),
        ((2.0, 2.0, 1.0), "0"),  # the first of equals
        ((None, -5.0, -4.0), "2"),  # None is no zero
        ((math.nan, 1.0, 2.0), "2"),
        ((-math.inf, None), "0"),
        ((0.0,), "0"),
    ],
)
def test_the_best_judged_is_kept(scores: tuple[float | None, ...], text: str) -> None:
    kept = best(judged(*scores), "rm")
    assert kept and [c.text for c in kept.completions] == [text]
    assert kept.judgments == (Judgment("rm@1", (scores[int(text)],)),)
    assert (kept.id, kept.prompt, kept.target, kept.meta) == ("g", (Message("user", "?"),), "t", {"a": 1})


@pytest.mark.parametrize("scores", [(), (None,), (None, math.nan)])
def test_nothing_is_kept_where_nothing_was_scored(scores: tuple[float | None, ...]) -> None:
    assert best(judged(*scores), "rm") is None


def test_the_newest_judgment_by_that_name_chooses_and_all_are_kept() -> None:
    said = (
        Judgment("rm@1", (9.0, 0.0)),
        Judgment("rm@2", (0.0, 9.0), shown=(1, 0)),
        Judgment("truth", (5.0, None), "ordinal", "why"),
    )
    group = Group("g", (), (Completion("a"), Completion("b")), said)
    kept = best(group, "rm")
    assert kept is not None and kept.completions == (Completion("b"),)
    assert kept.judgments == (
        Judgment("rm@1", (0.0,)),
        Judgment("rm@2", (9.0,)),
        Judgment("truth", (None,), "ordinal", "why"),
    )
    assert best(group, "truth") is not None


def test_a_judge_that_has_not_looked_is_named() -> None:
    with pytest.raises(TropismError, match=r"group g has no judgment by 'truth' \(it has: rm\): name one of those"):
        judged(1.0).judged("truth")


def test_scores_that_do_not_fit_the_completions_are_refused() -> None:
    group = Group("g", (), (Completion("a"),), (Judgment("rm", (1.0, 2.0)),))
    with pytest.raises(TropismError, match="group g: rm gave 2 scores for 1 completions"):
        group.judged("rm")
