"""Battles and what is said in a chat, on both databases: votes at once, corrections, nothing for the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from feedback_cases import person

from tropism.errors import TropismError
from tropism.feedback import battles, chats, exporting, people, queue
from tropism.feedback import project as projects
from tropism.feedback.leases import Gone
from tropism.feedback.store import Store
from tropism.types import Message

HELLO = (Message("user", "Hello"),)


@pytest.fixture
def store(where: str, opened: Callable[[str], Store]) -> Store:
    made = opened(where)
    with made.writing() as session:
        person(session, "ann")
    return made


def fought(store: Store, *winners: str) -> None:
    for k, winner in enumerate(winners):
        with store.writing() as session:
            ann = people.find(session, "ann")
            battle = battles.begin(session, ann, ["one", "two"], float(k))
            battles.add_turn(session, battle.token, ann, "Hello", "said by a\0", "said by b", 0)
            battles.vote(session, battle.token, ann, winner, float(k), 3.5, "api")


def test_votes_are_judgments_in_their_order(store: Store):
    fought(store, "a", "tie", "bad", "b")
    with store.reading() as session:
        voted = battles.voted(session)
    assert [b.winner for b in voted] == ["a", "tie", "bad", "b"] and {b.voter for b in voted} == {"ann"}
    groups = list(exporting.groups(store, "arena"))
    assert [g.judgments[0].scores for g in groups] == [(1.0, 0.0), (0.5, 0.5), (0.0, 0.0), (0.0, 1.0)]
    assert [[c.policy for c in g.completions] for g in groups] == [[b.a, b.b] for b in voted]
    assert groups[0].completions[0].text == "said by a\ufffd"  # no database holds a NUL
    with store.writing() as session:
        assert queue.next_group(session, projects.find(session, "arena"), people.find(session, "ann"), 9.0) is None


def test_of_two_different_votes_at_once_one_holds(store: Store):
    with store.writing() as session:
        ann = people.find(session, "ann")
        token = battles.begin(session, ann, ["one", "two"], 0.0).token
        battles.add_turn(session, token, ann, "Hello", "x", "y", 0)
    ended: list[str] = []
    start = threading.Barrier(2)

    def vote(winner: str) -> None:
        start.wait()
        try:
            with store.writing() as session:
                battles.vote(session, token, people.find(session, "ann"), winner, 1.0)
            ended.append(winner)
        except Gone:
            ended.append("refused")

    threads = [threading.Thread(target=vote, args=(winner,)) for winner in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ended)[1] == "refused" and sorted(ended)[0] in "ab"
    (group,) = exporting.groups(store, "arena")
    assert len(group.judgments) == 1 and len(group.completions) == 2


def test_one_who_was_removed_votes_no_more_and_earlier_votes_stay(store: Store):
    fought(store, "a")
    with store.writing() as session:
        ann = people.find(session, "ann")
        token = battles.begin(session, ann, ["one", "two"], 0.0).token
        battles.add_turn(session, token, ann, "Hello", "x", "y", 0)
        people.remove(session, ann, 1.0)
        with pytest.raises(Gone):
            battles.vote(session, token, ann, "a", 2.0)
    with store.reading() as session:
        assert len(battles.voted(session)) == 1


def test_what_is_said_twice_of_one_answer_is_a_correction(store: Store):
    answer = chats.Answer("one", HELLO, "Hi")
    with store.writing() as session:
        ann, ben = people.find(session, "ann"), person(session, "ben")
        for good in (True, False):
            chats.thumb(session, ann, answer, good, 1.0)
        chats.thumb(session, ben, answer, True, 1.0)
        for text in ("Hi!", "Hello!"):
            chats.edit(session, ann, answer, text, 1.0)
        with pytest.raises(TropismError, match="say the same"):
            chats.choose(session, ann, [answer, answer], 0, 1.0)
    thumbs = list(exporting.groups(store, "chat-thumbs"))
    assert [[j.scores for j in g.judgments] for g in thumbs] == [
        [(0.0,)],
        [(1.0,)],
    ]  # a group each: one judgment of each
    (edit,) = exporting.groups(store, "chat-edits")
    assert [c.text for c in edit.completions] == ["Hi", "Hi!", "Hello!"]
    assert [j.scores for j in edit.judgments] == [(0.0, None, 1.0)]


def test_a_project_of_that_name_that_asks_something_else_is_said(store: Store):
    with store.writing() as session:
        projects.create(session, "arena", "rank", {}, 1, 0, "", 0.0)
        with pytest.raises(TropismError, match="the project 'arena' asks 'rank'"):
            battles.begin(session, people.find(session, "ann"), ["one", "two"], 0.0)
