"""The divergence by hand and against scipy, its two ends, its gradient; the policy and the teacher chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.gkd import GKD
from tropism.errors import TropismError
from tropism.models import forward
from tropism.models.forward import predict_divergence
from tropism.models.vocabulary import know
from tropism.tensors.batch import Prediction
from tropism.tensors.collate import collate
from tropism.tensors.maths import jensen_shannon
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner, predict
from tropism.train.optim import Optim

INF = float("inf")
TREES = [
    Tree("a", (5, 6, 7), ((8, 9, 10, 11), (12,), (8, 9)), ((True,) * 4, (True,), (True, False)), (True,) * 3),
    Tree("b", (20,), ((21, 22, 23),), ((True, False, True),), (True,)),
]


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.0, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),  # KL of (1/2, 1/2) from (1/4, 3/4)
        (1.0, 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)),  # and the other way round
        (  # the mixture is (3/8, 5/8)
            0.5,
            0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5))
            + 0.5 * (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)),
        ),
        (  # the mixture is one fifth of the teacher: (3/10, 7/10)
            0.2,
            0.2 * (0.5 * math.log(5 / 3) + 0.5 * math.log(5 / 7))
            + 0.8 * (0.25 * math.log(5 / 6) + 0.75 * math.log(15 / 14)),
        ),
    ],
)
def test_by_hand(beta: float, expected: float) -> None:
    policy, teacher = logits(0.25, 0.75), logits(0.5, 0.5)
    assert float(jensen_shannon(policy, teacher, beta)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("beta", [0.0, 1e-4, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_against_scipy(beta: float, temperature: float) -> None:
    policy, teacher = torch.randn(2, 40, 11, dtype=torch.float64) * 3
    p, q = (x.div(temperature).softmax(-1).numpy() for x in (policy, teacher))
    if beta in (0.0, 1.0):
        expected = entropy(q, p, axis=-1) if beta == 0 else entropy(p, q, axis=-1)
    else:
        mix = beta * q + (1 - beta) * p
        expected = beta * entropy(q, mix, axis=-1) + (1 - beta) * entropy(p, mix, axis=-1)
    found = GKD(beta, temperature).divergence(policy, teacher)
    assert found.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_the_ends_are_limits() -> None:
    """Near 0 the divergence is beta times the forward KL, near 1 it is 1 - beta times the reverse."""
    policy, teacher = torch.randn(2, 20, 9, dtype=torch.float64)
    near, there = jensen_shannon(policy, teacher, 1e-6) / 1e-6, jensen_shannon(policy, teacher, 0.0)
    assert near.numpy() == pytest.approx(there.numpy(), rel=1e-4)
    near, there = jensen_shannon(policy, teacher, 1 - 1e-6) / 1e-6, jensen_shannon(policy, teacher, 1.0)
    assert near.numpy() == pytest.approx(there.numpy(), rel=1e-4)
    assert float((jensen_shannon(policy, teacher, 0.0) - jensen_shannon(policy, teacher, 1.0)).abs().min()) > 1e-4


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_ids_that_no_text_has_change_nothing(beta: float) -> None:
    policy, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    absent = torch.full((6, 2), -INF, dtype=torch.float64)
    wide = [torch.cat([x[:, :2], absent, x[:, 2:]], 1).requires_grad_() for x in (policy, teacher)]
    plain = [x.clone().requires_grad_() for x in (policy, teacher)]
    for pair in (wide, plain):
        jensen_shannon(pair[0], pair[1], beta).sum().backward()
    assert jensen_shannon(*wide, beta).tolist() == pytest.approx(jensen_shannon(*plain, beta).tolist(), abs=1e-14)
    for x, y in zip(wide, plain):
        assert x.grad is not None and y.grad is not None
        assert x.grad[:, 2:4].abs().max() == 0
        assert torch.allclose(x.grad[:, [0, 1, 4, 5, 6]], y.grad, atol=1e-14)


def test_the_gradient_of_the_forward_kl() -> None:
    """Of a logit it is the policy's probability less the teacher's, whatever the two are."""
    policy, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    policy.requires_grad_()
    jensen_shannon(policy, teacher, 0.0).sum().backward()
    assert policy.grad is not None
    assert torch.allclose(policy.grad, policy.detach().softmax(-1) - teacher.softmax(-1), atol=1e-14)


def test_a_policy_like_the_teacher_learns_nothing() -> None:
    for beta in (0.0, 0.4, 1.0):
        same = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
        found = jensen_shannon(same, same.detach() + 7.0, beta)
        found.sum().backward()
        assert float(found.detach().abs().max()) < 1e-14
        assert same.grad is not None and float(same.grad.abs().max()) < 1e-14


def test_the_loss_is_a_mean_over_trained_tokens() -> None:
    batch = collate(TREES[1:])
    assert batch.loss_mask_BT.tolist() == [[False, True, False, True]]
    divergence = torch.tensor([[7.0, 1.0, 9.0, 2.0]], requires_grad=True)
    loss, metrics = GKD().loss(GKD().credit(batch), Prediction(divergence_BT=divergence))
    loss.total.backward()
    assert (loss.total.item(), loss.count.item(), metrics) == (3.0, 2, {})
    assert divergence.grad is not None and divergence.grad.tolist() == [[0.0, 1.0, 0.0, 1.0]]


def plainly(policy: PreTrainedModel, teacher: PreTrainedModel, beta: float) -> list[float]:
    """Of each trained token in order, by one call of each model for each sequence and scipy."""
    found: list[float] = []
    for item in TREES:
        for answer, trained in zip(item.completions, item.trained):
            tokens = torch.tensor([item.prompt + answer])
            p, q = (m(tokens).logits[0].double().softmax(-1).detach().numpy() for m in (policy, teacher))
            mix = beta * q + (1 - beta) * p
            both = beta * entropy(q, mix, axis=-1) + (1 - beta) * entropy(p, mix, axis=-1)
            start = len(item.prompt) - 1
            found += [float(both[start + i]) for i, keep in enumerate(trained) if keep]
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_two_models_in_a_batch(
    make_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Against plain calls, with models of different families; all tokens at once, or two at once and computed again."""
    policy, teacher = make_model(), make_model("gpt2", seed=1)
    batch = collate(TREES, shared=shared)
    sizes: list[int] = []

    def compare(policy_MV: Tensor, teacher_MV: Tensor) -> Tensor:
        sizes.append(len(policy_MV))
        assert policy_MV.requires_grad and not teacher_MV.requires_grad
        return jensen_shannon(policy_MV, teacher_MV, 0.3)

    gradients = []
    for chunk, before, after in ((forward.CHUNK, [8], [8]), (2 * 600, [2] * 4, [2] * 8)):
        monkeypatch.setattr(forward, "CHUNK", chunk)
        sizes.clear()
        policy.zero_grad(set_to_none=True)
        found = predict_divergence(policy, teacher, batch, compare)
        rows = [found[batch.loss_mask_BT & (batch.completion_BT == n)].tolist() for n in range(batch.n)]
        assert [x for row in rows for x in row] == pytest.approx(plainly(policy, teacher, 0.3), abs=2e-6)
        assert found[~batch.loss_mask_BT].abs().sum() == 0
        assert sizes == before
        found.sum().backward()
        assert sizes == after
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-2 and torch.allclose(*gradients, atol=1e-5)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_whose_embeddings_are_padded_otherwise(make_model: Callable[..., PreTrainedModel], words) -> None:
    """Ids past the tokenizer are left out on both sides."""
    policy, teacher = make_model(), make_model("gpt2", seed=1)
    batch = collate(TREES)
    compare = GKD(0.3).divergence
    expected = predict_divergence(policy, teacher, batch, compare).detach()
    teacher.resize_token_embeddings(len(words) + 9)
    know(teacher, words)
    assert torch.allclose(predict_divergence(policy, teacher, batch, compare), expected, atol=1e-6)


def test_without_a_teacher(make_model: Callable[..., PreTrainedModel]) -> None:
    batch = collate(TREES)
    with pytest.raises(TropismError, match="compares the policy with a teacher: this stage has none"):
        Learner({"policy": make_model()}, Optim(), 1).update(GKD(), batch)
    with pytest.raises(TropismError, match="compares the policy with a teacher: this stage has none"):
        predict({"policy": make_model(), "teacher": make_model()}, ("divergence_BT",), batch)
