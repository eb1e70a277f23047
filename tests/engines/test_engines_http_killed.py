"""kill -9 in the middle of asking an endpoint that limits, fails, breaks and muddles: what is asked and paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from simulated_endpoint import FINE, Body, Endpoint, Fault
from tropism.store.groups import read_groups

CONCURRENCY = 16
INPUT, OUTPUT = 100.0, 1000.0  # USD per million tokens
ASKS = f"""
    import sys, time
    from tropism.asking.budget import Price, paying
    from tropism.asking.replies import Ask, ask
    from tropism.engines.http import Http
    from tropism.types import Message, SamplingParams

    url, cache, count, budget = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    prices = {{"m": Price({INPUT}, {OUTPUT})}}
    spec = Http("m", url=url, cache=cache, concurrency={CONCURRENCY}, prices=prices, budget=budget)
    params = SamplingParams(temperature=0.0, max_tokens=20)
    asks = [
        Ask((Message("user", f"question {{i}}"),), params, accept=lambda t: "" if t != "muddled" else "be clear")
        for i in range(count)
    ]
    with paying("stage"):
        engine = spec.open(None, None, "")
        print(sum(not reply.wrong for reply in ask(engine, asks)), engine.spent["m"])
"""


COLLECT = f"""
name = "asked"

[[stage]]
id = "answers"
kind = "collect"
prompts = {{ kind = "prompts", path = "prompts.txt" }}
prompts_at_once = 8
sampling = {{ n = 2, max_tokens = 20, temperature = 0.7 }}

[stage.engine]
kind = "http"
model = "m"
cache = "replies.sqlite"
concurrency = {CONCURRENCY}
prices = {{ m = {{ input = {INPUT}, output = {OUTPUT} }} }}
"""


def muddled(body: Body) -> str:
    """Each tenth question is first answered with what cannot be read."""
    number = int(body["messages"][0]["content"].split()[1])
    return "muddled" if number % 10 == 0 and len(body["messages"]) == 1 else f"the answer to {number}"


def faults(number: int, body: Body) -> Fault:
    """Of 20 requests one is limited, one fails, one breaks, one is no response, each at another time."""
    bad = {3: Fault(429, {"Retry-After": "0.01"}), 8: Fault(500), 13: Fault(breaks=True), 18: Fault(raw=b"<html>")}
    return bad.get(number % 20, Fault(delay_s=0.004)) if number < 200 else FINE


def child(endpoint: Endpoint, folder: Path, count: int, budget: float) -> subprocess.Popen[str]:
    given = [endpoint.url, str(folder / "replies.sqlite"), str(count), str(budget)]
    code = textwrap.dedent(ASKS)
    return subprocess.Popen(
        [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(process: subprocess.Popen[str], endpoint: Endpoint, after: int) -> None:
    """Kills the process when it has sent that many requests."""
    target, until = endpoint.requests + after, time.monotonic() + 60
    while endpoint.requests < target and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def paid(endpoint: Endpoint) -> float:
    """What the endpoint has answered, by its own count of tokens."""
    used = [(endpoint.completion(json.loads(b))["usage"], n) for b, n in endpoint.answered.items()]
    return sum(n * (u["prompt_tokens"] * INPUT + u["completion_tokens"] * OUTPUT) / 1e6 for u, n in used)


@pytest.mark.long
def test_killed_twice_it_asks_again_only_what_was_in_flight(tmp_path: Path) -> None:
    count, kills = 150, 2
    with Endpoint(muddled, faults) as endpoint:
        for _ in range(kills):
            killed(child(endpoint, tmp_path, count, 100.0), endpoint, 40)
        said, error = child(endpoint, tmp_path, count, 100.0).communicate(timeout=60)
        assert not error
        right, spent = said.split()
        assert int(right) == count
        lost = sum(1 for n in range(min(200, endpoint.requests)) if n % 20 == 18)  # answered with what is no response
        twice = sum(n - 1 for n in endpoint.answered.values()) - lost
        assert twice <= kills * CONCURRENCY
        assert paid(endpoint) <= float(spent)  # what was in flight counts with its worst case
        before = endpoint.requests
        said, error = child(endpoint, tmp_path, count, 100.0).communicate(timeout=60)
        assert not error and said.split() == [str(count), spent] and endpoint.requests == before


@pytest.mark.long
def test_a_budget_holds_over_kills(tmp_path: Path) -> None:
    budget = 2.0
    with Endpoint(muddled, faults) as endpoint:
        for _ in range(2):
            killed(child(endpoint, tmp_path, 150, budget), endpoint, 15)
        _, error = child(endpoint, tmp_path, 150, budget).communicate(timeout=60)
        assert f"the budget of {budget:g} USD is spent" in error
        assert 0 < paid(endpoint) <= budget
        before = endpoint.requests
        _, error = child(endpoint, tmp_path, 150, budget).communicate(timeout=60)
        assert "is spent" in error and endpoint.requests == before


def run(endpoint: Endpoint, folder: Path) -> subprocess.Popen[str]:
    """`tropism run` of COLLECT, with a checkpoint after each eight prompts."""
    (folder / "prompts.txt").write_text("".join(f"question {i}\n" for i in range(60)))
    (folder / "asked.toml").write_text(COLLECT)
    command = [
        sys.executable,
        "-m",
        "tropism.cli",
        "run",
        "asked.toml",
        "--out",
        "run",
        "--checkpoint-s",
        "0",
        "--quiet",
    ]
    where = os.environ | {"OPENAI_BASE_URL": endpoint.url}
    return subprocess.Popen(command, cwd=folder, env=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(body: Body) -> str:
    return f"the answer {body['seed']} to {body['messages'][0]['content']}, at some length"


@pytest.mark.long
def test_a_stage_killed_twice_has_the_answers_and_costs_of_one_that_was_not(tmp_path: Path) -> None:
    found = {}
    for name, kills in (("whole", 0), ("cut", 2)):
        (folder := tmp_path / name).mkdir()
        with Endpoint(answer, faults if kills else None) as endpoint:
            for _ in range(kills):
                killed(run(endpoint, folder), endpoint, 40)
            _, error = run(endpoint, folder).communicate(timeout=60)
            assert not error
            lost = sum(1 for n in range(min(200, endpoint.requests)) if n % 20 == 18) if kills else 0
            assert sum(n - 1 for n in endpoint.answered.values()) - lost <= kills * CONCURRENCY
            (out,) = folder.glob("run/answers-*/out")
            groups = list(read_groups(out))
            found[name] = [(g.id, [(c.text, c.cost) for c in g.completions]) for g in groups]
            shared = set(endpoint.answered)
        each = [endpoint.completion(json.loads(body))["usage"] for body in shared]
        costs = [(u["prompt_tokens"] * INPUT + u["completion_tokens"] * OUTPUT) / 1e6 for u in each]
        assert sum(c.cost or 0 for g in groups for c in g.completions) == pytest.approx(sum(costs))
    assert found["whole"] == found["cut"] and len(found["cut"]) == 60
