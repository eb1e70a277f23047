"""What decodes in a batch: samples, and the prompts that they begin with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tropism.engines._choose import draws
from tropism.engines._sequence import Sequenced
from tropism.types import SamplingParams


@dataclass(eq=False, slots=True)
class Row:
    """One sample. It samples `tokens` after those that `sequence` had; `ends`, if there is one, says after each token
    whether to stop."""

    sequence: Sequenced
    params: SamplingParams
    ends: Callable[[Row], bool] | None
    owned: bool = True  # whether its sequence is freed with it
    draws: Iterator[float] = field(init=False)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: str = ""

    def __post_init__(self) -> None:
        sequence = self.sequence
        begun = len(sequence.tokens) - sequence.origin
        self.draws = draws(sequence.key, self.params.seed, sequence.number, begun)

    def take(self, token: int, logprob: float, stops: frozenset[int]) -> None:
        self.sequence.tokens.append(token)
        self.sequence.scored = None
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in stops or (self.ends is not None and self.ends(self)):
            self.finished = "stop"
        elif len(self.tokens) >= self.params.max_tokens:
            self.finished = "length"

    def take_all(self, tokens: list[int], logprobs: list[float], stops: frozenset[int]) -> None:
        """Tokens of which only the last can be the end."""
        self.sequence.tokens += tokens[:-1]
        self.tokens += tokens[:-1]
        self.logprobs += logprobs[:-1]
        self.take(tokens[-1], logprobs[-1], stops)


@dataclass(eq=False)
class Root:
    """A prompt, and the numbers of its samples that have not begun; `start` makes a row of a sequence and a number."""

    sequence: Sequenced
    waiting: deque[int]
    start: Callable[[Sequenced, int], Row]
    rows: list[Row] = field(default_factory=list)  # those that have begun
