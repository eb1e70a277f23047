"""The arena for scripts: a battle, its turns, the vote, ratings; names only after the vote, to the byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from talkers import Broken, Talker, events

from tropism.feedback import exporting, people, queue
from tropism.feedback import project as projects
from tropism.feedback.find import Filter, search
from tropism.feedback.schema import StoredGroup, Vote

ONE, TWO = "zebra-one-7b", "yak-two-3b"
SSE = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def talkers() -> dict[str, Any]:
    return {ONE: Talker("I am **first**"), TWO: Talker("I am <b>second</b>")}


@pytest.fixture(scope="module")
def world(worlds: Callable[..., Any], talkers: dict[str, Any]) -> Any:
    return worlds(models=talkers)


def begun(world: Any, **more: Any) -> str:
    answer = world.client.post("/api/arena/battles", **more)
    assert answer.status_code == 201
    return answer.json()["battle"]


def ask(world: Any, battle: str, prompt: str = "Who are you?", **more: Any) -> Any:
    return world.client.post(f"/api/arena/battles/{battle}/turns", json={"prompt": prompt}, **more)


def vote(world: Any, battle: str, winner: str, **more: Any) -> Any:
    return world.client.post(f"/api/arena/battles/{battle}/vote", json={"vote": winner}, **more)


def sides(world: Any, battle: str) -> tuple[str, str]:
    with world.store.reading() as session:
        row = session.scalars(select(Vote).where(Vote.token == battle)).one()
        return row.model_a, row.model_b


def test_no_byte_names_a_model_before_the_vote(world: Any):
    first = world.client.post("/api/arena/battles")
    battle = first.json()["battle"]
    streamed = ask(world, battle, headers=SSE)
    told = ask(world, battle, "And now?")
    page = world.client.get("/arena", params={"battle": battle})
    wrong = [vote(world, battle, "c"), ask(world, battle, ""), ask(world, "none of mine")]
    listed = world.client.get("/api/projects/arena/groups", params={"text": "first"})
    for response in [first, streamed, told, page, *wrong, listed, world.client.get("/arena")]:
        sent = response.content + repr(response.headers).encode()
        assert len(sent) > 100 and b"zebra" not in sent and b"yak" not in sent
    assert "I am" in page.text and "I am" in streamed.text
    decided = vote(world, battle, "tie")
    assert ONE.encode() in decided.content and TWO.encode() in decided.content


def test_both_answer_at_once_and_each_knows_its_own_turns(world: Any, talkers: dict[str, Any]):
    battle = begun(world)
    said = events(ask(world, battle, headers=SSE).text)
    pieces = [data["side"] for name, data in said if name == "piece"]
    assert pieces[:6].count("a") >= 2 and pieces[:6].count("b") >= 2  # side by side, not one after the other
    name, last = said[-1]
    assert name == "turn" and last.keys() == {"battle", "turns", "vote", "html"}
    a, b = sides(world, battle)
    spoken = {ONE: "I am **first** (turn 1). ", TWO: "I am <b>second</b> (turn 1). "}
    assert last["turns"] == [{"prompt": "Who are you?", "a": spoken[a], "b": spoken[b]}]
    html = last["html"]["a" if a == TWO else "b"]
    assert "&lt;b&gt;second" in html and "<b>" not in html
    told = ask(world, battle, "And now?").json()
    assert told.keys() == {"battle", "turns", "vote"} and told["vote"] is None
    assert [turn["prompt"] for turn in told["turns"]] == ["Who are you?", "And now?"]
    assert [m.content for m in talkers[a].asked[-1]] == ["Who are you?", spoken[a], "And now?"]


def test_a_vote_is_a_judgment_of_a_group_and_changes_the_ratings(world: Any):
    before = world.client.get("/api/arena/ratings").json()
    battle = begun(world)
    ask(world, battle)
    a, b = sides(world, battle)
    decided = vote(world, battle, "b")
    assert decided.status_code == 201
    said = decided.json()
    assert said["models"] == {"a": a, "b": b} and said["vote"] == "b" and isinstance(said["judgment"], int)
    with world.store.reading() as session:
        group = session.scalars(select(StoredGroup).where(StoredGroup.uid == f"battle-{battle}")).one()
        assert (group.wanted, group.category, group.k) == (0, "one turn", 2)
    (group,) = [g for g in exporting.groups(world.store, "arena") if g.id == f"battle-{battle}"]
    assert [c.policy for c in group.completions] == [a, b]
    assert [m.content for m in group.prompt] == ["Who are you?"]
    (judgment,) = group.judgments
    assert (judgment.judge, judgment.scores, judgment.shown, judgment.scale) == (
        "tester",
        (0.0, 1.0),
        (0, 1),
        "ordinal",
    )
    after = world.client.get("/api/arena/ratings").json()
    assert after.keys() == {"models"} and {row["name"] for row in after["models"]} == {ONE, TWO}
    for row in after["models"]:
        assert row.keys() == {"name", "rating", "low", "high", "battles"} and row["low"] < row["rating"] < row["high"]
    votes = sum(row["battles"] for row in before["models"])
    assert sum(row["battles"] for row in after["models"]) == votes + 2


def test_a_battle_of_several_turns_is_kept_whole(world: Any):
    battle = begun(world)
    ask(world, battle)
    ask(world, battle, "And now?")
    vote(world, battle, "a")
    (group,) = [g for g in exporting.groups(world.store, "arena") if g.id == f"battle-{battle}"]
    assert group.meta["category"] == "several turns"
    first = next(c.text for c in group.completions if c.policy == ONE)
    assert first == "I am **first** (turn 1). \n\nuser:\nAnd now?\n\nassistant:\nI am **first** (turn 2). "


def test_bodies_that_do_not_fit_name_the_field(world: Any):
    battle = begun(world)
    assert vote(world, battle, "a").json()["error"]["code"] == "gone"  # nothing was asked yet
    assert ask(world, battle).status_code == 200
    for path, body, field in (
        ("turns", {}, "prompt"),
        ("turns", {"prompt": "  "}, "prompt"),
        ("turns", {"prompt": "x" * 30_001}, "prompt"),
        ("turns", {"prompt": 7}, "prompt"),
        ("vote", {"vote": "c"}, "vote"),
        ("vote", {"vote": ["a"]}, "vote"),
        ("vote", {"vote": "a", "seconds": -1}, "seconds"),
    ):
        answer = world.client.post(f"/api/arena/battles/{battle}/{path}", json=body)
        assert answer.status_code == 422 and answer.json()["error"]["field"] == field
    assert vote(world, battle, "a").status_code == 201
    assert vote(world, battle, "a").json()["vote"] == "a"  # sent once more
    for answer in (vote(world, battle, "b"), ask(world, battle)):
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "gone"


def test_a_battle_is_its_own_persons_alone(world: Any):
    battle = begun(world)
    ask(world, battle)
    other, viewer = world.key("other"), world.key("looks on", "viewer")
    assert ask(world, battle, headers=other).status_code == 404
    assert vote(world, battle, "a", headers=other).status_code == 409
    assert world.client.get("/arena", params={"battle": battle}, headers=other).status_code == 404
    assert world.client.post("/api/arena/battles", headers=viewer).status_code == 403
    assert world.client.get("/api/arena/ratings", headers=viewer).status_code == 200
    assert begun(world, headers=other) != battle


def test_voters_are_for_admins_and_the_explorer_finds_what_was_decided(world: Any):
    for _ in range(6):
        battle = begun(world)
        ask(world, battle)
        assert vote(world, battle, "a" if sides(world, battle)[0] == ONE else "b").status_code == 201
    begun(world)
    viewer = world.key("no admin", "viewer")
    assert "Voters" in world.client.get("/arena/ratings").text
    assert "Voters" not in world.client.get("/arena/ratings", headers=viewer).text
    with world.store.writing() as session:
        arena = projects.find(session, "arena")
        wanted = Filter(text="second", category="one turn", author=TWO)
        decided = session.scalars(select(Vote).where(Vote.winner.is_not(None))).all()
        assert search(session, arena, wanted, 0, 10).count == sum(len(row.turns) == 1 for row in decided) >= 6
        assert queue.next_group(session, arena, people.find(session, "tester"), 1.0) is None


def test_sides_are_drawn(world: Any):
    firsts = [sides(world, begun(world))[0] for _ in range(24)]
    assert 2 < firsts.count(ONE) < 22  # outside by chance in one of 27,000 cases


def test_a_model_that_fails_ends_the_turn_in_a_sentence_without_its_name(worlds: Callable[..., Any]):
    world = worlds(models={ONE: Talker("fine"), "zebra-broken-9b": Broken()})
    battle = begun(world)
    name, said = events(ask(world, battle, headers=SSE).text)[-1]
    assert name == "failed" and said["message"].endswith(".")
    answer = ask(world, battle)
    assert answer.status_code == 502 and answer.json()["error"]["code"] == "failed"
    assert "zebra" not in answer.text + str(said)
    assert vote(world, battle, "a").status_code == 409
    with world.store.reading() as session:
        assert session.scalars(select(Vote).where(Vote.token == battle)).one().turns == []


def test_a_battle_takes_two_models(worlds: Callable[..., Any]):
    world = worlds(models={ONE: Talker("alone")})
    answer = world.client.post("/api/arena/battles")
    assert answer.status_code == 400 and "--model" in answer.json()["error"]["message"]


def test_two_people_at_once_both_get_answers(worlds: Callable[..., Any]):
    """Each battle's pieces come while the other's still do."""
    world = worlds(models={ONE: Talker("a b c d e f g h", 0.02), TWO: Talker("a b c d e f g h", 0.02)})
    spans: list[tuple[float, float]] = []

    def play(headers: dict[str, str]) -> None:
        battle, times = begun(world, headers=headers), []
        path = f"/api/arena/battles/{battle}/turns"
        with httpx2.stream("POST", world.url + path, json={"prompt": "x"}, headers=headers | SSE, timeout=20) as said:
            times = [time.monotonic() for line in said.iter_lines() if line.startswith("event: piece")]
        assert len(times) == 20
        spans.append((times[0], times[-1]))

    together([threading.Thread(target=play, args=(world.key(name),)) for name in ("ann", "ben")])
    (begins, ends), (begun_too, ended_too) = spans
    assert begins < ended_too and begun_too < ends


def test_a_turn_that_came_second_is_refused_and_nothing_is_lost(worlds: Callable[..., Any]):
    world = worlds(models={ONE: Talker("a b c d e f g h", 0.05), TWO: Talker("a b c", 0.05)})
    battle = begun(world)
    found: list[Any] = []
    together([threading.Thread(target=lambda p=p: found.append(ask(world, battle, p))) for p in ("first", "second")])
    assert sorted(answer.status_code for answer in found) == [200, 409]
    kept = next(answer.json()["turns"] for answer in found if answer.status_code == 200)
    assert len(kept) == 1


def together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
