"""Ends: the stop token is trained in SFT and in RL, carries the score, and is not padding."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import PreTrainedModel

from tropism.algorithms.apa import APA
from tropism.algorithms.awr import AWR
from tropism.algorithms.dpo import DPO
from tropism.algorithms.gold import GOLD
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.kto import KTO
from tropism.algorithms.nll import NLL
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.algorithms.vmpo import VMPO
from tropism.engines.local import LocalEngine
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.encode import chunks, demonstration, tree
from tropism.tensors.tree import Tree
from tropism.text.chat import document_ends, stop_tokens
from tropism.train.shaping import Moments, Shaping
from tropism.types import Completion, Group, Message, SamplingParams

ASK, ANSWER = Message("user", "7 days"), Completion("7 jours")
TALK = (ASK, Message("assistant", "7 jours"), Message("user", "in Malay?"))


@pytest.fixture(params=[False, True], ids=["own pad", "pad is eos"])
def either(request: pytest.FixtureRequest, words):
    """The tokenizer as it is, and one whose padding is its stop token, as is common in the wild."""
    tokenizer = copy.deepcopy(words)
    if request.param:
        tokenizer.pad_token = tokenizer.eos_token
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == request.param
    return tokenizer


def trained_ends(item: Tree) -> list[tuple[int, bool]]:
    """(last token, whether it is trained) of each completion, through to the batch's loss mask."""
    batch = collate([item, Tree("longer", (1,) * 50, ((2,),), ((True,),), (True,))])
    last = batch.last_N[:-1]
    return list(zip(batch.tokens_BT.flatten()[last].tolist(), batch.loss_mask_BT.flatten()[last].tolist()))


@pytest.mark.parametrize("make", [tree, demonstration])
@pytest.mark.parametrize("prompt", [(ASK,), TALK], ids=["one turn", "two turns"])
def test_the_stop_token_is_trained_in_fine_tuning(either, make, prompt: tuple[Message, ...]):
    item = make(Group("g", prompt, (ANSWER,)), either, 128)
    assert trained_ends(item) == [(either.eos_token_id, True)]
    assert either.eos_token_id in stop_tokens(either)


def test_every_assistant_turn_of_a_demonstration_is_trained_to_stop(either):
    item = demonstration(Group("g", TALK, (Completion("7 hari"),)), either, 128)
    trained = [(x, keep) for x, keep in zip(item.completions[0], item.trained[0]) if x == either.eos_token_id]
    # the first answer's, the second question's, the second answer's
    assert trained == [(either.eos_token_id, True), (either.eos_token_id, False), (either.eos_token_id, True)]


def test_the_end_of_a_document_is_trained_in_pretraining(either):
    pieces = chunks(Group("g", (), (Completion("7 days, 7 jours\n" * 5),)), either, 16)
    assert len(pieces) > 1
    assert trained_ends(pieces[-1]) == [(document_ends(either)[1], True)]
    assert [p.ended for p in pieces] == [(False,)] * (len(pieces) - 1) + [(True,)]


@pytest.fixture
def sampled(llama: PreTrainedModel, words) -> Tree:
    """A group of 16 samples, of which some stopped and some were cut, scored 0 to 15."""
    with torch.no_grad():
        llama.get_output_embeddings().weight[words.eos_token_id] *= 4
    (answers,) = LocalEngine(llama, words).generate([(ASK,)], SamplingParams(n=16, max_tokens=10))
    ended = tuple(a.finish_reason == "stop" for a in answers)
    assert set(ended) == {True, False}
    item = tree(Group("g", (ASK,), answers), words, 128)
    assert item.ended == ended
    ends = trained_ends(item)
    assert all(keep for _, keep in ends)
    assert tuple(token == words.eos_token_id for token, _ in ends) == ended
    return dataclasses.replace(item, reward=tuple(map(float, range(16))), rank=tuple(range(1, 17)))


def ready(item: Tree) -> Batch:
    batch = collate([item])
    zeros = torch.zeros(batch.tokens_BT.shape)
    return batch.replace(ref_logprobs_BT=batch.old_logprobs_BT, values_BT=zeros)


def test_the_stop_token_carries_the_score(sampled: Tree):
    """And a cut answer's last token pays for the missing one."""
    batch = Shaping(missing_stop=100.0)(ready(sampled), Moments())
    returns = PPO(gamma=0.0).credit(batch).need("returns_BT")
    at_the_end = returns.flatten()[batch.last_N].tolist()
    assert at_the_end == [score - 100 * (not stop) for score, stop in enumerate(sampled.ended)]
    assert returns.sum() == pytest.approx(sum(at_the_end))


METHODS = [
    NLL(),
    PPO(),
    APA(),
    GRPO(),
    GRPO(scale="std", kl_in="loss", weight="completion"),
    RLOO(),
    DPO(),
    DPO(likelihood="sigmoid"),
    DPO(likelihood="ipo"),
    KTO(threshold=7.0),
    AWR(temperature=20.0),
    GOLD(),
    VMPO(),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_stop_token_is_trained_by_every_method(sampled: Tree, method):
    """Its log-probability gets a gradient in every completion that the method learns from, as every other token does."""
    after = method.credit(ready(sampled))
    logprobs = after.need("old_logprobs_BT").clone().requires_grad_()
    zeros = torch.zeros_like(logprobs)
    method.loss(after, Prediction(logprobs, zeros, zeros))[0].total.backward()
    assert logprobs.grad is not None
    learnt = logprobs.grad != 0
    kept_N = [bool(learnt[after.completion_BT == n].any()) for n in range(16)]
    assert learnt.flatten()[after.last_N].tolist() == kept_N
    assert sum(kept_N) == (8 if isinstance(method, VMPO) else 16)
    assert {sampled.ended[n] for n in range(16) if kept_N[n]} == {True, False}
    assert torch.equal(learnt, after.loss_mask_BT & torch.tensor([False, *kept_N])[after.completion_BT + 1])
