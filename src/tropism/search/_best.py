"""Groups → the best judged completion of each: rejection sampling, with a demonstration as its result."""

from __future__ import annotations

import dataclasses

from tropism.types import Group, TropismError


def best(group: Group, judge: str) -> Group | None:
    """The group with only the completion that `judge` scored highest, the first of equals; None if it scored none.

    `judge` is a name without its @version, whose newest judgment counts. A score that is not a number is no score. The
    other judgments keep what they say of that completion. Raises if the judge has not looked at
    the group.
    """
    judgment = group.judgment(judge)
    if judgment is None:
        known = ", ".join(sorted({j.judge.split("@")[0] for j in group.judgments})) or "none"
        raise TropismError(f"group {group.id} has no judgment by {judge!r} (it has: {known}): name one of those")
    for other in group.judgments:
        if len(other.scores) != len(group.completions):
            raise TropismError(
                f"group {group.id}: {other.judge} gave {len(other.scores)} scores for {len(group.completions)} "
                "completions: judge the group again"
            )
    scored = [(score, k) for k, score in enumerate(judgment.scores) if score is not None and score == score]
    if not scored:
        return None
    return only(group, max(scored, key=lambda item: item[0])[1])


def only(group: Group, k: int) -> Group:
    """The group with its completion number k, and of each judgment the score of that one."""
    judgments = tuple(dataclasses.replace(j, scores=(j.scores[k],), shown=None) for j in group.judgments)
    return dataclasses.replace(group, completions=(group.completions[k],), judgments=judgments)
