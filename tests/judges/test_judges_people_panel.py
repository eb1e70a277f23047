"""The judge `people`: which groups come first, and whose word is the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError, Waiting
from tropism.feedback import people, quality, queue
from tropism.feedback import project as projects
from tropism.feedback.place import IN_RUN
from tropism.feedback.store import open_store
from tropism.judges.people import People
from tropism.types import Completion, Group, Judgment, Message


def group(n: int) -> Group:
    return Group(f"g{n}", (Message("user", f"question {n}"),), (Completion("a"), Completion("b"), Completion("c")))


def test_groups_on_which_the_panel_differs_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self, model: str) -> None:
            self.sign = 1.0 if model == "a" else -1.0

        def judge(self, groups: Sequence[Group]) -> list[Judgment]:
            return [Judgment("rm@1", (self.sign * number, 0.0, 0.0)) for number, _ in enumerate(groups)]

    monkeypatch.setattr("tropism.judges.people.RewardModel", Model)
    judge = People(select="disagreement", panel=("a", "b"))
    with pytest.raises(Waiting):
        judge.answers([group(n) for n in range(4)], tmp_path, "rankings")
    store = open_store(tmp_path / IN_RUN)
    with store.writing() as session:
        asked, given = projects.find(session, "rankings"), []
        who = people.add(session, "ann", 0.0)
        while (leased := queue.next_group(session, asked, who, 0.0)) is not None:
            given.append(leased.group.uid)
            queue.skip(session, leased.token, who, "", 0.0)
    store.close()
    assert given == [group(n).id for n in (3, 2, 1, 0)]


def test_disagreement_needs_a_panel() -> None:
    one = {"select": "disagreement", "panel": ("a",)}
    wrongs: list[dict[str, Any]] = [{"select": "disagreement"}, {"panel": ("a", "b")}, one]
    for wrong in wrongs:
        with pytest.raises(TropismError, match="panel"):
            People(**wrong)


def test_an_adjudicators_word_is_what_people_say(tmp_path: Path) -> None:
    judge, groups = People(per_group=1), [group(0)]
    with pytest.raises(Waiting):
        judge.answers(groups, tmp_path, "rankings")
    store = open_store(tmp_path / IN_RUN)
    with store.writing() as session:
        asked, who = projects.find(session, "rankings"), people.add(session, "ann", 0.0)
        leased = queue.next_group(session, asked, who, 0.0)
        assert leased is not None
        queue.submit(session, leased.token, who, {"ranks": [1, 2, 3]}, 1.0)
        quality.adjudicate(session, asked, leased.group.id, who, {"ranks": [2, 1, 3]}, 2.0)
    store.close()
    ((*_, whole),) = judge.answers(groups, tmp_path, "rankings")
    assert (whole.name, whole.scores) == ("people", (-2, -1, -3))
