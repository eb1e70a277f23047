"""One group as tokens: `tensors/encode.py` makes it from text, and `tensors/collate.py` arranges it in rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tree:
    """One group as tokens: the prompt once, its K completions, and what is known of each.

    `trained[k][i]` is True if the policy chose token i of completion k (and is trained on it). `ended[k]` is False for
    an answer cut at the length limit. A `reward` of None could not be computed; a `rank` of 0 is unranked.
    """

    id: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    trained: tuple[tuple[bool, ...], ...]
    ended: tuple[bool, ...]
    logprobs: tuple[tuple[float, ...], ...] | None = None
    reward: tuple[float | None, ...] | None = None
    rank: tuple[int, ...] | None = None
    steps: tuple[tuple[tuple[int, float], ...], ...] | None = (
        None  # (number of the token, reward) inside each completion
    )
    baseline: float | None = None  # mean reward of all samples of the prompt, also of those that are not here

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))
