"""The engine of an endpoint, against a simulated one: what is tried again, kept, paid, said."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulated_endpoint import FINE, Endpoint, Fault
from tropism.asking.budget import Price, paying
from tropism.asking.client import Client
from tropism.asking.replies import Ask, Reply, ask
from tropism.engines.http import Http, HttpEngine
from tropism.errors import Spent, TropismError
from tropism.store.fingerprint import describe
from tropism.types import Message, SamplingParams

SECRET = "sk-5ecret"
GREEDY = SamplingParams(temperature=0.0, max_tokens=20)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The waits between tries, which here take no time; no key and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    seen: list[float] = []
    real = __import__("tropism.asking.endpoint", fromlist=["wait_s"]).wait_s

    def noted(*given: Any) -> float:
        seen.append(real(*given))
        return 0.0

    monkeypatch.setattr("tropism.asking.endpoint.wait_s", noted)
    return seen


def engine(endpoint: Endpoint, **fields: Any) -> HttpEngine:
    return Http(**{"model": "m", "url": endpoint.url, **fields}).open(None, None, "")


def asks(count: int, **fields: Any) -> list[Ask]:
    return [Ask((Message("user", f"question {i}"),), GREEDY, **fields) for i in range(count)]


def texts(replies: list[Reply]) -> list[str]:
    return [r.completion.text for r in replies]


def body(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def test_replies_come_in_order_many_at_once_and_are_asked_for_once(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(delay_s=0.002 * (7 - number % 7))
    made = engine(endpoint)
    replies = list(ask(made, asks(60)))
    assert texts(replies) == [endpoint.reply(body(f"question {i}")) for i in range(60)]
    assert endpoint.requests == 60 and 8 <= endpoint.most <= 64
    assert all(r.completion.policy == "m" and not r.cached and r.cost is None and r.seconds > 0 for r in replies)
    again = list(ask(engine(endpoint, concurrency=1), asks(60)))
    assert texts(again) == texts(replies) and endpoint.requests == 60
    assert all(r.cached and r.cost == 0 and r.seconds == 0 for r in again)


def test_concurrency_is_never_exceeded(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(delay_s=0.005)
    list(ask(engine(endpoint, concurrency=3), asks(30)))
    assert endpoint.most == 3


def test_equal_questions_at_once_are_one_request(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(delay_s=0.01)
    replies = list(ask(engine(endpoint), [*asks(1), *asks(1), *asks(1)]))
    assert endpoint.requests == 1 and len({*texts(replies)}) == 1
    rows = engine(endpoint).generate([(Message("user", "a"),)], dataclasses.replace(GREEDY, n=7))
    assert endpoint.requests == 2 and len(rows[0]) == 7  # greedy samples are equal


def test_samples_are_requests_with_their_own_seeds(endpoint: Endpoint):
    prompts = [(Message("user", "a"),), (Message("user", "b"),)]
    params = SamplingParams(n=4, seed=3)
    rows = engine(endpoint).generate(prompts, params)
    assert [len(row) for row in rows] == [4, 4] and endpoint.requests == 8
    assert len({c.text for row in rows for c in row}) > 5
    assert engine(endpoint).generate(prompts, dataclasses.replace(params, n=2)) == [row[:2] for row in rows]
    assert endpoint.requests == 8
    with pytest.raises(TropismError, match="cannot continue a prefix"):
        engine(endpoint).generate(prompts, params, [(1,), ()])


@pytest.mark.parametrize(
    "trouble",
    [Fault(408), Fault(409), Fault(429), Fault(500), Fault(502), Fault(503), Fault(529), Fault(breaks=True),
     Fault(raw=b"<html>"), Fault(raw=b'{"error": {"message": "overloaded"}}'), Fault(delay_s=5)],
    ids=["408", "409", "429", "500", "502", "503", "529", "broken", "html", "error with 200", "late"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(endpoint: Endpoint, waits: list[float], trouble: Fault):
    endpoint.fault = lambda number, body: trouble if number in (1, 2) else FINE
    (_, reply) = ask(engine(endpoint, timeout_s=1.0, concurrency=1), asks(2))
    assert reply.completion.text == endpoint.reply(body("question 1")) and not reply.cached
    assert endpoint.requests == 4 and len(waits) == 2
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


def test_retry_after_is_waited_for(endpoint: Endpoint, waits: list[float]):
    notes: list[str] = []
    endpoint.fault = lambda number, body: Fault(429, {"Retry-After": "17"}) if number == 0 else FINE
    made = engine(endpoint)
    made.tell(notes.append)
    list(ask(made, asks(1)))
    assert len(waits) == 1 and 17 <= waits[0] <= 18.7


def test_a_long_wait_is_told(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    notes: list[str] = []
    made = engine(endpoint, concurrency=1)
    made.tell(notes.append)
    monkeypatch.setattr("tropism.asking.endpoint.wait_s", lambda *given: 4.1)

    async def at_once(self: Any, ended: Any, wait: float) -> None:
        return None

    monkeypatch.setattr(Client, "_pause", at_once)
    endpoint.fault = lambda number, body: Fault(500) if number < 3 else FINE
    list(ask(made, asks(1)))
    assert notes == [f"{endpoint.url} is tried again in 4 s: 500 (simulated 500)"]


def test_a_429_lowers_the_limit_and_a_500_does_not(endpoint: Endpoint):
    made = engine(endpoint, concurrency=8)
    endpoint.fault = lambda number, body: Fault(500) if number == 0 else FINE
    list(ask(made, asks(4)))
    assert made._client.limiter.limit == 8
    endpoint.fault = lambda number, body: Fault(429) if number == 10 else FINE
    list(ask(made, asks(12)[4:]))
    assert made._client.limiter.cuts == 1 and made._client.limiter.limit < 8


def test_tries_are_counted(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(500)
    with pytest.raises(TropismError, match=r"gave no reply in 3 tries, the last time 500 \(simulated 500\): run again"):
        list(ask(engine(endpoint, tries=3, concurrency=1), asks(1)))
    assert endpoint.requests == 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, r"refused a request with 400 \(simulated 400\)"),
        (404, "refused a request with 404"),
        (422, "refused a request with 422"),
        (302, "refused a request with 302"),
        (401, "says 401 .*: set the environment variable MY_KEY to a key"),
        (403, "says 403 .*: set the environment variable MY_KEY to a key"),
    ],
)
def test_another_status_ends_the_run_with_one_request(endpoint: Endpoint, status: int, said: str):
    endpoint.fault = lambda number, body: Fault(status, {"Location": endpoint.url})
    with pytest.raises(TropismError, match=said):
        list(ask(engine(endpoint, key_env="MY_KEY"), asks(1)))
    assert endpoint.requests == 1


def test_what_is_in_flight_at_the_end_is_finished_and_kept(endpoint: Endpoint):
    """Question 0 is refused while 1 to 7 are being answered; nothing else is sent."""

    def fault(number: int, body: Any) -> Fault:
        first = body["messages"][0]["content"] == "question 0"
        return Fault(400, delay_s=0.3) if first else Fault(delay_s=0.8)  # the others have been sent before the refusal

    endpoint.fault = fault
    with pytest.raises(TropismError, match="refused a request with 400"):
        list(ask(engine(endpoint), asks(40)))
    assert sum(endpoint.answered.values()) == 7  # the limiter begins with 8
    endpoint.fault = lambda number, body: FINE
    assert [r.cached for r in ask(engine(endpoint), asks(40))] == [False, *[True] * 7, *[False] * 32]


def test_a_closed_call_sends_no_more(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(delay_s=0.02)
    replies = ask(engine(endpoint, concurrency=2), asks(50))
    next(replies)
    replies.close()  # as Ctrl-C does
    time.sleep(0.1)
    assert endpoint.requests <= 6


def test_a_model_that_wants_the_other_name_of_the_limit_gets_it(endpoint: Endpoint):
    said = b'{"error": {"message": "Unsupported parameter: \'max_tokens\'. Use \'max_completion_tokens\' instead."}}'
    endpoint.fault = lambda number, body: Fault(400, raw=said) if "max_tokens" in body else FINE
    assert len(list(ask(engine(endpoint), asks(3)))) == 3
    assert all(json.loads(b)["max_completion_tokens"] == 20 for b in endpoint.answered)


def test_a_dead_endpoint_is_a_sentence_at_once(endpoint: Endpoint, waits: list[float]):
    with Endpoint() as gone:
        url = gone.url
    with pytest.raises(
        TropismError, match=rf"{url} cannot be reached \(ConnectError .*start it, or give another `url`"
    ):
        list(ask(Http("m", url=url).open(None, None, ""), asks(3)))
    assert not waits


def test_an_endpoint_has_to_be_named(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint):
    with pytest.raises(TropismError, match="give `url`, such as .* or set the environment variable OPENAI_BASE_URL"):
        Http("m").open(None, None, "")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url + "/")
    assert len(list(ask(Http("m").open(None, None, ""), asks(1)))) == 1
    with pytest.raises(TropismError, match="asks a model of its own"):
        Http("m").open(object(), None, "")


def test_the_key_reaches_the_endpoint_and_nothing_else(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Not even when the endpoint repeats it, or when a traceback shows each variable of each function."""
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    spec = Http("m", url=endpoint.url, key_env="MY_KEY", cache=str(tmp_path / "c.sqlite"), tries=2)
    made, notes = spec.open(None, None, ""), []
    made.tell(notes.append)
    said = [repr(spec), json.dumps(describe(spec)), repr(made), repr(vars(made))]
    list(ask(made, asks(2)))
    assert {s.headers["authorization"] for s in endpoint.seen} == {f"Bearer {SECRET}"}
    echo = json.dumps({"error": {"message": f"bad key Bearer {SECRET}"}}).encode()
    for status in (401, 400, 500):
        endpoint.fault = lambda number, body: Fault(status, raw=echo)
        with pytest.raises(TropismError, match="bad key Bearer …") as error:
            list(ask(made, asks(3)))
        stack = traceback.StackSummary.extract(traceback.walk_tb(error.tb), capture_locals=True)
        ours = [frame for frame in stack if frame.filename != __file__]  # this test knows the key
        assert any(frame.locals and "self" in frame.locals for frame in ours)
        said += [str(error.value), *notes, *traceback.StackSummary.from_list(ours).format()]
    made._cache.close()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in data for data in files)
    assert not any(SECRET in text for text in (*said, *capfd.readouterr()))
    monkeypatch.setenv("MY_KEY", f"{SECRET}\nX")
    with pytest.raises(TropismError, match="MY_KEY has characters that no key has") as error:
        spec.open(None, None, "")
    assert SECRET not in str(error.value)


