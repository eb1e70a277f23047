"""What a method costs: the tokens that went through a model, so that methods can be compared at equal compute.

Every pass of every model counts, each token of it:

    sampling    the prompt once for all its completions, and every token sampled
    judging     what a judge that is a model reads (`Judgment.tokens`)
    filling     a forward pass of the reference, of the critic, of the policy of the moment, as an algorithm `needs`
    updating    a forward and a backward pass of each model that the loss `predicts` from, a forward pass of a teacher

A forward pass is 1 a token, a backward pass 2, the usual ratio of their operations. A token is a token whatever the size
of the model. Padding, and a prompt that a layout repeats, are not counted: the figure is the method's, not the machine's.
Free is what only looks: a probe, and the judge called `truth`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tropism.protocols import Algorithm
from tropism.train.loop import ROLE
from tropism.train.rollouts import fillable
from tropism.types import Completion, Judgment

BACKWARD = 2


def sampling(prompt: int, completions: Iterable[Completion], judgment: Judgment) -> int:
    """Of completions behind a prompt of so many tokens, and their judgment. Those that came as text cost nothing."""
    made = [len(c.tokens) for c in completions if c.tokens is not None]
    return (prompt + sum(made) if made else 0) + judgment.tokens


def filling(algorithm: Algorithm, sampled: bool) -> int:
    """Of each token of a batch, before `credit`. Where the batch was `sampled`, old log-probabilities came with it."""
    return len(fillable(algorithm.needs, sampled))


def updating(algorithm: Algorithm) -> int:
    """Of each token of an update."""
    return (1 + BACKWARD) * len({ROLE[part] for part in algorithm.predicts}) + ("teacher" in algorithm.needs)
