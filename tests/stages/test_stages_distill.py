"""The distill stage: the policy gets nearer to its teacher, on answers of its own and on given ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig

from tiny_recipe import tropism
from tropism.algorithms.gkd import GKD
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.models.adapters import Adapter
from tropism.models.folder import load_lm, save
from tropism.stages._fit import Resampled
from tropism.stages.distill import Distill
from tropism.store.folder import done, read_metrics
from tropism.store.run import Run
from tropism.tensors.tree import Tree
from tropism.text.chat import prompt_tokens
from tropism.text.tokenizer import load_tokenizer
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.types import SamplingParams

ASKED = Phrasebook("prompts", count=12)
SHOWN = Phrasebook("demonstrations", count=12)


def distill(policy: str, teacher: str, **settings: Any) -> Distill:
    small = {
        "data": ASKED,
        "steps": 3,
        "groups_per_step": 4,
        "sampling": SamplingParams(n=2, max_tokens=8),
        "optim": Optim(lr=1e-2, schedule="constant", warmup=0.0),
    }
    return Distill(policy, teacher, **{**small, **settings})


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def facts(out: Path) -> dict[str, Any]:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


@torch.no_grad()
def apart(policy: str | Path, teacher: str) -> tuple[float, float]:
    """Mean forward and reverse KL of the two models' next tokens, by plain calls, along answers of the policy to prompts
    that nothing is trained on."""
    tokenizer, ours, theirs = load_tokenizer(policy), load_lm(policy), load_lm(teacher)
    prompts = [g.prompt for g in Phrasebook("held_out", count=8).groups()]
    answers = LocalEngine(ours, tokenizer).generate(prompts, SamplingParams(n=4, max_tokens=8, seed=99))
    forward, reverse = [], []
    for prompt, row in zip(prompts, answers):
        asked = prompt_tokens(tokenizer, prompt)
        for answer in row:
            tokens = torch.tensor([[*asked, *(answer.tokens or ())]])
            p, q = (m(tokens).logits[0, len(asked) - 1 : -1].double().log_softmax(-1) for m in (ours, theirs))
            forward += (q.exp() * (q - p)).sum(-1).tolist()
            reverse += (p.exp() * (p - q)).sum(-1).tolist()
    return sum(forward) / len(forward), sum(reverse) / len(reverse)


@pytest.mark.parametrize(
    ("share", "beta"), [(1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.0, 0.5)], ids=lambda x: str(x)
)
def test_the_policy_gets_nearer_to_the_teacher(
    run: Run, model_folder: str, other_folder: str, share: float, beta: float
) -> None:
    """Both ways of measuring it, on prompts of neither's training."""
    data = SHOWN if share < 1 else ASKED
    stage = distill(model_folder, other_folder, data=data, on_policy=share, algorithm=GKD(beta), steps=15)
    out = run(stage)
    before, after = apart(model_folder, other_folder), apart(out, other_folder)
    assert after[0] < 0.8 * before[0] and after[1] < 0.8 * before[1]
    losses = [line["loss"] for line in read_metrics(out.parent)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_seeds_repeat(run: Run, model_folder: str, other_folder: str, tmp_path: Path) -> None:
    def made(folder: str, seed: int = 0, **settings: Any) -> bytes:
        with Run(tmp_path / folder, seed, reporter=run.reporter) as fresh:
            return weights(fresh(distill(model_folder, other_folder, data=SHOWN, on_policy=0.5, **settings)))

    first = made("first")
    assert made("again") == first
    assert made("other seed", seed=1) != first
    assert made("other samples", sampling=SamplingParams(n=2, max_tokens=8, seed=1)) != first


def test_killed_and_continued(
    run: Run, model_folder: str, other_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the fourth of five updates: the same weights, metrics and counts, bit for bit."""
    stage = distill(model_folder, other_folder, data=SHOWN, on_policy=0.6, steps=5)
    whole = run(stage)
    sampled, calls = LocalEngine.generate, 0

    def until(self: LocalEngine, prompts: Any, params: SamplingParams) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return sampled(self, prompts, params)

    monkeypatch.setattr(LocalEngine, "generate", until)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt), Run(folder, reporter=run.reporter, checkpoint_s=0) as first:
        first(stage)
    with Run(folder, reporter=run.reporter, checkpoint_s=0) as second:
        continued = second(stage)
    assert calls == 6  # the fourth anew, and the fifth: nothing from before
    assert weights(continued) == weights(whole)
    assert read_metrics(continued.parent) == read_metrics(whole.parent)
    assert facts(continued) == facts(whole)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 1.0])
def test_the_share_is_evenly_spread_and_begins_where_it_was(share: float) -> None:
    trees = [Tree(str(i), (i,), (), (), ()) for i in range(10)]
    asked: list[list[int]] = []

    def answered(some: Any) -> list[Tree]:
        asked.append(list(some))
        return [dataclasses.replace(trees[i], id=f"own {i}") for i in some]

    def taken(start: int, end: int) -> list[str]:
        order, data = Order(10, 0, start), Resampled(trees, 9, 0, 4, share, answered)
        return [t.id for _ in range(start, end, 4) for t in data.take(order)]

    once = taken(0, 40)
    own = [t.startswith("own") for t in once]
    assert sum(own) == 40 * share and all(len(row) in (math.floor(4 * share), math.ceil(4 * share)) for row in asked)
    assert [int(t.removeprefix("own ")) for t in once] == Order(10, 0).take(40)
    assert [int(t.removeprefix("own ")) for t, mine in zip(once, own) if mine] == [*chain.from_iterable(asked)]
    assert taken(0, 12) + taken(12, 40) == once


def test_given_answers_alone_need_no_engine(
    run: Run, model_folder: str, other_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "generate", lambda *_: pytest.fail("nothing is to be sampled"))
    out = run(distill(model_folder, other_folder, data=SHOWN, on_policy=0.0))
    trained = facts(out)["tokens_trained"]
    assert facts(out)["tokens_spent"] == 4 * trained  # forward, backward, and the teacher's forward pass


def test_what_is_spent(run: Run, model_folder: str, other_folder: str) -> None:
    """The prompt once and each token of its answers, sampled once and trained on once."""
    out = run(distill(model_folder, other_folder))
    assert facts(out)["tokens_spent"] == 5 * facts(out)["tokens_trained"] > 0


def test_a_prompt_without_an_answer(run: Run, model_folder: str, other_folder: str) -> None:
    with pytest.raises(TropismError, match="has 0 completions: a demonstration has one"):
        run(distill(model_folder, other_folder, on_policy=0.5))


def test_another_tokenizer_is_refused(run: Run, model_folder: str, bare_folder: str) -> None:
    said = f"distill.teacher {bare_folder} has another tokenizer than distill.policy {model_folder}"
    with pytest.raises(TropismError, match=said):
        run(distill(model_folder, bare_folder))


def test_another_tokenizer_is_refused_before_anything_runs(model_folder: str, bare_folder: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    entry = '[[stage]]\nid = "d"\nkind = "distill"\ndata = { kind = "phrasebook", part = "prompts" }\n'
    for teacher in (bare_folder, model_folder):
        recipe.write_text(f'{entry}policy = "{model_folder}"\nteacher = "{teacher}"\n')
        said = tropism("plan", recipe, "--out", tmp_path / "run")
        assert ("has another tokenizer than distill.policy" in said.err) == (said.code == 2) == (teacher == bare_folder)


def test_a_teacher_that_takes_no_trees(run: Run, model_folder: str, words: Any, tmp_path: Path) -> None:
    """Its positions are distances, so both read padded rows."""
    config = BloomConfig(vocab_size=len(words), hidden_size=32, n_layer=1, n_head=2, eos_token_id=words.eos_token_id)
    save(AutoModelForCausalLM.from_config(config).eval(), words, tmp_path / "bloom")
    out = run(distill(model_folder, str(tmp_path / "bloom")))
    assert {line["layout"] for line in read_metrics(out.parent)} == {"padded"}


def test_an_adapter_on_the_teacher_s_own_base(run: Run, model_folder: str, make_model: Callable[..., Any]) -> None:
    """It begins as its teacher, so there is nothing to learn on its own answers."""
    out = run(distill(model_folder, model_folder, algorithm=GKD(0.0), adapter=Adapter(r=2)))
    assert all(abs(line["loss"]) < 1e-5 for line in read_metrics(out.parent)[:1])
    assert (out / "adapter_config.json").exists()