def test_only_the_model_and_its_revision_decide_the_answer():
    plain = Http("m")
    free = Http("m", url="http://x", key_env="K", concurrency=3, timeout_s=1, tries=1, budget=1.0, cache="c",
                prices={"m": Price(1, 1)})  # fmt: skip
    assert describe(free) == describe(plain)
    assert describe(Http("m", "2")) != describe(plain) != describe(Http("n"))


@pytest.mark.parametrize(
    "change",
    [{"model": "n"}, {"revision": "2"}, {"mark": "shown 2 1"}, {"messages": (Message("system", "question 0"),)},
     *({"params": dataclasses.replace(GREEDY, **p)} for p in ({"max_tokens": 21}, {"temperature": 0.1}, {"top_p": 0.5},
       {"top_k": 2}, {"stop": ("x",)})), {"top_logprobs": 2}],
    ids=str,
)  # fmt: skip
def test_what_the_answer_depends_on_is_in_the_key(endpoint: Endpoint, change: dict[str, Any]):
    (one,) = asks(1)
    list(ask(engine(endpoint), [one]))
    spec = {k: change.pop(k) for k in ("model", "revision") if k in change}
    (reply,) = ask(engine(endpoint, **spec), [dataclasses.replace(one, **change)])
    assert not reply.cached and endpoint.requests == 2


