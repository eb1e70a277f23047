"""Many searches at once: who is asked what, how often, and who gets which answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tropism.asking.judge import asked
from tropism.asking.search import Found, drive
from tropism.errors import TropismError
from tropism.judges.verifier import Verifier
from tropism.protocols import Judge
from tropism.search.best_of_n import BestOfN
from tropism.types import Completion, Group, Judgment, Message, Rate, Sample, SamplingParams

PARAMS = SamplingParams(max_tokens=5)
GROUPS = [Group(f"g{k}", (Message("user", f"{k}"),)) for k in range(4)]


@dataclass(frozen=True)
class Counting:
    """Answers a prompt with `prompt.call.number`, each of two tokens behind its prefix, and notes what it was asked."""

    asked: list[tuple[list[str], SamplingParams]] = field(default_factory=list)
    prefixes: list[list[Sequence[int]]] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        self.asked.append(([p[-1].content for p in prompts], params))
        self.prefixes.append([*prefixes])
        call = len(self.asked)
        return [
            tuple(Completion(f"{p[-1].content}.{call}.{k}", (*prefix, 7, 8)) for k in range(params.n))
            for p, prefix in zip(prompts, prefixes, strict=True)
        ]

    def load(self, weights: Any, policy: str) -> None:
        """Has no weights."""

    def tell(self, note: Any) -> None:
        """Has nothing to say."""


@dataclass(frozen=True)
class Last:
    """Scores a completion with the number at its end, and notes how many groups it saw at a time."""

    seen: list[int] = field(default_factory=list)

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        self.seen.append(len(groups))
        return [Judgment("last@1", tuple(float(c.text[-1]) for c in g.completions)) for g in groups]


@dataclass(frozen=True)
class Growing:
    """Group k takes k further rounds of one sample each, with a seed of its own, before it has all of them rated."""

    def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
        found: list[Completion] = []
        for round in range(int(group.prompt[-1].content) + 1):
            found += yield Sample(group.prompt, dataclasses.replace(params, seed=round))
        yield Rate(dataclasses.replace(group, completions=tuple(found)))
        return found[-1]


@dataclass(frozen=True)
class Blind:
    """Never asks the judge."""

    def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
        (completion,) = yield Sample(group.prompt, params)
        return completion


def test_all_prompts_go_to_the_engine_in_one_call_and_to_the_judge_in_one() -> None:
    engine, judge = Counting(), Last()
    found = drive(BestOfN(3), GROUPS, engine, judge, PARAMS)
    assert engine.asked == [(["0", "1", "2", "3"], SamplingParams(n=3, max_tokens=5))]
    assert judge.seen == [4]
    assert found == [
        Found(
            Group(
                f"g{k}",
                GROUPS[k].prompt,
                (Completion(f"{k}.1.2", (7, 8)),),
                (Judgment("last@1", (2.0,)),),
            ),
            tokens=6,
        )
        for k in range(4)
    ]


def test_searches_at_different_steps_share_what_calls_they_can() -> None:
    engine, judge = Counting(), Last()
    found = drive(Growing(), [*GROUPS[:3], GROUPS[1]], engine, judge, PARAMS)
    assert [prompts for prompts, _ in engine.asked] == [["0", "1", "2", "1"], ["1", "2", "1"], ["2"]]
    assert [params.seed for _, params in engine.asked] == [0, 1, 2]
    assert judge.seen == [1, 2, 1]
    assert [f.group.completions[0].text for f in found] == ["0.1.0", "1.2.0", "2.3.0", "1.2.0"]
    assert [f.tokens for f in found] == [2, 4, 6, 4]


def test_requests_with_other_parameters_take_another_call() -> None:
    @dataclass(frozen=True)
    class Own:
        def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
            number = int(group.prompt[-1].content)
            completions = yield Sample(group.prompt, dataclasses.replace(params, n=1 + number % 2))
            return completions[-1]

    engine = Counting()
    found = drive(Own(), GROUPS, engine, Last(), PARAMS)
    assert engine.asked == [(["0", "2"], PARAMS), (["1", "3"], dataclasses.replace(PARAMS, n=2))]
    assert [f.group.completions[0].text for f in found] == ["0.1.0", "1.2.1", "2.1.0", "3.2.1"]


def test_a_search_goes_on_from_half_an_answer() -> None:
    @dataclass(frozen=True)
    class Onward:
        """Group 0 and 1 go on from what came first, 2 and 3 from its first token; then all from both."""

        def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
            (first,) = yield Sample(group.prompt, params)
            half = first.tokens[: 2 - int(group.prompt[-1].content) // 2]
            (second,) = yield Sample(group.prompt, params, half)
            return second

    engine = Counting()
    found = drive(Onward(), GROUPS, engine, Last(), PARAMS)
    assert engine.prefixes == [[()] * 4, [(7, 8), (7, 8), (7,), (7,)]]
    assert [f.group.completions[0].tokens for f in found] == [(7, 8, 7, 8)] * 2 + [(7, 7, 8)] * 2
    assert [f.tokens for f in found] == [4] * 4  # two tokens a call were sampled; the prefix was not


def test_what_was_not_rated_has_no_judgment_and_old_completions_are_not_looked_at() -> None:
    old = dataclasses.replace(GROUPS[0], completions=(Completion("old"),), judgments=(Judgment("old", (1.0,)),))
    judge = Last()
    (found,) = drive(Blind(), [old], Counting(), judge, PARAMS)
    assert found.group == dataclasses.replace(GROUPS[0], completions=(Completion("0.1.0", (7, 8)),))
    assert judge.seen == []
    assert drive(Blind(), [], Counting(), judge, PARAMS) == []


class Silent:
    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return []


@pytest.mark.parametrize("judge", [Silent(), None])
def test_a_judge_that_leaves_something_out_is_named(judge: Judge | None) -> None:
    class Short:
        def judge(self, groups: Sequence[Group]) -> list[Judgment]:
            return [Judgment("short", (1.0,)) for _ in groups]

    with pytest.raises(TropismError, match="the judge S.* did not give each of 4 groups a judgment with one score"):
        drive(BestOfN(2), GROUPS, Counting(), judge or Short(), PARAMS)


def test_a_search_that_breaks_its_protocol_is_named() -> None:
    @dataclass(frozen=True)
    class Odd:
        def search(self, group: Group, params: SamplingParams) -> Generator[Any, Any, Any]:
            yield "more"

    @dataclass(frozen=True)
    class Empty:
        def search(self, group: Group, params: SamplingParams) -> Generator[Any, Any, Any]:
            yield Sample(group.prompt, params)

    judge = Verifier(lambda completion: 1.0)
    with pytest.raises(TropismError, match="the search Odd yielded 'more': it may only yield Sample or Rate"):
        drive(Odd(), GROUPS, Counting(), judge, PARAMS)
    with pytest.raises(TropismError, match="the search Empty returned None: it must return a Completion"):
        drive(Empty(), GROUPS, Counting(), judge, PARAMS)


@dataclass(frozen=True)
class Broken:
    """A judge from outside the package, written by somebody in a hurry."""

    error: BaseException | None = None

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        if self.error:
            raise self.error
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ZeroDivisionError("by zero"), r"the judge Broken raised ZeroDivisionError \(by zero\) for 4 groups"),
        (SystemExit(0), r"the judge Broken raised SystemExit \(0\) for 4 groups"),
        (None, r"the judge Broken raised TypeError \('NoneType' object is not iterable\)"),
    ],
)
def test_an_outside_judge_that_raises_is_named_with_its_lines(error: BaseException | None, says: str) -> None:
    with pytest.raises(TropismError, match=says) as caught:
        asked(Broken(error), GROUPS)
    first, *lines = str(caught.value).splitlines()
    assert "of which the first has the prompt '0': fix its `judge`" in first
    assert bool(error) == any("raise self.error" in line for line in lines)
