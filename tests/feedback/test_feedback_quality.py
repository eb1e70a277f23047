"""The figures of a project and of its people, and adjudication, by hand and by another way through the store."""

from __future__ import annotations

import numpy as np
import pytest
from feedback_cases import group, person, project
from sqlalchemy import select, update

from tropism.errors import TropismError
from tropism.feedback import agreement, exporting, importing, quality, queue
from tropism.feedback import project as projects
from tropism.feedback.aggregate import combined
from tropism.feedback.question import Invalid
from tropism.feedback.schema import Audit, Person, Project, StoredGroup, StoredJudgment
from tropism.feedback.store import Store
from tropism.types import Judgment


def answer(
    store: Store, asked: Project, name: str, ranks: list[list[int]], by: str = "slot", seconds: float = 2.0
) -> None:
    """`name` answers a group for each of the ranks, given by slot or by number of completion."""
    with store.writing() as session:
        known = session.scalar(select(Person).where(Person.name == name))
        who = known or person(session, name, asked)
        for i, given in enumerate(ranks):
            leased = queue.next_group(session, asked, who, 10.0 * i)
            assert leased is not None
            body = {"ranks": given if by == "slot" else [given[n] for n in leased.shown]}
            queue.submit(session, leased.token, who, body, 10.0 * i + 1, seconds + i)


def rows(store: Store, asked: Project) -> dict[str, quality.Row]:
    with store.reading() as session:
        return {row["name"]: row for row in quality.of(session, asked)}


def test_position_bias_is_of_pairs_as_they_were_shown(store: Store):
    asked = project(store, groups=4, per_group=4)
    answer(store, asked, "first", [[1, 2, 3]] * 4)
    answer(store, asked, "last", [[3, 2, 1]] * 4)
    answer(store, asked, "half", [[1, 2, 2], [2, 2, 1]])  # 2 pairs for what was earlier, 2 against
    answer(store, asked, "ties", [[1, 1, 1], [1, 0, 0]])  # orders nothing
    found = rows(store, asked)
    bias = {name: row["position_bias"] for name, row in found.items()}
    assert [(bias[n] or {}).get("value") for n in ("first", "last", "half", "ties")] == [0.5, -0.5, 0.0, None]
    assert [(bias[n] or {}).get("n") for n in ("first", "last", "half")] == [4, 4, 2]
    first = bias["first"]
    assert first is not None and -0.5 < first["low"] < 0 and first["high"] == 0.5  # four groups say little
    assert found["first"]["median_seconds"] == 3.5  # of 2, 3, 4, 5
    assert [row["judgments"] for row in found.values()] == [4, 4, 2, 2]


def test_gold_is_the_share_of_known_pairs(store: Store):
    asked = project(store, groups=3, per_group=3)
    with store.writing() as session:
        session.execute(
            update(StoredGroup).where(StoredGroup.uid == "g0").values(gold=[2.0, 1.0, 1.0])
        )  # 2 pairs known
        session.execute(update(StoredGroup).where(StoredGroup.uid == "g1").values(gold=[1.0, 2.0, 3.0]))  # 3
    answer(store, asked, "right", [[1, 2, 3], [3, 2, 1], [1, 1, 1]], by="number")
    answer(store, asked, "mixed", [[1, 1, 2], [3, 2, 1]], by="number")  # 1/2 + 1 of 2, 3 of 3
    answer(store, asked, "partial", [[1, 0, 2], [1, 2, 0]], by="number")  # 1 of 1, 0 of 1
    found = rows(store, asked)
    gold = {name: row["gold"] for name, row in found.items()}
    assert [(gold[n] or {}).get("value") for n in ("right", "mixed", "partial")] == [1.0, 0.9, 0.5]
    assert [(gold[n] or {}).get("n") for n in ("right", "mixed", "partial")] == [2, 2, 2]


def test_gold_of_thumbs_is_the_same_thumb(store: Store):
    asked = project(store, groups=2, per_group=1, kind="thumb", k=1)
    with store.writing() as session:
        session.execute(update(StoredGroup).values(gold=[1.0]))
        ann = person(session, "ann", asked)
        for given in ({"choice": 0}, {"choice": "bad"}):
            leased = queue.next_group(session, asked, ann, 0.0)
            assert leased is not None
            queue.submit(session, leased.token, ann, given, 1.0)
        (row,) = quality.of(session, asked)
        assert row["gold"] is not None and (row["gold"]["value"], row["gold"]["n"]) == (0.5, 2)
        assert row["position_bias"] is None
        assert quality.alpha(session, asked)["metric"] == "nominal"


