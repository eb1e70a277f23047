"""Stage: judges look at groups. Train and test are split by prompt: the K completions of a prompt never part."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from tropism.errors import TropismError
from tropism.needs import Earlier, Needs, count
from tropism.protocols import Format, Judge
from tropism.stages._read import read
from tropism.store.contents import side
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.work import Work
from tropism.train.rollouts import judgments
from tropism.types import GroupsRef

__all__ = ["Label"]


@dataclass(frozen=True)
class Label:
    """Groups of an earlier stage (`groups`) or from files (`data`); exactly one of the two is given.

    Data that come with judgments need no `judges`. `test` is the share of prompts held out.
    """

    groups: GroupsRef | None = None
    data: Format | None = None
    judges: tuple[Judge, ...] = ()
    test: Annotated[float, Interval(ge=0, lt=1)] = 0.15

    version: ClassVar[int] = 2
    makes: ClassVar[Literal["groups"]] = "groups"

    def __post_init__(self) -> None:
        if (self.groups is None) == (self.data is None):
            raise TropismError("label needs either `groups` (an earlier stage) or `data` (a format): give one of them")

    def needs(self, earlier: Earlier) -> Needs:
        return Needs(groups=count(self.data.groups()) if self.data else earlier.groups(self.groups or ""))

    def run(self, work: Work) -> None:
        found = read(self.data, "data", work) if self.data else list(read_groups(self.groups or ""))
        for judge in self.judges:
            said = judgments(judge, found)
            found = [dataclasses.replace(g, judgments=(*g.judgments, j)) for g, j in zip(found, said)]
        silent = [g.id for g in found if not any(s is not None for j in g.judgments for s in j.scores)]
        if len(silent) == len(found):
            raise TropismError("no judge scored any completion: name a judge that can, under `judges`")
        found = [dataclasses.replace(g, meta={**g.meta, "split": side(g, self.test)}) for g in found]
        work.facts |= {
            "groups": len(found),
            "completions": sum(len(g.completions) for g in found),
            "test_groups": sum(g.meta["split"] == "test" for g in found),
            "unjudged_groups": len(silent),
            "judges": sorted({j.judge for g in found for j in g.judgments}),
        }
        write_groups(found, work.out / GROUPS_FILE)
