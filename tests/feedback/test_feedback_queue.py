"""Leases and judgments, one person at a time: every transition by hand. Several at once: test_feedback_overlap.py."""

from __future__ import annotations

import pytest
from feedback_cases import person, project
from sqlalchemy import select

from tropism.feedback import exporting, leases, queue
from tropism.feedback import project as projects
from tropism.feedback.question import Invalid
from tropism.feedback.schema import StoredGroup, StoredJudgment
from tropism.feedback.store import Store


def wanted(store: Store) -> list[int]:
    with store.reading() as session:
        return list(session.scalars(select(StoredGroup.wanted).order_by(StoredGroup.id)))


def test_a_judgment_is_kept_by_number_with_the_order_shown(store: Store):
    asked = project(store, groups=1, per_group=1)
    with store.writing() as session:
        ann = person(session, "ann")
        leased = queue.next_group(session, asked, ann, 100.0)
        assert leased is not None
        assert sorted(leased.shown) == [0, 1, 2]
        assert [c.text for c in leased.completions] == [f"answer {n} to 0" for n in leased.shown]
        assert leased.expires_at == 100.0 + 3600
    assert wanted(store) == [0]
    with store.writing() as session:
        number, created = queue.submit(
            session, leased.token, ann, {"ranks": [2, 1, 0]}, 160.0, 60.0, "why", "page", "key"
        )
        assert created
    with store.writing() as session:
        assert queue.submit(session, leased.token, ann, {"ranks": [1, 1, 1]}, 170.0, idempotency="key") == (
            number,
            False,
        )
        with pytest.raises(leases.Gone, match="submitted"):
            queue.submit(session, leased.token, ann, {"ranks": [1, 1, 1]}, 170.0, idempotency="another")
    (out,) = exporting.groups(store, "p")
    (said,) = out.judgments
    by_number = {leased.shown[0]: -2.0, leased.shown[1]: -1.0, leased.shown[2]: None}
    assert said.scores == tuple(by_number[n] for n in range(3))
    assert (said.judge, said.scale, said.rationale, said.shown) == ("ann", "ordinal", "why", tuple(leased.shown))


def test_the_same_group_is_given_until_it_is_answered_and_never_after(store: Store):
    asked = project(store, groups=2, per_group=3)
    with store.writing() as session:
        ann = person(session, "ann")
        first = queue.next_group(session, asked, ann, 0.0)
        again = queue.next_group(session, asked, ann, 1.0)
        assert first and again and first.token == again.token
        queue.submit(session, first.token, ann, {"ranks": [1, 2, 3]}, 2.0)
        second = queue.next_group(session, asked, ann, 3.0)
        assert second and second.group.uid == "g1"
        queue.skip(session, second.token, ann, "cannot say", 4.0)
        assert queue.next_group(session, asked, ann, 5.0) is None
    assert wanted(store) == [2, 3]


def test_an_expired_lease_goes_back_with_its_draft(store: Store):
    asked = project(store, groups=1, per_group=1)
    with store.writing() as session:
        ann, bob = person(session, "ann"), person(session, "bob")
        held = queue.next_group(session, asked, ann, 0.0)
        assert held
        assert queue.draft(session, held.token, ann, {"ranks": [1, 0, 0]}, 3000.0) == 6600.0
        assert queue.next_group(session, asked, bob, 6599.0) is None
        with pytest.raises(leases.Gone, match="expired"):
            queue.submit(session, held.token, ann, {"ranks": [1, 2, 3]}, 6600.0)
        with pytest.raises(leases.Gone, match="no such lease"):
            queue.submit(session, held.token, bob, {"ranks": [1, 2, 3]}, 10.0)
        other = queue.next_group(session, asked, bob, 6601.0)
        assert other and other.draft is None
        queue.skip(session, other.token, bob, "", 6602.0)
        back = queue.next_group(session, asked, ann, 6603.0)
        assert back and back.shown == held.shown and back.draft == {"ranks": [1, 0, 0]}
    assert wanted(store) == [0]


