"""GRPO, each field of it, against the papers' equations written out token by token, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import Answer, answers, bonus, compare, filled, forest, off_trained, on_trained, run

from tropism.algorithms.grpo import GRPO
from tropism.errors import TropismError
from tropism.protocols import Selective
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

KNOBS = {
    "default": GRPO(),
    "the first paper's": GRPO(scale="std", kl_in="loss"),
    "no scale": GRPO(kl_in="loss"),
    "per completion": GRPO(scale="std", kl_in="loss", weight="completion", kl=0.3),
    "per length": GRPO(weight="length", length=7, kl_in="loss"),
    "clip higher": GRPO(scale="std", kl_in="loss", clip=0.1, clip_high=0.4),
    "kl in reward": GRPO(scale="std", kl=0.8),
    "kl in reward, no scale": GRPO(kl=0.8, weight="completion"),
    "all kept": GRPO(scale="std", kl_in="loss", drop_equal=False, weight="completion"),
    "all kept, kl in reward": GRPO(scale="std", drop_equal=False, kl=0.5),
    "gspo": GRPO(ratio="completion", weight="completion", clip=0.1, clip_high=0.15),
    "gspo, kl in the loss": GRPO(ratio="completion", kl_in="loss", clip=0.1, kl=0.3),
    "cispo": GRPO(surrogate="cispo", clip_high=0.3),
    "cispo of completions": GRPO(surrogate="cispo", clip_high=0.1, ratio="completion", kl_in="loss", kl=0.3),
    "dual clip": GRPO(dual_clip=1.3),
    "dual clip of completions": GRPO(dual_clip=1.1, ratio="completion", weight="length", length=7),
    "entropy": GRPO(entropy=0.7, weight="completion"),
    "entropy, cispo": GRPO(entropy=0.7, surrogate="cispo"),
}


def advantages(grpo: GRPO, group: list[Answer]) -> list[float | None]:
    """None for a completion that is not in the loss."""
    scored = [a for a in group if a.reward is not None]
    if grpo.drop_equal and len({a.reward for a in scored}) < 2:
        return [None] * len(group)
    rewards = {}
    for a in scored:
        log_ratio = sum(o - r for o, r in zip(a.old, a.ref))
        rewards[id(a)] = (a.reward or 0.0) - (grpo.kl * log_ratio if grpo.kl_in == "reward" else 0.0)
    mean = sum(rewards.values()) / max(len(rewards), 1)
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards.values()) / max(len(rewards) - 1, 1))
    scale = spread + 1e-4 if grpo.scale == "std" else 1.0
    return [(rewards[id(a)] - mean) / scale if id(a) in rewards else None for a in group]


def equation_of(grpo: GRPO, penalty, told: dict[str, float]):
    """`penalty(new, old, ref)` is the KL term of one token."""

    def equation(groups, new, value):
        total = tokens = completions = clipped = 0.0
        for group, new_K in zip(groups, new):
            for a, advantage, logprobs in zip(group, advantages(grpo, group), new_K):
                if advantage is None or not a.old:
                    continue
                within = 0.0
                together = (sum(x - o for x, o in zip(logprobs, a.old)) / len(a.old)).exp()
                for t, logprob in enumerate(logprobs):
                    rho = together if grpo.ratio == "completion" else (logprob - a.old[t]).exp()
                    if grpo.surrogate == "cispo":
                        within = within - advantage * min(rho.item(), 1 + grpo.clip_high) * logprob
                        clipped += rho.item() > 1 + grpo.clip_high
                    else:
                        inside = min(max(rho.item(), 1 - grpo.clip), 1 + grpo.clip_high)
                        worse = max(-advantage * rho, torch.tensor(-advantage * inside, dtype=torch.float64))
                        bounded = advantage < 0 and worse.item() > (grpo.dual_clip or math.inf) * -advantage
                        within = within + (-advantage * grpo.dual_clip if bounded else worse)
                        clipped += bounded or -advantage * inside > -advantage * rho.item()
                    within = within - grpo.entropy * bonus(logprob)
                    if grpo.kl_in == "loss":
                        within = within + grpo.kl * penalty(logprob, a.old[t], a.ref[t])
                share = {"token": 1.0, "completion": 1 / len(a.old), "length": 1 / (grpo.length or 1)}[grpo.weight]
                total, tokens, completions = total + within * share, tokens + len(a.old), completions + 1
        told["clip_fraction"] = clipped / tokens
        return total, tokens if grpo.weight == "token" else completions

    return equation


def k3(logprob, old: float, ref: float):
    """The importance-weighted k3, with r = pi_ref / pi: r - 1 - log r."""
    return (logprob - old).exp() * ((ref - logprob).exp() - 1 - (ref - logprob))


def k2(logprob, old: float, ref: float):
    """½ log² r under a weight that has no gradient."""
    return math.exp(logprob.item() - old) * 0.5 * (logprob - ref) ** 2


@pytest.mark.parametrize("grpo", KNOBS.values(), ids=KNOBS)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(grpo: GRPO, seed: int):
    """With KL in the loss the value is that of k3 and the gradient that of k2."""
    told: dict[str, float] = {}
    metrics = compare(grpo, forest(seed), equation_of(grpo, k3, told), slope=equation_of(grpo, k2, {}))
    assert metrics["clip_fraction"] == pytest.approx(told["clip_fraction"])
    assert 0 < told["clip_fraction"] < 1
    assert metrics["entropy"] == pytest.approx(0.5)


def test_kl_in_the_loss_is_the_reverse_kl_in_value_and_in_gradient():
    """Summed over all tokens with their chances under pi_old, against autograd of KL(pi || pi_ref) itself."""
    torch.manual_seed(0)
    logits, old, ref = (torch.randn(5, dtype=torch.float64).log_softmax(0) for _ in range(3))
    logits.requires_grad_()
    logprobs = logits.log_softmax(0)
    exact = (logprobs.exp() * (logprobs - ref)).sum()
    (slope,) = torch.autograd.grad(exact, logits, retain_graph=True)
    tree = Tree("g", (9,), ((0,), (1,), (2,), (3,), (4,)), ((True,),) * 5, (True,) * 5, ((0.0,),) * 5, (1.0,) * 5)
    batch = collate([tree])
    batch = batch.replace(
        old_logprobs_BT=on_trained(batch, old[:, None].tolist()),
        ref_logprobs_BT=on_trained(batch, ref[:, None].tolist()),
    )
    grpo = GRPO(kl=1.0, kl_in="loss", drop_equal=False)  # equal rewards: no advantage, the KL is all there is
    value, found = 0.0, torch.zeros(5, dtype=torch.float64)
    for token in range(5):
        alone = collate([tree]).replace(
            loss_mask_BT=batch.tokens_BT.eq(token) & batch.loss_mask_BT,
            old_logprobs_BT=batch.old_logprobs_BT,
            ref_logprobs_BT=batch.ref_logprobs_BT,
        )
        now = torch.cat([logprobs.new_zeros(1), logprobs])[None]
        loss = grpo.loss(grpo.credit(alone), Prediction(now, torch.zeros_like(now)))[0].total * old[token].exp()
        (part,) = torch.autograd.grad(loss, logits, retain_graph=True)
        value, found = value + loss.item(), found + part
    assert value == pytest.approx(exact.item())
    assert torch.allclose(found, slope)


def by_hand(*rewards: float | None, lengths: tuple[int, ...] = (1, 3)) -> Batch:
    """One group on the policy and on the reference: every log-ratio is 0."""
    k = len(rewards)
    lengths = (lengths * k)[:k]
    words = tuple((5,) * n for n in lengths)
    kept = tuple((True,) * n for n in lengths)
    batch = collate([Tree("g", (1,), words, kept, (True,) * k, tuple((-1.0,) * n for n in lengths), rewards)])
    return batch.replace(ref_logprobs_BT=batch.old_logprobs_BT)


def credit(grpo: GRPO, batch: Batch) -> list[list[float]]:
    after = grpo.credit(batch)
    return off_trained(after.need("advantages_BT"), after)


def test_advantages_by_hand():
    """Rewards 1 and 3: mean 2, standard deviation of the sample √2. One that was not scored is not in the mean."""
    apart = [[pytest.approx(-1.0)], [pytest.approx(1.0)] * 3]
    assert credit(GRPO(scale="none"), by_hand(1.0, 3.0)) == apart
    assert credit(GRPO(scale="none"), by_hand(1.0, 3.0, None)) == [*apart, []]
    scaled = 1 / (math.sqrt(2) + 1e-4)
    assert credit(GRPO(scale="std"), by_hand(1.0, 3.0)) == [[pytest.approx(-scaled)], [pytest.approx(scaled)] * 3]


@pytest.mark.parametrize(
    ("grpo", "total", "count"),
    [
        (GRPO(scale="none"), 1 - 3 * 1, 4),  # answers of 1 and 3 tokens, advantages -1 and 1
        (GRPO(scale="none", weight="completion"), 1 - 1, 2),
        (GRPO(scale="none", weight="length", length=10), (1 - 3) / 10, 2),
    ],
    ids=["token", "completion", "length"],
)
def test_weights_by_hand(grpo: GRPO, total: float, count: int):
    batch = by_hand(1.0, 3.0)
    logprobs = batch.need("old_logprobs_BT")
    loss, _ = grpo.loss(grpo.credit(batch), Prediction(logprobs, logprobs))
    assert (loss.total.item(), loss.count.item()) == (pytest.approx(total, abs=1e-6), count)


@pytest.mark.parametrize(
    ("advantage", "rho", "gradient"),
    [(1.0, 1.3, -1.3), (1.0, 1.5, 0.0), (1.0, 0.5, -0.5), (-1.0, 0.8, 0.0), (-1.0, 0.95, 0.95), (-1.0, 1.5, 1.5)],
)
def test_the_upper_clip_is_its_own(advantage: float, rho: float, gradient: float):
    """Ratios up to 1.4 still rise, while 1 - .1 is the floor for what falls."""
    grpo, batch = GRPO(clip=0.1, clip_high=0.4, kl=0.0), by_hand(0.0, 1.0)
    batch = grpo.credit(batch)
    batch = batch.replace(advantages_BT=torch.full_like(batch.need("advantages_BT"), advantage))
    logprobs = (batch.need("old_logprobs_BT") + math.log(rho)).requires_grad_()
    grpo.loss(batch, Prediction(logprobs, logprobs.detach()))[0].total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0] + [gradient] * 4)


@pytest.mark.parametrize("score", [0.0, 0.1, 0.3, 0.7, 1.3])
@pytest.mark.parametrize("k", range(1, 9))
def test_groups_of_equal_reward_leave_loss_and_count(score: float, k: int):
    """Whatever their mean rounds to. The 1e-4 under the spread keeps them finite where they stay."""
    batch = by_hand(*[score] * k, None)
    logprobs = batch.need("old_logprobs_BT")
    for grpo, kept in ((GRPO(), 0), (GRPO(scale="std", drop_equal=False), batch.loss_mask_BT.sum() - [1, 3][k % 2])):
        loss, _ = grpo.loss(grpo.credit(batch), Prediction(logprobs, logprobs))
        assert loss.count == kept
        assert abs(loss.total.item()) < 1e-5


def test_only_unequal_scores_teach():
    grpo = GRPO()
    assert isinstance(grpo, Selective)
    scores = ((1.0, 1.0, 0.0), (1.0, 1.0), (1.0, None, 1.0), (None, None))
    assert [grpo.teaches(by_hand(*s)).tolist() for s in scores] == [[True], [False], [False], [False]]
    assert GRPO(drop_equal=False).teaches(by_hand(1.0, 1.0)).all()


def test_unscored_completions_get_no_gradient():
    trees = forest(2)
    batch = filled(trees)
    flat = [a for group in answers(trees) for a in group]
    _, slope, _, _ = run(GRPO(drop_equal=False), batch, [a.ref for a in flat], [a.value for a in flat])
    for a, row in zip(flat, slope):
        assert a.reward is not None or not any(row)
    assert any(a.reward is None and a.old for a in flat)


def test_a_dual_clip_is_of_the_clipped_loss():
    with pytest.raises(TropismError, match='grpo.dual_clip bounds the loss of surrogate = "ppo"'):
        GRPO(surrogate="cispo", dual_clip=3.0)


@pytest.mark.parametrize("fields", [{"weight": "length"}, {"length": 5}, {"weight": "length", "length": -1}], ids=str)
def test_a_length_goes_with_its_weight(fields: dict):
    with pytest.raises(TropismError, match="grpo.length"):
        GRPO(**fields)
