"""The plan of each pass says where every row's keys and values are, however rows came, left, forked and were cut."""

from __future__ import annotations

import random

import pytest
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tropism.engines import _tree
from tropism.engines._plan import PAGE, Plan
from tropism.engines._store import Store
from tropism.engines.local import LocalEngine
from tropism.types import Message, SamplingParams


def expected(made: Plan) -> list[list[int]]:
    """From the pages of each sequence: what the rows of a plan read, and their tokens, positions and places."""
    start, page, seen, shared, rows = [0], [], [], [], []
    for s in made.sequences:
        own = s.held - sum(s.seen)  # tokens in own pages, before the new one
        page += [*s.shared, *s.own]
        seen += [*s.seen, *(min(PAGE, own + 1 - PAGE * i) for i in range(len(s.own)))]
        shared.append(len(s.shared))
        start.append(len(page))
        rows.append((s.tokens[s.held], s.held, s.own[own // PAGE], own % PAGE))
    return [start, page, seen, shared, *([row[i] for row in rows] for i in range(4))]


@pytest.mark.parametrize("seed", range(4))
def test_plans_follow_rows_that_enter_leave_fork_and_are_cut(
    seed: int, llama: PreTrainedModel, words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    page = 16 * 2 * 2 * 32 * 4  # tokens, keys and values, layers, width, bytes
    engine = LocalEngine(llama, words, rows=12, memory=f"{[30, 60, 900, 900][seed] * page / 1024}KiB", cache=seed < 2)
    monkeypatch.setattr(_tree, "STEPS", 16 if seed == 3 else 1)  # in one operation, which has no plan
    states, advance, ways = Store._states, Plan.advance, []

    def checked(store: Store, tokens_1N: Tensor, position_1N: Tensor) -> Tensor:
        made, count = store._plan, len(store._plan.sequences)
        found = [made.reads.start, made.reads.page, made.reads.seen, made.reads.shared]
        places = (made.tokens, made.position, made.page, made.at)
        assert [x.tolist() for x in (*found, *(x[:count] for x in places))] == expected(made)
        assert all(x.flags.c_contiguous and x.dtype == "int64" for x in found)
        return states(store, tokens_1N, position_1N)

    monkeypatch.setattr(Store, "_states", checked)
    monkeypatch.setattr(Plan, "advance", lambda *given: ways.append(advance(*given)) or ways[-1])
    handles = [engine.open([rng.randrange(20, 200) for _ in range(n)]) for n in (1, 20, 37)]
    requests = []
    for step in range(200):
        i, do = (
            rng.randrange(len(handles)),
            rng.choice(["ask", "ask", "cancel", "fork", "append", "decode", "cut", "score"]),
        )
        if do == "ask":
            text = (Message("user", rng.choice(["x", "7 jours and more words, of several pages " * 2, "31 hari"])),)
            requests.append(engine.request(text, SamplingParams(n=rng.randrange(1, 5), max_tokens=25, seed=step)))
            engine.submit(requests[-1])
        elif do == "cancel" and requests:
            engine.cancel(requests.pop(rng.randrange(len(requests))))
        elif do == "fork" and len(handles) < 9:
            handles += engine.fork(handles[i], rng.randrange(1, 4))
        elif do == "append" and len(handles[i].tokens) < 60:
            engine.append(handles[i], [rng.randrange(20, 200) for _ in range(rng.choice([1, 2, 19]))])
        elif do in ("decode", "cut") and len(handles[i].tokens) < 60:
            engine.decode([handles[i]], SamplingParams(max_tokens=rng.choice([1, 5, 18]), seed=step))
            if do == "cut":
                engine.rollback(handles[i], rng.randrange(0, min(len(handles[i].tokens), 25)))
            else:
                handles += engine.fork(handles[i], rng.randrange(0, 2))
            engine.decode([handles[i]], SamplingParams(max_tokens=2, seed=step))
            if len(handles) > 9:
                engine.free(handles.pop(rng.randrange(len(handles))))
        elif do == "score":
            engine.score(handles[i], [[31, 32, 33], [34]])
        for _ in range(rng.randrange(4)):
            engine.step()
    while not engine.batch.idle:
        engine.step()
    assert (ways.count(True) > 300 and ways.count(False) > 10) or seed == 3
