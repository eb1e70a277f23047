"""Two real processes: what they add up, share and agree on; and that one process on its own is left alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.models.folder import load_lm, save
from tropism.store.peers import Peers
from tropism.tensors.collate import collate
from tropism.tensors.ratio import Ratio
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train import parallel
from tropism.types import Completion, Message, SamplingParams
from two_ranks import two_ranks

SAMPLING = SamplingParams(n=2, max_tokens=6, seed=3)
QUESTIONS = ("3 days", "3 days", "4 hari", "12 jours", " 3  days", "7 days", "8 days")


def prompts() -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in QUESTIONS]


def forest(sizes: tuple[int, ...], first: int = 5) -> list[Tree]:
    """Groups of two completions of so many tokens each; the prompt is the group's number."""
    return [
        Tree(
            id=f"g{g}",
            prompt=(100 + g,),
            completions=((first,) * n, (6,) * n),
            trained=((True,) * n,) * 2,
            ended=(True, True),
        )
        for g, n in enumerate(sizes)
    ]


def told(raising: Callable[[], Any]) -> str:
    try:
        return f"nothing raised: {raising()}"
    except TropismError as error:
        return str(error)


def fail() -> int:
    raise TropismError("the folder is in use")


class Three(nn.Module):
    """Rank 0 has gradients for `a` and `b`, rank 1 for `b`; nobody for `c`; `d` is not trained."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.full((2,), 1.0 + rank)) for _ in range(4))
        self.low = nn.Parameter(torch.full((1,), 1.0 + rank, dtype=torch.bfloat16))
        self.d.requires_grad_(False)
        if rank == 0:
            self.a.grad = torch.tensor([1.0, 2.0])
        self.b.grad = torch.tensor([10.0, 20.0]) * (rank + 1)
        self.low.grad = torch.full((1,), 0.5, dtype=torch.bfloat16)


def work(rank: int, folder: Path) -> dict[str, Any]:
    """Everything that takes two processes, in one go."""
    seen: dict[str, Any] = {"size": parallel.size()}
    peers = parallel.peers()
    seen["leads"] = peers.leads
    calls: list[int] = []
    seen["once"] = peers.once(lambda: calls.append(rank) or f"of rank {rank}")
    seen["calls"] = calls
    seen["once failed"] = told(lambda: peers.once(fail))

    model = Three(rank)
    parallel.follow(model.parameters())
    seen["followed"] = {name: p.detach().tolist() for name, p in model.named_parameters()}
    parallel.add_gradients([*model.parameters(), model.b])  # shared by two models: added once
    seen["gradients"] = {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()}
    seen["types"] = {str(p.grad.dtype) for p in model.parameters() if p.grad is not None}

    batch = collate(forest((3, 3, 3)))
    metrics = {} if rank else {"loss": Ratio(torch.tensor(3.0), torch.tensor(4))}
    more = {**metrics, "hits": Ratio(torch.tensor(rank + 1), torch.tensor(2))}
    summed, bad = parallel.add_metrics(more, ("g1",) if rank else (), batch)
    seen["metrics"] = {name: (float(r.total), float(r.count)) for name, r in summed.items()}
    seen["bad"] = bad
    other = collate(forest((3, 3, 3), first=5 + rank))
    seen["other batch"] = told(lambda: parallel.add_metrics(more, (), other))
    rewarded = batch.replace(reward_N=torch.full((6,), 0.5 + rank))
    seen["other rewards"] = told(lambda: parallel.add_metrics(more, (), rewarded))

    layouts = {
        "rows": collate(forest((3, 3, 3, 3, 3))),
        "padded": collate(forest((3, 9, 2)), shared=False),
        "one": collate(forest((3,))),
    }
    for name, whole in layouts.items():
        mine = parallel.share(whole)
        seen[name] = mine and (mine.ids, len(mine.tokens_BT), mine.tokens_BT[mine.tokens_BT > 99].tolist())

    engine = LocalEngine(load_lm(folder), load_tokenizer(folder), "p@1")
    answered, sampled = engine.generate, [0]

    def generate(*given: Any) -> list[tuple[Completion, ...]]:
        made = answered(*given)
        sampled.extend(len(c.tokens or ()) for row in made for c in row)
        return made

    engine.generate = generate
    seen["generated"] = parallel.generate(engine, prompts(), SAMPLING)
    seen["sampled"] = sum(sampled)
    seen["nothing asked"] = parallel.generate(engine, [], SAMPLING)
    seen["one asked"] = parallel.generate(engine, prompts()[:1], SAMPLING)
    return seen


def left_alone(rank: int) -> str:
    """Rank 1 dies; what rank 0 then hears."""
    if rank:
        os._exit(1)
    return told(lambda: parallel.peers().once(lambda: 1))


@pytest.fixture(scope="module")
def folder(
    make_model: Callable[..., PreTrainedModel], words: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("model")
    save(make_model(), words, path)
    return path


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return two_ranks(work, folder)


def test_the_ranks_have_met(seen: list[dict[str, Any]]):
    assert [s["size"] for s in seen] == [2, 2]
    assert [s["leads"] for s in seen] == [True, False]


def test_once_is_done_by_the_leader_alone(seen: list[dict[str, Any]]):
    assert [s["once"] for s in seen] == ["of rank 0"] * 2
    assert [s["calls"] for s in seen] == [[0], []]
    assert [s["once failed"] for s in seen] == ["the folder is in use"] * 2


def test_gradients_are_added_up(seen: list[dict[str, Any]]):
    for s in seen:
        assert s["gradients"] == {"a": [1.0, 2.0], "b": [30.0, 60.0], "c": None, "d": None, "low": [1.0]}
        assert s["types"] == {"torch.float32", "torch.bfloat16"}


def test_all_begin_from_the_weights_of_the_leader(seen: list[dict[str, Any]]):
    assert [s["followed"]["a"] for s in seen] == [[1.0, 1.0]] * 2
    assert [s["followed"]["low"] for s in seen] == [[1.0]] * 2
    assert [s["followed"]["d"] for s in seen] == [[1.0, 1.0], [2.0, 2.0]]  # what is not trained is not sent


def test_metrics_are_added_up_whoever_has_them(seen: list[dict[str, Any]]):
    for s in seen:
        assert s["metrics"] == {"loss": (3.0, 4.0), "hits": (3.0, 4.0)}
        assert s["bad"] == ("g1",)


def test_ranks_that_hold_different_batches_are_told(seen: list[dict[str, Any]]):
    for s in seen:
        assert "different batches, this one has the groups g0, g1, g2:" in s["other batch"]
        assert "different batches" in s["other rewards"]


def test_a_share_is_whole_groups(seen: list[dict[str, Any]]):
    assert [s["rows"] for s in seen] == [(("g0", "g2", "g4"), 3, [100, 102, 104]), (("g1", "g3"), 2, [101, 103])]
    padded = [(("g0", "g2"), 4, [100, 100, 102, 102]), (("g1",), 2, [101, 101])]
    assert [s["padded"] for s in seen] == padded
    assert [s["one"] for s in seen] == [(("g0",), 1, [100]), None]


def test_completions_are_those_of_one_process(seen: list[dict[str, Any]], folder: Path):
    engine = LocalEngine(load_lm(folder), load_tokenizer(folder), "p@1")
    alone = engine.generate(prompts(), SAMPLING)
    assert alone[0] != alone[1]  # asked twice, answered anew
    first, second = (s["generated"] for s in seen)
    assert first == second
    assert [[c.tokens for c in row] for row in first] == [[c.tokens for c in row] for row in alone]
    assert all(
        a.logprobs == pytest.approx(b.logprobs, abs=1e-5) and a.policy == b.policy
        for ours, theirs in zip(first, alone)
        for a, b in zip(ours, theirs)
    )
    each = [sum(len(c.tokens or ()) for c in row) for row in alone]
    assert [s["sampled"] for s in seen] == [each[0] + each[1] + each[4] + each[6], each[2] + each[3] + each[5]]
    assert [s["nothing asked"] for s in seen] == [[], []]
    assert seen[0]["one asked"] == seen[1]["one asked"]
    assert [[c.tokens for c in row] for row in seen[1]["one asked"]] == [[c.tokens for c in alone[0]]]


def test_a_rank_that_dies_does_not_keep_the_others_waiting():
    heard, nothing = two_ranks(left_alone)
    assert "another process of this run has ended" in heard
    assert nothing is None


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    with parallel.joined() as peers:
        assert parallel.size() == 1
        assert type(peers) is Peers
        assert peers.leads
        assert peers.once(lambda: 3) == 3
        batch = collate(forest((3, 3)))
        assert parallel.share(batch) is batch
        metrics = {"loss": Ratio(torch.tensor(1.0), torch.tensor(2))}
        assert parallel.add_metrics(metrics, (), batch)[0] is metrics


@pytest.mark.parametrize(
    ("sizes", "parts", "expected"),
    [
        ((1, 1, 1, 1, 1), 2, [[0, 2, 4], [1, 3]]),
        ((1, 5, 2, 2), 2, [[1], [2, 3, 0]]),
        ((4,), 3, [[0], [], []]),
        ((), 2, [[], []]),
        ((3, 3, 3), 1, [[0, 1, 2]]),
    ],
)
def test_split(sizes: tuple[int, ...], parts: int, expected: list[list[int]]):
    assert parallel.split(sizes, parts) == expected
