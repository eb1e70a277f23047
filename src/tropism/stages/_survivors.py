"""Which samples survive a threshold of ReST, and the trees for training. The rules are explained in
`stages/rest.py`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tropism.tensors.encode import pick
from tropism.tensors.tree import Tree
from tropism.train.rollouts import scores
from tropism.types import Group


def survivors(
    groups: Sequence[Group],
    threshold: float,
    by: Literal["value", "quantile", "prompt"],
    most: int = 0,
    floor: float | None = None,
) -> list[list[int]]:
    """The kept completions of each group, best first: scores above the threshold, no copies, at most `most`."""
    found = [[(s, k) for k, s in enumerate(scores(g)) if s is not None] for g in groups]
    bar = threshold
    if by == "quantile":
        bar = _bar([s for row in found for s, _ in row], threshold, floor)
    kept: list[list[int]] = []
    for group, row in zip(groups, found):
        if by == "prompt":
            bar = _bar([s for s, _ in row], threshold, floor)
        order = [k for s, k in sorted(row, key=lambda scored: -scored[0]) if s > bar]
        unique = {group.completions[k].text: k for k in reversed(order)}
        kept.append(sorted(unique.values(), key=order.index)[: most or None])
    return kept


def _bar(known: Sequence[float], share: float, floor: float | None) -> float:
    """Scores have to be above this: the quantile, or the second-best score if the quantile is the best score."""
    behind = [s for s in known if s < max(known)]
    if not behind:
        return math.inf if floor is None else floor
    return max(min(float(np.quantile(known, share)), max(behind)), -math.inf if floor is None else floor)


def filtered(group: Group, kept: Sequence[int], found: Tree, ranked: bool) -> Tree:
    """The tree of the survivors with their scores and the mean score of all. If the loss ranks, the tree has all
    completions, and the kept ones are ranked above the dropped ones.

    A copy of a survivor counts as neither and is not ranked.
    """
    reward = scores(group)
    if ranked:
        texts = [c.text for c in group.completions]
        alike = {texts[i] for i in kept}
        rank = tuple(
            1 if i in kept else 0 if r is None or text in alike else 2 for i, (r, text) in enumerate(zip(reward, texts))
        )
        return dataclasses.replace(found, rank=rank, reward=reward, logprobs=None)
    mean = statistics.fmean(r for r in reward if r is not None)
    return pick(dataclasses.replace(found, reward=reward, baseline=mean, logprobs=None), kept)
