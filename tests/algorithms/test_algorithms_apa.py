"""APA against the paper's squared error, written out token by token, and by hand."""

from __future__ import annotations

import pytest
import torch
from algorithms_forest import answers, compare, filled, forest, gae_by_loops, off_trained, on_trained

from tropism.algorithms.apa import APA
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

KNOBS = {
    "default": APA(),
    "round": APA(anchor="round", kl=0.7),
    "limit": APA(limit=1.5, kl=0.5, gamma=0.9, lam=0.6, value_weight=1.7),
}


def equation_of(apa: APA, told: dict[str, float]):
    def equation(groups, new, value):
        credit = [
            [
                gae_by_loops([*[0.0] * (len(a.old) - 1), a.reward], a.value, apa.gamma, apa.lam)
                if a.reward is not None and a.old
                else ([], [])
                for a in group
            ]
            for group in groups
        ]
        every = [x for group in credit for advantages, _ in group for x in advantages]
        centre = sum(every) / len(every)
        total, cut = 0.0, 0
        for g, group in enumerate(groups):
            for k, a in enumerate(group):
                anchor = a.ref if apa.anchor == "initial" else a.old
                for t, (advantage, goal) in enumerate(zip(*credit[g][k])):
                    target = min(max((advantage - centre) / apa.kl, -apa.limit), apa.limit)
                    total = total + (new[g][k][t] - anchor[t] - target) ** 2
                    total = total + apa.value_weight * 0.5 * (value[g][k][t] - goal) ** 2
                    cut += abs(target) == apa.limit
        told["cut_fraction"] = cut / len(every)
        return total, len(every)

    return equation


@pytest.mark.parametrize("apa", KNOBS.values(), ids=KNOBS)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(apa: APA, seed: int):
    told: dict[str, float] = {}
    metrics = compare(apa, forest(seed), equation_of(apa, told))
    assert metrics["cut_fraction"] == pytest.approx(told["cut_fraction"])
    assert (told["cut_fraction"] > 0) == (apa.kl != 0.7)  # the limit is at work, and not everywhere
    assert told["cut_fraction"] < 1


def two(kl_to_reference: float = 0.0) -> Batch:
    """Two answers of one token, scores 3 and 1, values 0, log-probabilities -1, the second prompt padded."""
    trees = [
        Tree("a", (1,), ((2,),), ((True,),), (True,), ((-1.0,),), (3.0,)),
        Tree("b", (1, 1, 1), ((2,),), ((True,),), (True,), ((-1.0,),), (1.0,)),
    ]
    batch = collate(trees)
    ref = on_trained(batch, [[-1.0 - kl_to_reference]] * 2).float()
    return batch.replace(ref_logprobs_BT=ref, values_BT=torch.zeros_like(ref))


def loss(apa: APA, batch: Batch, logprobs: torch.Tensor) -> tuple[float, dict[str, float]]:
    zeros = torch.zeros_like(logprobs)
    found, metrics = apa.loss(apa.credit(batch), Prediction(logprobs, zeros, zeros))
    return found.detach().value, {name: r.value for name, r in metrics.items()}


def test_by_hand():
    """Advantages 3 and 1, centred 1 and -1, over kl .5: targets 2 and -2. At pi_init the error is 4, there it is 0."""
    batch, apa = two(), APA(kl=0.5, value_weight=0.0)
    at_start = batch.need("old_logprobs_BT")
    assert loss(apa, batch, at_start)[0] == pytest.approx(4.0)
    assert loss(apa, batch, at_start + on_trained(batch, [[2.0], [-2.0]]))[0] == pytest.approx(0.0)
    assert loss(APA(kl=0.5), batch, at_start)[0] == pytest.approx(4 + 0.5 * 0.5 * (9 + 1) / 2)  # V = 0, R = 3 and 1


def test_the_centre_is_that_of_real_tokens():
    """Whatever padding, prompts and completions without a score hold."""
    trees = forest(3)
    plain, rubbish = (filled(trees, row_tokens=40, elsewhere=x) for x in (0.0, 1e4))
    advantage = APA(limit=1e9).credit(plain).need("advantages_BT")
    scored = plain.need("scored_N").tolist()
    kept = [x for keep, row in zip(scored, off_trained(advantage, plain)) if keep for x in row]
    assert sum(kept) == pytest.approx(0.0, abs=1e-9)
    assert advantage.abs().sum() == pytest.approx(sum(map(abs, kept)))
    assert torch.allclose(APA(limit=1e9).credit(rubbish).need("advantages_BT"), advantage)


def test_the_anchor_of_a_round_is_the_policy_that_sampled_it():
    """The reference likes both answers less by .4 nats: only the initial anchor feels it."""
    batch = two(kl_to_reference=0.4)
    at_old = batch.need("old_logprobs_BT")
    apart = [(0.4 - 2) ** 2, (0.4 + 2) ** 2]
    assert loss(APA(kl=0.5, value_weight=0.0), batch, at_old)[0] == pytest.approx(sum(apart) / 2)
    assert loss(APA(kl=0.5, value_weight=0.0, anchor="round"), batch, at_old)[0] == pytest.approx(4.0)


@pytest.mark.parametrize("kl", [0.99, 0.1, 0.33, 1.7])
def test_every_cut_target_is_counted(kl: float):
    """Advantages ±1e6 are cut, whatever the rounding of limit · kl / kl."""
    batch = two()
    batch = batch.replace(reward_N=batch.need("reward_N") * 1e6)
    found, metrics = loss(APA(kl=kl, limit=10, value_weight=0.0), batch, batch.need("old_logprobs_BT"))
    assert found == pytest.approx(100)
    assert metrics["cut_fraction"] == 1


def test_on_fresh_samples_the_gradient_is_the_policy_gradient_times_two_over_kl():
    trees, apa = forest(4), APA(kl=0.3, limit=1e9, anchor="round", value_weight=0.0)
    batch = filled(trees)
    after, old = apa.credit(batch), batch.need("old_logprobs_BT").clone().requires_grad_()
    apa.loss(after, Prediction(old, torch.zeros_like(old), torch.zeros_like(old)))[0].total.backward()
    assert old.grad is not None
    assert torch.allclose(old.grad, -2 / 0.3 * after.need("advantages_BT"))


def test_there_is_no_kl_in_the_reward():
    """The reference may be anywhere: credit is the same."""
    trees = forest(5)
    batch = filled(trees)
    far = batch.replace(ref_logprobs_BT=batch.need("ref_logprobs_BT") - 3)
    assert torch.equal(APA().credit(batch).need("advantages_BT"), APA().credit(far).need("advantages_BT"))
    assert any(a.reward is None for group in answers(trees) for a in group)