def test_the_seed_is_in_the_key_where_it_matters(endpoint: Endpoint):
    (one,) = asks(1)
    for temperature, requests in ((0.0, 1), (1.0, 3)):
        for seed in (1, 2):
            params = dataclasses.replace(GREEDY, temperature=temperature, seed=seed)
            list(ask(engine(endpoint), [dataclasses.replace(one, params=params)]))
        assert endpoint.requests == requests


def number(text: str) -> str:
    return "" if text.isdigit() else f"{text!r} is no number: reply with one"


def test_a_muddled_reply_is_repaired_and_kept_as_the_first_one(endpoint: Endpoint):
    """Question 0 is right at once, 1 after the repair call, 2 never."""

    def reply(body: Any) -> str:
        asked, late = body["messages"][0]["content"], len(body["messages"]) > 1
        return {"question 0": "5", "question 1": "7" if late else "seven", "question 2": "x"}[asked]

    endpoint.reply = reply
    priced = {"prices": {"m": Price(input=1e6, output=1e6)}}  # a dollar a token
    replies = list(ask(engine(endpoint, **priced), asks(3, accept=number)))
    wrong = "'x' is no number: reply with one"
    found = [(r.completion.text, r.repaired, r.wrong) for r in replies]
    assert found == [("5", False, ""), ("7", True, ""), ("x", True, wrong)]
    assert endpoint.requests == 5
    usage = [endpoint.completion(json.loads(s.body))["usage"] for s in endpoint.seen if b"question 1" in s.body]
    assert replies[1].input_tokens == sum(u["prompt_tokens"] for u in usage)
    assert replies[1].cost == sum(u["total_tokens"] for u in usage)
    again = list(ask(engine(endpoint, **priced), asks(3, accept=number)))
    assert [r.cached for r in again] == [True, True, False] and [r.repaired for r in again] == [False, True, True]
    assert endpoint.requests == 7  # both calls of the one that cannot be read
    (stricter,) = ask(engine(endpoint), asks(1, accept=lambda text: "" if text == "6" else "say 6"))
    assert stricter.wrong and endpoint.requests == 9  # kept ones are read, too


