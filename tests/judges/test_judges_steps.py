"""Rewards inside an answer, as a judge says them: kept in files, cut with a group, refused where they are odd."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tropism.asking.judge import asked
from tropism.errors import TropismError
from tropism.judges.verifier import Verifier
from tropism.store.groups import SCHEMA, read_groups, write_groups
from tropism.store.plain import group_from_json, to_json
from tropism.types import Completion, Group, Judgment, Message, Step

TWO = Group("g", (Message("user", "?"),), (Completion("one two"), Completion("three")))
STEPS = ((Step(3, 0.5), Step(7, -1.0)), None)


def by_word(completion: str) -> Judgment | float:
    """1 for the answer, a half for each word that is not the last; of one word a plain number."""
    ends = [i for i, sign in enumerate(completion) if sign == " "]
    return Judgment("", (1.0,), steps=(tuple(Step(end, 0.5) for end in ends),)) if ends else 2.0


def test_a_function_may_say_them() -> None:
    (said,) = Verifier(by_word).judge([TWO])
    assert said == Judgment("verifier", (1.0, 2.0), steps=((Step(3, 0.5),), None))
    assert Verifier(lambda: 1.0).judge([TWO])[0].steps is None


@pytest.mark.parametrize("said", [Judgment("", (1.0, 2.0)), Judgment("", ()), Judgment("", (1.0,), steps=())])
def test_a_function_speaks_of_one_completion(said: Judgment) -> None:
    if said.steps == ():
        assert Verifier(lambda: said).judge([TWO])[0].scores == (1.0, 1.0)
        return
    with pytest.raises(TropismError, match="which is neither a number nor None"):
        Verifier(lambda: said).judge([TWO])


def test_they_come_back_from_json_and_from_parquet(tmp_path: Path) -> None:
    judged = Group(
        "g", TWO.prompt, TWO.completions, (Judgment("a", (1.0, None), steps=STEPS), Judgment("b", (0.0, 1.0)))
    )
    assert group_from_json(json.dumps(to_json(judged))) == judged
    write_groups([judged, TWO], tmp_path / "groups.parquet")
    assert list(read_groups(tmp_path)) == [judged, TWO]


def test_groups_of_before_there_were_steps_are_read(tmp_path: Path) -> None:
    kept = [f for f in SCHEMA.field("judgments").type.value_type if f.name != "steps"]
    judgments = SCHEMA.get_field_index("judgments")
    before = SCHEMA.set(judgments, pa.field("judgments", pa.list_(pa.struct(kept))))
    judged = Group("g", TWO.prompt, TWO.completions, (Judgment("a", (1.0, None)),))
    pq.write_table(
        pa.Table.from_pylist([{**to_json(judged), "meta": "{}"}], schema=before), tmp_path / "groups.parquet"
    )
    assert list(read_groups(tmp_path)) == [judged]


def test_a_group_of_one_completion_keeps_its_own() -> None:
    judged = Group(
        "g", TWO.prompt, TWO.completions, (Judgment("a", (1.0, 2.0), steps=STEPS), Judgment("b", (0.0, 1.0)))
    )
    assert [j.steps for j in judged.only(0).judgments] == [(STEPS[0],), None]
    assert judged.only(1).judgments[0].steps == (None,)


class Says:
    def __init__(self, *steps: tuple[Step, ...] | None) -> None:
        self.steps = steps

    def judge(self, groups: list[Group]) -> list[Judgment]:
        return [Judgment("says", (0.0, 0.0), steps=self.steps) for _ in groups]


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (Says((Step(3, 0.0),)), "gave steps for 1 of 2 completions of the group g"),
        (Says((Step(8, 0.0),), None), r"gave Step\(end=8, reward=0.0\) to completion 1 of the group g, which has 7"),
        (Says(None, (Step(0, 0.0),)), r"gave Step\(end=0, reward=0.0\) to completion 2 of the group g, which has 5"),
        (Says(None, (Step(1, float("nan")),)), "give an end from 1 to that and a finite reward"),
        (Says(None, (Step(1, float("inf")),)), "give an end from 1 to that and a finite reward"),
    ],
)
def test_odd_steps_are_refused(judge: Says, said: str) -> None:
    with pytest.raises(TropismError, match=said):
        asked(judge, [TWO])
    asked(Says(*STEPS), [TWO])
