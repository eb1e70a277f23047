"""The label stage alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.pairs import Pairs
from tropism.formats.phrasebook import Phrasebook
from tropism.judges.annotator import Annotator
from tropism.judges.verifier import Verifier
from tropism.stages.label import Label
from tropism.store.folder import done
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.run import Run
from tropism.types import Completion, Group, Judgment


@pytest.fixture
def answered(tmp_path: Path) -> str:
    """A hundred groups, each with the right answer and two others."""
    groups = [
        replace(g, completions=(Completion("no"), Completion(g.target or ""), Completion(f"{g.target}!")))
        for g in Phrasebook("prompts", count=100).groups()
    ]
    (tmp_path / "answered").mkdir()
    write_groups(groups, tmp_path / "answered" / GROUPS_FILE)
    return str(tmp_path / "answered")


def facts(out: Path) -> dict[str, Any]:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


def test_each_judge_looks_at_each_group(run: Run, answered: str) -> None:
    truth = Verifier(lambda completion, target: float(completion == target), "truth")
    out = run(Label(answered, judges=(Annotator(noise=0.0), truth), test=0.3))
    groups = list(read_groups(out))
    assert [[j.judge for j in g.judgments] for g in groups] == [["annotator@1", "truth"]] * 100
    assert all(g.judgment("truth") == Judgment("truth", (0.0, 1.0, 0.0)) for g in groups)
    for group in groups:
        scores = group.judgments[0].scores
        assert scores[1] == max(s for s in scores if s is not None)
    test = [g for g in groups if g.meta["split"] == "test"]
    assert {g.meta["split"] for g in groups} == {"train", "test"} and 18 <= len(test) <= 42
    assert facts(out) == {
        "groups": 100,
        "completions": 300,
        "test_groups": len(test),
        "unjudged_groups": 0,
        "judges": ["annotator@1", "truth"],
    }


def test_an_abstention_is_kept_and_counted(run: Run, answered: str) -> None:
    judge = Verifier(lambda completion, target: None if "a" in (target or "") else 1.0)
    out = run(Label(answered, judges=(judge,)))
    silent = [g for g in read_groups(out) if g.judgments[0].scores == (None, None, None)]
    assert facts(out)["unjudged_groups"] == len(silent) > 0
    assert all("a" in (g.target or "") for g in silent)


def test_when_no_judge_can_tell_it_is_refused(run: Run, answered: str) -> None:
    with pytest.raises(TropismError, match="no judge scored any completion"):
        run(Label(answered, judges=(Verifier(lambda completion: None),)))
    with pytest.raises(TropismError, match="no judge scored any completion"):
        run(Label(answered))


def test_data_that_come_with_judgments_need_no_judge(run: Run, tmp_path: Path) -> None:
    records = [{"prompt": f"p{n}", "chosen": "b", "rejected": "c"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    groups = list(read_groups(run(Label(data=Pairs(str(tmp_path / "pairs.jsonl"))))))
    assert all(g.judgments[0].scores == (1.0, 0.0) for g in groups) and len(groups) == 20


@dataclass(frozen=True)
class Careless:
    """A judge that forgets the last group, or the last completion of each."""

    groups: bool = True

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        if self.groups:
            return [Judgment("careless", (1.0,) * len(g.completions)) for g in groups[:-1]]
        return [Judgment("careless", (1.0,) * (len(g.completions) - 1)) for g in groups]


@pytest.mark.parametrize("judge", [Careless(), Careless(groups=False)])
def test_a_judge_that_does_not_judge_all_is_refused(run: Run, answered: str, judge: Careless) -> None:
    with pytest.raises(TropismError, match="the judge Careless did not give each of 100 groups a judgment"):
        run(Label(answered, judges=(judge,)))


def test_exactly_one_source(answered: str) -> None:
    for wrong in ({}, {"groups": answered, "data": Phrasebook("prompts")}):
        with pytest.raises(TropismError, match="label needs either `groups`"):
            Label(**wrong)