def test_alpha_is_of_people_and_the_export_says_the_same(store: Store):
    asked = project(store, groups=6, per_group=3)
    rng = np.random.default_rng(0)
    for name in ("ann", "bob", "cy"):
        answer(store, asked, name, [list(map(int, rng.integers(1, 4, 3))) for _ in range(6)], by="number")
    importing.add_groups(store, "p", [group(n, 3, Judgment("rm@1", (0.3, 0.1, 0.2))) for n in range(6)])
    with store.reading() as session:
        status = projects.status(session, asked, 99.0)
    table = np.array(
        [
            [
                p
                for g in exporting.groups(store, "p")
                for j in g.judgments
                if j.judge == name
                for p in agreement.places(j.scores)
            ]
            for name in ("ann", "bob", "cy")
        ],
        float,
    )
    found = status["agreement"]
    assert found["metric"] == "ordinal"
    assert found["alpha"]["value"] == pytest.approx(agreement.alpha(table, "ordinal"), abs=1e-4)
    assert found["alpha"]["low"] < found["alpha"]["value"] < found["alpha"]["high"]
    assert [(row["name"], row["kind"], row["judgments"]) for row in status["people"]] == [
        ("ann", "person", 6), ("bob", "person", 6), ("cy", "person", 6), ("rm", "judge", 6),
    ]  # fmt: skip
    assert status["judgments"] == 18


def test_agreement_of_each_two(store: Store):
    asked = project(store, groups=5, per_group=3)
    orders = [[1, 2, 3], [2, 1, 3], [3, 1, 2], [1, 3, 2], [2, 3, 1]]
    answer(store, asked, "ann", orders, by="number")
    answer(store, asked, "bob", orders[:4], by="number")
    answer(store, asked, "cy", [[4 - r for r in ranks] for ranks in orders[:2]], by="number")
    with store.reading() as session:
        found = quality.pairs(quality.read(session, asked))
    assert [(pair.a, pair.b, pair.groups) for pair in found] == [("ann", "cy", 2), ("bob", "cy", 2), ("ann", "bob", 4)]
    values = [pair.alpha and pair.alpha["value"] for pair in found]
    assert values == pytest.approx([1 - 2 * 11 / 12, 1 - 2 * 11 / 12, 1.0], abs=1e-4)  # opposite: rho -1, 12 values


def test_nothing_said_yet(store: Store):
    asked = project(store, groups=2)
    with store.reading() as session:
        status = projects.status(session, asked, 0.0)
        assert quality.pairs(quality.read(session, asked)) == quality.disagreements(session, asked) == []
    assert status["agreement"] == {"metric": "ordinal", "alpha": {"value": None, "low": None, "high": None}}
    assert status["people"] == []


def test_answers_to_another_kind_of_question_are_not_mixed_in(store: Store):
    asked = project(store, groups=3, per_group=2)
    answer(store, asked, "ann", [[1, 2, 3]])
    with store.writing() as session:
        projects.ask(session, asked, "rate", {}, "", 5.0)
        assert quality.of(session, asked) == []
        assert quality.alpha(session, asked)["metric"] == "interval"
        projects.ask(session, asked, "rank", {"labels": ["unsafe"]}, "", 6.0)
        assert [row["judgments"] for row in quality.of(session, asked)] == [1]


def test_adjudication_is_a_judgment_of_its_own(store: Store):
    asked = project(store, groups=3, per_group=2)
    answer(store, asked, "ann", [[1, 2, 3], [1, 2, 3], [1, 2, 3]], by="number")
    answer(store, asked, "bob", [[1, 2, 3], [3, 2, 1], [1, 3, 2]], by="number")
    with store.writing() as session:
        before = projects.status(session, asked, 50.0)
        worst, second = quality.disagreements(session, asked)
        assert (worst.uid, second.uid) == ("g1", "g2")  # g0: they agree
        boss = person(session, "boss", asked)
        quality.adjudicate(session, asked, worst.id, boss, {"ranks": [2, 1, 3]}, 60.0, "the second")
        again = quality.adjudicate(session, asked, worst.id, boss, {"ranks": [2, 1, 2]}, 61.0)
        with pytest.raises(Invalid):
            quality.adjudicate(session, asked, worst.id, boss, {"ranks": [9, 1, 2]}, 62.0)
        with pytest.raises(TropismError, match="no group"):
            quality.adjudicate(session, asked, 999, boss, {"ranks": [1, 2, 3]}, 62.0)
        assert [g.uid for g in quality.disagreements(session, asked)] == ["g2"]
        after = projects.status(session, asked, 70.0)
        noted = session.scalars(select(Audit).where(Audit.action == "adjudicate")).all()
        chain = session.scalars(select(StoredJudgment).where(StoredJudgment.judge == "adjudicator")).all()
    assert [(a.person_id, a.about["group"]) for a in noted] == [(boss.id, "g1")] * 2
    assert [(j.holds, j.supersedes) for j in chain] == [(False, None), (True, chain[0].id)] and chain[1].id == again
    assert {**after, "people": []} == {**before, "people": []}  # nobody's place is taken, alpha is of people
    assert [row["name"] for row in after["people"]] == ["ann", "bob", "adjudicator"]
    said = {j.judge: j.scores for g in exporting.groups(store, "p") if g.id == "g1" for j in g.judgments}
    assert said == {"ann": (-1, -2, -3), "bob": (-3, -2, -1), "adjudicator": (-2, -1, -2)}
    (last,) = combined([g for g in exporting.groups(store, "p") if g.id == "g1"])
    assert last.scores == (-2, -1, -2)


@pytest.mark.parametrize("name", ["adjudicator", "people"])
def test_names_that_exports_use_are_nobodys(store: Store, name: str):
    with store.writing() as session, pytest.raises(TropismError, match="another name"):
        person(session, name)
