"""The interface for scripts, to the letter of its table: what is sent, what comes back, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest
from sqlalchemy import func, select
from web_world import groups_of

from tropism.feedback.schema import Lease, StoredJudgment


@pytest.fixture(scope="module")
def rank(worlds: Callable):
    return worlds(groups_of(12))


def ask(world, key: dict[str, str]) -> dict:
    answer = httpx2.post(f"{world.url}/api/projects/demo/next", headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(answer: httpx2.Response) -> tuple[int, dict]:
    body = answer.json()
    assert set(body) == {"error"} and {"code", "message"} <= set(body["error"])
    return answer.status_code, body["error"]


def test_a_group_is_taken_judged_and_counted(rank):
    key = rank.key("ann")
    given = ask(rank, key)
    assert set(given) == {"lease", "expires", "group", "question"}
    assert given["group"]["prompt"] == [{"role": "user", "content": "Translate into French: 2 days ago"}]
    assert [c["slot"] for c in given["group"]["completions"]] == list(range(7))
    assert set(given["group"]["completions"][0]) == {"slot", "text"}
    assert given["question"]["kind"] == "rank" and given["question"]["k"] == 7
    assert "policy" not in str(given)
    assert ask(rank, key)["lease"] == given["lease"]  # it is in hands until it is answered

    texts = [c["text"] for c in given["group"]["completions"]]
    assert sorted(texts) == [f"Il y a 2 jours, réponse {n}." for n in range(7)] != texts
    ranks = [int(text[-2]) + 1 for text in texts]  # completion n has rank n + 1, wherever it was shown
    url, body = f"{rank.url}/api/leases/{given['lease']}", {"ranks": ranks, "comment": "clear", "seconds": 12.5}
    first = httpx2.post(url, json=body, headers={**key, "Idempotency-Key": "x1"})
    again = httpx2.post(url, json=body, headers={**key, "Idempotency-Key": "x1"})
    assert (first.status_code, again.status_code) == (201, 200) and first.json() == again.json()
    assert error(httpx2.post(url, json=body, headers=key))[0] == 409  # without the key it is another submission
    with rank.store.reading() as session:
        row = session.get_one(StoredJudgment, first.json()["judgment"])
        assert row.scores == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]  # by number
        assert [texts[slot][-2] for slot in range(7)] == [str(n) for n in row.shown or ()]
        assert (row.seconds, row.rationale, row.client) == (12.5, "clear", "api")
    status = httpx2.get(f"{rank.url}/api/projects/demo/status", headers=key).json()
    assert (status["groups"], status["done"], status["judgments"], status["per_group"]) == (12, 1, 1, 1)


def test_a_skip_gives_the_group_to_somebody_else(rank):
    one, other = rank.key("one"), rank.key("other")
    given = ask(rank, one)
    url = f"{rank.url}/api/leases/{given['lease']}"
    assert error(httpx2.request("DELETE", url, json={"reason": 7}, headers=one))[1]["field"] == "reason"
    assert httpx2.request("DELETE", url, json={"reason": "not my language"}, headers=one).status_code == 204
    assert error(httpx2.request("DELETE", url, json={}, headers=one))[0] == 409
    assert ask(rank, other)["group"] ["id"] == given["group"]["id"] != ask(rank, one)["group"]["id"]  # fmt: skip
    with rank.store.reading() as session:
        assert session.scalar(select(Lease.reason).where(Lease.token == given["lease"])) == "not my language"


def test_204_when_nothing_is_left(worlds):
    world = worlds(per_group=1)
    key = world.key("ann")
    for _ in range(3):
        lease = ask(world, key)["lease"]
        answer = httpx2.post(f"{world.url}/api/leases/{lease}", json={"choice": "bad"}, headers=key)
        assert answer.status_code == 201
    left = httpx2.post(f"{world.url}/api/projects/demo/next", headers=key)
    assert left.status_code == 204 and left.content == b""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ranks": [1, 2]}, "ranks"),
        ({"ranks": [0] * 7}, "ranks"),
        ({"ranks": "first"}, "ranks"),
        ({"choice": 3}, "choice"),
        ({"rank": [1]}, "rank"),
        ({}, "ranks"),
        ({"ranks": [1, 2, 3, 4, 5, 6, 7], "seconds": -1}, "seconds"),
        ({"ranks": [1, 2, 3, 4, 5, 6, 7], "comment": ["no"]}, "comment"),
        ({"ranks": [1, 2, 3, 4, 5, 6, 7], "labels": ["unheard of"]}, "labels"),
    ],
)
def test_a_wrong_body_names_its_field(rank, body, field):
    key = rank.client.headers  # this machine's user, with the cookie
    lease = rank.client.post("/api/projects/demo/next", headers=key).json()["lease"]
    status, said = error(rank.client.post(f"/api/leases/{lease}", json=body))
    assert (status, said["field"]) == (422, field) and field in said["message"]


def test_what_is_no_json_object_is_refused(rank):
    assert (
        error(rank.client.post("/api/leases/x", content=b"{", headers={"content-type": "application/json"}))[0] == 422
    )
    assert error(rank.client.post("/api/leases/x", json=[1]))[0] == 422
    form = {"content-type": "application/x-www-form-urlencoded"}
    status, said = error(rank.client.post("/api/leases/x", content=b'{"choice": "bad"}', headers=form))
    assert status == 422 and "Content-Type: application/json" in said["message"]
    assert error(rank.client.post("/api/leases/x", json={"choice": "bad"}))[0] == 409  # nobody's lease


def test_a_foreign_lease_is_gone(rank):
    given = rank.client.post("/api/projects/demo/next").json()
    url = f"{rank.url}/api/leases/{given['lease']}"
    before = count(rank)
    status, said = error(httpx2.post(url, json={"choice": "bad"}, headers=rank.key("stranger")))
    assert status == 409 and "lease" in said["message"] and count(rank) == before


def count(world) -> int:
    with world.store.reading() as session:
        return session.scalar(select(func.count()).select_from(StoredJudgment)) or 0


@pytest.mark.parametrize(
    ("kind", "k", "body", "scores"),
    [
        ("pair", 2, {"choice": 0}, {1.0, 0.0}),
        ("pair", 2, {"choice": "tie"}, {0.5}),
        ("thumb", 1, {"choice": "bad"}, {0.0}),
        ("rate", 3, {"scores": [5, 1, None]}, {5.0, 1.0, None}),
        ("edit", 1, {"text": "Il y a deux jours."}, {0.0, 1.0}),
    ],
)
def test_every_kind_of_question(worlds, kind, k, body, scores):
    world = worlds(groups=groups_of(1, k), kind=kind)
    lease = ask(world, key := world.key("ann"))["lease"]
    answer = httpx2.post(f"{world.url}/api/leases/{lease}", json=body, headers=key)
    assert answer.status_code == 201, answer.text
    with world.store.reading() as session:
        assert set(session.get_one(StoredJudgment, answer.json()["judgment"]).scores or ()) == scores
