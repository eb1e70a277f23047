"""Runs many searches at once: the requests of all of them go to the engine in one call, and to the judge in one call.

Searches may be at different steps. Sampling requests with different parameters need separate calls, one for each set of
parameters. Left out: continuing a search whose samples are ready while others still sample; the engine would have to
take new requests while it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from tropism.asking.judge import asked
from tropism.errors import TropismError
from tropism.protocols import Engine, Judge, Search
from tropism.types import Completion, Group, Judgment, Rate, Sample, SamplingParams

Answer = tuple[Completion, ...] | Judgment


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    `group` has the chosen completion, and its judgment if the judge rated it. `tokens` counts all tokens that were
    sampled during the search: its cost.
    """

    group: Group
    tokens: int


class _Run:
    """One running search. `asks` is the request that it waits for; at the end `found` has the result."""

    def __init__(self, search: Search, group: Group, params: SamplingParams) -> None:
        self.group, self.tokens = group, 0
        self.rated = dataclasses.replace(group, completions=(), judgments=())  # the newest, with its judgment
        self.name = type(search).__name__
        self.steps: Generator[Sample | Rate, Any, Completion] = search.search(group, params)
        self.asks: Sample | Rate | None = None
        self.found: Found | None = None
        self._step(None)

    def answer(self, answer: Answer) -> None:
        if isinstance(answer, Judgment):
            assert isinstance(self.asks, Rate)
            self.rated = dataclasses.replace(self.asks.group, judgments=(answer,))
        else:
            assert isinstance(self.asks, Sample)
            self.tokens += sum(len(c.tokens) - len(self.asks.prefix) for c in answer if c.tokens is not None)
        self._step(answer)

    def _step(self, answer: Answer | None) -> None:
        try:
            self.asks = self.steps.send(answer)
        except StopIteration as end:
            self.asks, self.found = None, Found(self._chosen(end.value), self.tokens)
            return
        if not isinstance(self.asks, (Sample, Rate)):
            raise TropismError(f"the search {self.name} yielded {self.asks!r}: it may only yield Sample or Rate")

    def _chosen(self, completion: Completion) -> Group:
        if not isinstance(completion, Completion):
            raise TropismError(f"the search {self.name} returned {completion!r}: it must return a Completion")
        at = next((k for k, c in enumerate(self.rated.completions) if c is completion), None)
        said = () if at is None else self.rated.only(at).judgments
        return dataclasses.replace(self.group, completions=(completion,), judgments=said)


def drive(search: Search, groups: Sequence[Group], engine: Engine, judge: Judge, params: SamplingParams) -> list[Found]:
    """The result of the search for each group, in order. Completions and judgments that a group has are ignored."""
    runs = [_Run(search, group, params) for group in groups]
    while any(run.asks for run in runs):
        answers = _sampled(runs, engine) | _rated(runs, judge)
        for i, answer in answers.items():
            runs[i].answer(answer)
    return [run.found for run in runs if run.found]


def _sampled(runs: Sequence[_Run], engine: Engine) -> dict[int, Answer]:
    """The completions that searches wait for, by the index of the search."""
    waiting: dict[SamplingParams, dict[int, Sample]] = {}
    for i, run in enumerate(runs):
        if isinstance(run.asks, Sample):
            waiting.setdefault(run.asks.params, {})[i] = run.asks
    found: dict[int, Answer] = {}
    for params, some in waiting.items():
        prompts, prefixes = [s.prompt for s in some.values()], [s.prefix for s in some.values()]
        found |= zip(some, engine.generate(prompts, params, prefixes), strict=True)
    return found


def _rated(runs: Sequence[_Run], judge: Judge) -> dict[int, Answer]:
    """The judgments that searches wait for, by the index of the search."""
    waiting = {i: run.asks.group for i, run in enumerate(runs) if isinstance(run.asks, Rate)}
    return dict(zip(waiting, asked(judge, list(waiting.values())))) if waiting else {}
