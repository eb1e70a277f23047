"""Stage: judges score groups. Train and test are split by prompt: the K completions of a prompt stay together.

A judge may be people (`protocols.py:Patient`). Then the stage puts the groups where they are judged and ends the run
with status 3 (`errors.py:Waiting`); the same command looks again. Its fingerprint knows the question and not the
answers, so it is the same stage before and after. Its result is what had been said at the moment when it finished, and
`said` among its facts is a hash of that: what people say later changes no stage that is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from tropism.errors import TropismError
from tropism.needs import Earlier, Needs, count
from tropism.protocols import Format, Judge, Patient
from tropism.stages._read import read
from tropism.store.contents import side
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.plain import to_json
from tropism.store.work import Work
from tropism.train.rollouts import judgments
from tropism.types import Group, GroupsRef

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
        groups = count(self.data.groups()) if self.data else earlier.groups(self.groups or "")
        wanted = groups * sum(judge.per_group for judge in self.judges if isinstance(judge, Patient))
        return Needs(groups=groups, judgments=wanted)

    def run(self, work: Work) -> None:
        found = read(self.data, "data", work) if self.data else list(read_groups(self.groups or ""))
        for judge in self.judges:
            if isinstance(judge, Patient):
                found = _patient(judge, found, work)
                continue
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


def _patient(judge: Patient, groups: Sequence[Group], work: Work) -> list[Group]:
    """The groups with all that people said of them. Raises Waiting."""
    said = work.peers.once(lambda: judge.answers(groups, work.folder.parent, work.id))
    text = json.dumps([to_json(judgments) for judgments in said], sort_keys=True)
    work.facts |= {
        "people": sorted({j.judge for judgments in said for j in judgments[:-1]}),
        "answers": sum(len(judgments) - 1 for judgments in said),
        "said": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
    return [dataclasses.replace(g, judgments=(*g.judgments, *more)) for g, more in zip(groups, said)]
