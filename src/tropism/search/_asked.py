"""A judge's answer, looked through before anybody relies on it."""

from __future__ import annotations

from collections.abc import Sequence

from tropism.types import Group, Judge, Judgment, TropismError


def asked(judge: Judge, groups: Sequence[Group]) -> list[Judgment]:
    """What a judge says of the groups. Raises unless it is one judgment a group and one score a completion."""
    said = judge.judge(groups)
    if [len(j.scores) for j in said] != [len(g.completions) for g in groups]:
        raise TropismError(
            f"the judge {type(judge).__name__} did not give each of {len(groups)} groups a judgment with one score for "
            "each completion: mend its `judge`"
        )
    return said