def test_log_probabilities_of_the_first_token(endpoint: Endpoint):
    endpoint.first = lambda body: {"A": -0.1, "B": -2.5, "C": -9.0}
    for _ in range(2):
        (reply,) = ask(engine(endpoint), asks(1, top_logprobs=2))
        assert reply.first == {"A": -0.1, "B": -2.5}
    assert reply.cached


PRICES = {"m": Price(input=100.0, output=1000.0)}  # USD per million tokens


def cost(endpoint: Endpoint) -> float:
    """What the endpoint's answers so far cost, by its own count."""
    used = [(endpoint.completion(json.loads(b))["usage"], n) for b, n in endpoint.answered.items()]
    return sum(n * (u["prompt_tokens"] * 100 + u["completion_tokens"] * 1000) / 1e6 for u, n in used)


def test_a_budget_needs_a_price():
    with pytest.raises(TropismError, match='a budget needs the price of m: give prices = { "m" = { input = …'):
        Http("m", budget=1.0, prices={"other": Price(1, 1)})


def test_the_budget_is_never_exceeded_and_a_raised_one_goes_on(endpoint: Endpoint):
    endpoint.fault = lambda number, body: Fault(delay_s=0.003 * (number % 5))
    spent = []
    with paying("a stage"):
        for budget in (0.2, 0.2, 0.35, None):
            made = engine(endpoint, prices=PRICES, budget=budget)
            try:
                replies = list(ask(made, asks(100)))
                assert budget is None and len(replies) == 100
            except Spent as error:
                said, left = str(error), 100 - len(endpoint.answered)
                assert f"{budget} USD is spent: {cost(endpoint):.4f} USD so far, and {left} of these questions" in said
                assert budget is not None and cost(endpoint) <= budget
                # what is left does not pay for the worst case of one more request: 256 + 16 + 4 + 11 and 20 tokens
                assert budget - cost(endpoint) < (287 * 100 + 20 * 1000) / 1e6
            spent.append(cost(endpoint))
            assert made.spent == {"m": pytest.approx(cost(endpoint), abs=1e-6)}
    assert spent[0] == spent[1] < spent[2] < spent[3]
    assert {*endpoint.answered.values()} == {1}
    made = engine(endpoint, prices=PRICES, budget=0.05)  # another payer, whose replies are there already
    assert all(r.cached for r in ask(made, asks(100)))


def test_several_processes_share_a_budget(endpoint: Endpoint):
    """Two engines here, each with its own connection to the file."""
    endpoint.fault = lambda number, body: Fault(delay_s=0.002)
    ended = []

    def half(made: HttpEngine, some: list[Ask]) -> None:
        try:
            list(ask(made, some))
        except Spent:
            ended.append(1)

    engines = [engine(endpoint, prices=PRICES, budget=0.3) for _ in range(2)]
    threads = [threading.Thread(target=half, args=(e, asks(120)[i::2])) for i, e in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 2 and 0.2 < cost(endpoint) <= 0.3


def test_a_request_that_may_have_been_served_stays_paid(endpoint: Endpoint):
    """A broken connection: its worst case. An error status: nothing."""
    worst = ((256 + 16 + 4 + 10) * 100 + 20 * 1000) / 1e6
    for trouble, lost in ((Fault(500), 0.0), (Fault(429), 0.0), (Fault(breaks=True), worst), (Fault(raw=b"?"), worst)):
        with paying(repr(trouble)):
            made = engine(endpoint, prices=PRICES, budget=1.0, revision=repr(trouble))
            first = endpoint.requests
            endpoint.fault = lambda number, body: trouble if number == first else FINE
            (reply,) = ask(made, asks(1))
            assert reply.cost is not None
            assert made.spent[f"m@{trouble!r}"] == pytest.approx(reply.cost + lost, abs=1e-6)


def test_a_file_that_is_no_cache_is_named(tmp_path: Path, endpoint: Endpoint):
    (tmp_path / "foreign").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(TropismError, match="the cache of replies .*foreign cannot be used .*: name another as `cache`"):
        engine(endpoint, cache=str(tmp_path / "foreign"))
