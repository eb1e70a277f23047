"""PPO against the equations at the head of its file, written out completion by completion and token by token."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from algorithms_forest import (
    Answer,
    Numbers,
    answers,
    bonus,
    close,
    compare,
    filled,
    forest,
    gae_by_loops,
    off_trained,
    on_trained,
)

from tropism.algorithms.ppo import PPO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.index import sum_by_completion
from tropism.tensors.maths import k1
from tropism.tensors.tree import Tree


def credit_by_loops(ppo: PPO, groups: list[list[Answer]]) -> tuple[Numbers, Numbers]:
    """Whitened advantages and returns of each completion; empty where no judge could score it."""
    advantages, returns = [], []
    for answer in [a for group in groups for a in group]:
        reward = [-ppo.kl * (o - r) for o, r in zip(answer.old, answer.ref)] if answer.reward is not None else []
        if reward:
            reward[-1] += answer.reward or 0.0
        credit = gae_by_loops(reward, answer.value[: len(reward)], ppo.gamma, ppo.lam)
        advantages.append(credit[0])
        returns.append(credit[1])
    every = [a for row in advantages for a in row]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every))
    return [[(a - mean) / spread for a in row] for row in advantages], returns


KNOBS = [
    PPO(),
    PPO(kl=0.5, gamma=0.9, lam=0.7, clip=0.1, value_clip=0.05, value_weight=1.7),
    PPO(dual_clip=1.3, entropy=0.7),
]


@pytest.mark.parametrize("ppo", KNOBS, ids=["default", "other", "dual clip, entropy"])
@pytest.mark.parametrize("seed", range(4, 7))
def test_credit_equals_the_equations(ppo: PPO, seed: int):
    trees = forest(seed)
    batch = filled(trees, row_tokens=40)
    after = ppo.credit(batch)
    advantages, returns = credit_by_loops(ppo, answers(trees))
    assert close(off_trained(after.need("advantages_BT"), after), advantages, 1e-6)  # whitening adds 1e-8 to the spread
    assert close(off_trained(after.need("returns_BT"), after), returns)


@pytest.mark.parametrize("ppo", KNOBS, ids=["default", "other", "dual clip, entropy"])
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(ppo: PPO, seed: int):
    told = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "kl_to_old"), 0.0)

    def equation(groups, new, value):
        advantage, target = (iter(rows) for rows in credit_by_loops(ppo, groups))
        total = count = bounded = 0.0
        for group, new_K, value_K in zip(groups, new, value):
            for a, logprobs, values in zip(group, new_K, value_K):
                for t, (adv, goal) in enumerate(zip(next(advantage), next(target))):
                    rho = (logprobs[t] - a.old[t]).exp()
                    inside = rho.clamp(1 - ppo.clip, 1 + ppo.clip)
                    policy = max(-adv * rho, -adv * inside)
                    if adv < 0 and policy > (ppo.dual_clip or math.inf) * -adv:
                        policy, bounded = torch.tensor(-adv * ppo.dual_clip, dtype=torch.float64), bounded + 1
                    moved = (values[t] - a.value[t]).clamp(-ppo.value_clip, ppo.value_clip)
                    critic = 0.5 * max((values[t] - goal) ** 2, (a.value[t] + moved - goal) ** 2)
                    total = total + policy + ppo.value_weight * critic - ppo.entropy * bonus(logprobs[t])
                    count += 1
                    told["policy_loss"] += policy.item()
                    told["value_loss"] += critic.item()
                    told["clip_fraction"] += float((rho > 1 + ppo.clip and adv > 0) or (rho < 1 - ppo.clip and adv < 0))
                    told["kl_to_old"] += (rho - 1 - rho.log()).item()
        told["clip_fraction"] += bounded
        told.update({name: x / count for name, x in told.items()})
        assert (bounded > 0) == (ppo.dual_clip is not None)
        return total, count

    metrics = compare(ppo, forest(seed), equation)
    assert metrics == pytest.approx({**told, "entropy": 0.5}, rel=1e-5)


def test_multi_turn_credit_skips_the_tool_tokens():
    """trained = [1,1,1,0,0,0,0,0,0,1,1], λ = .95, reward 1: the advantages of ordinary GAE without the six tokens."""
    keep = (True,) * 3 + (False,) * 6 + (True,) * 2
    item = Tree("g", (1, 2), (tuple(range(11)),), (keep,), (True,), ((0.0,) * 11,), (1.0,))
    batch = collate([item])
    values = on_trained(batch, [[0.4, 0.5, 0.45, 0.6, 0.7]], elsewhere=0.9)
    batch = batch.replace(values_BT=values, ref_logprobs_BT=batch.old_logprobs_BT)
    after = PPO(lam=0.95, gamma=1.0).credit(batch)
    found = off_trained(after.need("returns_BT") - values, after)[0]
    assert found == pytest.approx([0.518, 0.440, 0.516, 0.385, 0.3], abs=5e-4)
    alone = collate(
        [dataclasses.replace(item, completions=((0,) * 5,), trained=((True,) * 5,), logprobs=((0.0,) * 5,))]
    )
    short = alone.replace(
        values_BT=on_trained(alone, [[0.4, 0.5, 0.45, 0.6, 0.7]]), ref_logprobs_BT=alone.old_logprobs_BT
    )
    assert close(
        off_trained(PPO().credit(short).need("advantages_BT"), alone), off_trained(after.need("advantages_BT"), after)
    )


def one(reward: float | None = 2.0, ended: bool = True, values: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Batch:
    """One completion of three tokens, the last its stop token, that the reference likes less by .1, .2 and .3 nats."""
    batch = collate([Tree("g", (1,), ((2, 3, 4),), ((True,) * 3,), (ended,), ((-1.0,) * 3,), (reward,))])
    return batch.replace(
        ref_logprobs_BT=on_trained(batch, [[-1.1, -1.2, -1.3]]), values_BT=on_trained(batch, [list(values)])
    )


def returns(ppo: PPO, batch: Batch) -> list[float]:
    after = ppo.credit(batch)
    return off_trained(after.need("returns_BT"), after)[0]


def test_score_stands_on_the_stop_token():
    # without discount beyond a token (gamma 0) the return of a token is its own reward
    assert returns(PPO(kl=0.0, gamma=0.0), one()) == pytest.approx([0, 0, 2])


def test_kl_in_the_reward_sums_to_the_log_ratio():
    batch = one(reward=0.0)
    assert returns(PPO(kl=0.5, gamma=0.0), batch) == pytest.approx([-0.05, -0.1, -0.15])
    assert returns(PPO(kl=0.5, lam=1.0), batch)[0] == pytest.approx(-0.5 * 0.6)
    per_completion = sum_by_completion(k1(batch.need("old_logprobs_BT"), batch.need("ref_logprobs_BT")), batch)
    assert per_completion.tolist() == pytest.approx([0.6])


@pytest.mark.parametrize("layout", [{"row_tokens": 90}, {"shared": False}, {"elsewhere": 1e4}], ids=str)
def test_layout_prompt_and_padding_change_no_credit(layout: dict):
    plain = PPO().credit(filled(forest(5)))
    other = PPO().credit(filled(forest(5, prompt=3 + 20 * ("row_tokens" in layout)), **layout))
    for name in ("advantages_BT", "returns_BT"):
        assert close(off_trained(other.need(name), other), off_trained(plain.need(name), plain))


def test_advantages_are_white_over_the_whole_round():
    after = PPO().credit(filled(forest(6)))
    kept = after.need("advantages_BT")[after.loss_mask_BT]
    assert kept.mean().item() == pytest.approx(0, abs=1e-5)
    assert kept.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert after.need("advantages_BT")[~after.loss_mask_BT].abs().sum() == 0
    each = [sum(row) / len(row) for row in off_trained(after.need("advantages_BT"), after) if row]
    assert max(abs(x) for x in each) > 0.2  # completion by completion they are not


def test_a_completion_without_a_score_leaves_the_batch():
    """Credit is what it would be had the completion never been sampled."""
    trees = forest(7)
    batch = filled(trees)
    scored = batch.need("scored_N").tolist()
    assert not all(scored)
    found = PPO().credit(batch)

    def without(item: Tree) -> Tree:
        kept = [k for k, reward in enumerate(item.reward or ()) if reward is not None]
        fields = ("completions", "trained", "ended", "logprobs", "reward")
        return dataclasses.replace(item, **{f: tuple(getattr(item, f)[k] for k in kept) for f in fields})

    fewer = collate([without(item) for item in trees])
    for name in ("values_BT", "ref_logprobs_BT"):
        rows = [row for row, keep in zip(off_trained(batch.need(name), batch), scored) if keep]
        fewer = fewer.replace(**{name: on_trained(fewer, rows)})
    expected = PPO().credit(fewer)
    for name in ("advantages_BT", "returns_BT"):
        rows = off_trained(found.need(name), found)
        assert [row for row, keep in zip(rows, scored) if not keep] == [[]] * scored.count(False)
        assert close([row for row, keep in zip(rows, scored) if keep], off_trained(expected.need(name), expected), 1e-6)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    batch = PPO(value_weight=0.0).credit(filled(forest(8)))
    logprobs = batch.need("old_logprobs_BT").clone().requires_grad_()
    prediction = Prediction(logprobs, torch.zeros_like(logprobs), torch.zeros_like(logprobs))
    PPO(value_weight=0.0).loss(batch, prediction)[0].total.backward()
    assert torch.allclose(logprobs.grad, -batch.need("advantages_BT"))


@pytest.mark.parametrize(
    ("advantage", "change", "gradient"),
    [(1.0, 0.5, 0.0), (1.0, -0.5, -math.exp(-0.5)), (-1.0, -0.5, 0.0), (-1.0, 0.5, math.exp(0.5))],
)
def test_clipping_stops_the_gradient_only_where_it_would_go_further(advantage: float, change: float, gradient: float):
    batch = one().replace(returns_BT=torch.zeros(1, 4), advantages_BT=torch.full((1, 4), advantage))
    logprobs = (batch.need("old_logprobs_BT") + change).requires_grad_()
    loss, metrics = PPO(value_weight=0.0).loss(batch, Prediction(logprobs, logprobs.detach(), torch.zeros(1, 4)))
    loss.total.backward()
    assert logprobs.grad[0].tolist() == pytest.approx([0] + [gradient] * 3)
    assert metrics["clip_fraction"].value == (gradient == 0)


@pytest.mark.parametrize(
    ("value", "loss", "gradient"),
    [(0.1, 0.5 * 0.9**2, -0.9), (0.5, 0.5 * 0.8**2, 0.0), (-0.5, 0.5 * 1.5**2, -1.5)],
)
def test_value_clipping(value: float, loss: float, gradient: float):
    """Before 0, target 1, value_clip .2: a value beyond .2 is judged as .2; one that moved away is not helped."""
    batch = one().replace(advantages_BT=torch.zeros(1, 4), returns_BT=torch.ones(1, 4))
    values = torch.full((1, 4), value, requires_grad=True)
    prediction = Prediction(batch.need("old_logprobs_BT"), torch.zeros(1, 4), values)
    found, _ = PPO(value_clip=0.2, value_weight=1.0).loss(batch, prediction)
    found.total.backward()
    assert found.detach().value == pytest.approx(loss)
    assert values.grad[0].tolist() == pytest.approx([0] + [gradient] * 3)


def test_controller_by_hand():
    ppo = PPO(kl=0.1, kl_target=6.0, kl_horizon=1000)
    assert ppo.adapt(6.6, 100).kl == pytest.approx(0.1 * (1 + 0.1 * 100 / 1000))
    assert ppo.adapt(60.0, 100).kl == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))  # the error is clipped
    assert ppo.adapt(0.0, 100).kl == pytest.approx(0.1 * (1 - 0.2 * 100 / 1000))
    assert ppo.adapt(6.0, 100) == ppo
    assert ppo.adapt(6.6, 100).kl_target == 6.0
    assert PPO(kl=0.1).adapt(60.0, 100) == PPO(kl=0.1)