def test_undo_gives_the_group_back_with_the_answer_and_lets_go_of_the_one_held(store: Store):
    asked = project(store, groups=2, per_group=1)
    with store.writing() as session:
        ann = person(session, "ann")
        assert queue.undo(session, asked, ann, 0.0) is None
        first = queue.next_group(session, asked, ann, 1.0)
        assert first
        queue.submit(session, first.token, ann, {"ranks": [3, 1, 2]}, 2.0)
        assert queue.next_group(session, asked, ann, 3.0)
    assert wanted(store) == [0, 0]
    with store.writing() as session:
        back = queue.undo(session, asked, ann, 4.0)
        assert back and back.group.uid == "g0" and back.token != first.token
        assert (back.shown, back.draft) == (first.shown, {"ranks": [3, 1, 2]})
    assert wanted(store) == [0, 1]
    assert [g.judgments for g in exporting.groups(store, "p")] == [(), ()]
    with store.writing() as session:
        queue.submit(session, back.token, ann, {"choice": "bad"}, 5.0)
        rows = session.scalars(select(StoredJudgment).order_by(StoredJudgment.id)).all()
        assert [(r.supersedes, r.holds, r.scores is None) for r in rows] == [
            (None, False, False),
            (rows[0].id, True, True),
            (None, True, False),
        ]
    (said,) = next(iter(exporting.groups(store, "p"))).judgments
    assert said.scores == (0.0, 0.0, 0.0)


def test_undo_of_a_skip_that_others_have_answered_since(store: Store):
    asked = project(store, groups=1, per_group=1)
    with store.writing() as session:
        ann, bob = person(session, "ann"), person(session, "bob")
        held = queue.next_group(session, asked, ann, 0.0)
        assert held
        queue.skip(session, held.token, ann, "", 1.0)
        other = queue.next_group(session, asked, bob, 2.0)
        assert other
        assert queue.undo(session, asked, ann, 3.0) is None
        queue.skip(session, other.token, bob, "", 4.0)
        back = queue.undo(session, asked, ann, 5.0)
        assert back and back.group.uid == "g0"
    assert wanted(store) == [0]


def test_a_discard_uses_up_a_place(store: Store):
    asked = project(store, groups=1, per_group=2)
    with store.writing() as session:
        ann = person(session, "ann")
        held = queue.next_group(session, asked, ann, 0.0)
        assert held
        queue.discard(session, held.token, ann, "broken", 1.0)
        assert queue.next_group(session, asked, ann, 2.0) is None
    assert wanted(store) == [1]


def test_a_correction_supersedes_and_stays_with_its_question(store: Store):
    asked = project(store, groups=1, per_group=1)
    with store.writing() as session:
        ann, bob = person(session, "ann"), person(session, "bob")
        held = queue.next_group(session, asked, ann, 0.0)
        assert held
        number, _ = queue.submit(session, held.token, ann, {"ranks": [1, 2, 3]}, 1.0)
        newer = projects.ask(session, asked, "rate", {}, "Now rate.", 2.0)
        assert newer.version == 2
        with pytest.raises(leases.Gone, match="not yours"):
            queue.correct(session, number, bob, {"ranks": [1, 2, 3]}, 3.0)
        with pytest.raises(Invalid, match="ranks"):
            queue.correct(session, number, ann, {"scores": [1, 2, 3]}, 3.0)
        other = queue.correct(session, number, ann, {"ranks": [3, 2, 1]}, 3.0)
        with pytest.raises(leases.Gone, match="newest"):
            queue.correct(session, number, ann, {"ranks": [3, 2, 1]}, 3.0)
        row = session.get_one(StoredJudgment, other)
        assert row.supersedes == number and row.question_id != newer.id
    (said,) = next(iter(exporting.groups(store, "p"))).judgments
    assert [said.scores[n] for n in held.shown] == [-3.0, -2.0, -1.0]
    assert wanted(store) == [0]


def test_an_edit_is_a_completion_that_others_are_not_shown(store: Store):
    asked = project(store, groups=1, per_group=3, kind="edit", k=2)
    with store.writing() as session:
        for name, text in (("ann", "better"), ("bob", "best"), ("cat", "answer 1 to 0")):
            who = person(session, name)
            held = queue.next_group(session, asked, who, 0.0)
            assert held and len(held.completions) == 2
            queue.submit(session, held.token, who, {"text": text}, 1.0)
    (out,) = exporting.groups(store, "p")
    assert [c.text for c in out.completions] == ["answer 0 to 0", "answer 1 to 0", "better", "best"]
    assert [c.policy for c in out.completions] == ["model0@1", "model1@1", "ann", "bob"]
    assert [j.scores for j in out.judgments] == [(0, 0, 1, None), (0, 0, None, 1), (0, 1, None, None)]


def test_a_lease_lasts_three_times_the_median_pace(store: Store):
    asked = project(store, groups=8, per_group=1)
    with store.writing() as session:
        ann = person(session, "ann")
        for seconds in (10.0, 50.0, 60.0, 70.0, 900.0):
            held = queue.next_group(session, asked, ann, 0.0)
            assert held and held.expires_at == 3600.0
            queue.submit(session, held.token, ann, {"ranks": [1, 2, 3]}, 1.0, seconds)
        held = queue.next_group(session, asked, ann, 0.0)
        assert held and held.expires_at == 180.0
