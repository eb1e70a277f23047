"""The cost of a method: the tokens that went through models, so that methods can be compared at equal compute.

Every token of every pass of every model counts:

    sampling    the prompt once for all its completions, and every sampled token
    judging     the tokens that a judge reads if it is a model (`Judgment.tokens`)
    filling     a forward pass of the reference, of the critic, of the current policy, as an algorithm `needs`
    updating    a forward and a backward pass of each model that the loss `predicts` from, a forward pass of a teacher

A forward pass counts 1 per token and a backward pass 2, the usual ratio of their operations, whatever the size of the
model. Padding, and a prompt that a layout repeats, are not counted, so the figure depends on the method and not on the
machine. Evaluation during training is free: probes, and the judge `truth`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tropism.protocols import Algorithm
from tropism.train.loop import ROLE
from tropism.train.rollouts import fillable, needed
from tropism.types import Completion, Judgment

BACKWARD = 2


def sampling(prompt: int, completions: Iterable[Completion], judgment: Judgment) -> int:
    """The cost of sampling completions after a prompt of `prompt` tokens, and of judging them. Answers that came as
    text cost nothing."""
    made = [len(c.tokens) for c in completions if c.tokens is not None]
    return (prompt + sum(made) if made else 0) + judgment.tokens


def filling(algorithm: Algorithm, sampled: bool) -> int:
    """The cost per token of filling a batch before `credit`. A `sampled` batch already has its old
    log-probabilities."""
    return len(fillable(needed(algorithm), sampled))


def updating(algorithm: Algorithm) -> int:
    """The cost per token of an update."""
    return (1 + BACKWARD) * len({ROLE[part] for part in algorithm.predicts}) + ("teacher" in algorithm.needs)
