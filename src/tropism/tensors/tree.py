"""One group as tokens: what `tensors/encode.py` makes of text and `tensors/collate.py` lays out as rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tree:
    """One group as tokens: the prompt once, its K completions, and what is known of each.

    `trained[k][i]` is True where token i of completion k was chosen by the policy (and is trained on). `ended[k]` is
    False for an answer cut at the length limit. A `reward` of None could not be computed; a `rank` of 0 is unranked.
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
    baseline: float | None = None  # mean reward of all samples of the prompt, of which these are some

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))
