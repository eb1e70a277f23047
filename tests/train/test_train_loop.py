"""One update, against autograd by hand; what must not move does not; a restored learner goes on as if never stopped."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.grpo import GRPO
from tropism.algorithms.kwise import KWise
from tropism.algorithms.nll import NLL
from tropism.algorithms.ppo import PPO
from tropism.errors import TropismError
from tropism.models.folder import load_scalar, save
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.ratio import Ratio
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner, NotFinite, predict, values
from tropism.train.optim import Optim
from tropism.types import SamplingParams

FLAT = Optim(lr=0.5, schedule="constant", warmup=0.0, clip_norm=0.0)


def forest(seed: int = 0, groups: int = 4) -> list[Tree]:
    rng = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randint(10, 250) for _ in range(n))

    return [
        Tree(
            id=f"g{g}",
            prompt=tokens(3),
            completions=(tokens(4), tokens(2)),
            trained=((True,) * 4, (True,) * 2),
            ended=(True, True),
            logprobs=((-5.0,) * 4, (-5.0,) * 2),
            rank=(1, 2),
        )
        for g in range(groups)
    ]


def credited(trees: list[Tree]) -> Batch:
    """A batch as it stands before PPO's loss, advantages and all."""
    batch = collate(trees)
    noise = torch.randn(3, *batch.tokens_BT.shape)
    return batch.replace(values_BT=noise[0], advantages_BT=noise[1], returns_BT=noise[2])


@pytest.fixture
def models(make_model: Callable[..., PreTrainedModel], words, tmp_path: Path) -> dict[str, PreTrainedModel]:
    save(make_model(), words, tmp_path / "lm")
    critic = load_scalar(tmp_path / "lm")
    torch.nn.init.normal_(critic.score.weight)
    return {"policy": make_model(), "critic": critic}


def descent(learner: Learner) -> Learner:
    """Plain gradient descent: the change of the weights is the gradient that was applied, times the rate."""
    groups = [{"params": g["params"], "of": g["of"]} for g in learner.optimizer.param_groups]
    learner.optimizer = torch.optim.SGD(groups, lr=1.0)  # type: ignore[assignment]
    return learner


def weights(model: PreTrainedModel) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def change(model: PreTrainedModel, before: list[Tensor]) -> Tensor:
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])


def gradient_of_mean_nll(model: PreTrainedModel, trees: list[Tree]) -> Tensor:
    """By one call of the model for each sequence and the cross-entropy of torch."""
    model = copy.deepcopy(model)
    total, count = torch.zeros(()), 0
    for item in trees:
        for answer in item.completions:
            logits = model(torch.tensor([item.prompt + answer])).logits[0, len(item.prompt) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
            count += len(answer)
    (total / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_an_update_is_a_step_along_the_mean_gradient(llama: PreTrainedModel):
    trees, before = forest(), weights(llama)
    gradient = gradient_of_mean_nll(llama, trees)
    metrics = descent(Learner({"policy": llama}, FLAT, 10, pass_tokens=1)).update(NLL(), collate(trees))
    assert torch.allclose(change(llama, before), -0.5 * gradient, atol=1e-6)
    assert metrics["policy_gradient_norm"].value == pytest.approx(float(gradient.norm()), rel=1e-4)


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_gradient_clipping_is_really_applied(llama: PreTrainedModel, clip_norm: float):
    trees, before = forest(), weights(llama)
    gradient = gradient_of_mean_nll(llama, trees)
    scale = min(1.0, clip_norm / float(gradient.norm()))
    optim = dataclasses.replace(FLAT, clip_norm=clip_norm)
    metrics = descent(Learner({"policy": llama}, optim, 10)).update(NLL(), collate(trees))
    assert torch.allclose(change(llama, before), -0.5 * scale * gradient, atol=1e-6)
    assert metrics["policy_gradient_norm"].value == pytest.approx(float(gradient.norm()), rel=1e-4)  # before clipping


def test_each_model_is_clipped_and_rated_by_itself(models: dict[str, PreTrainedModel]):
    before = {name: weights(model) for name, model in models.items()}
    optim = dataclasses.replace(FLAT, clip_norm=0.1)
    metrics = descent(Learner(models, optim, 10, {"critic": 0.05})).update(PPO(), credited(forest()))
    assert metrics["policy_gradient_norm"].value > 0.1 < metrics["critic_gradient_norm"].value
    assert float(change(models["policy"], before["policy"]).norm()) == pytest.approx(0.5 * 0.1, rel=1e-3)
    assert float(change(models["critic"], before["critic"]).norm()) == pytest.approx(0.05 * 0.1, rel=1e-3)


def test_the_rate_follows_the_schedule(llama: PreTrainedModel):
    optim = Optim(lr=0.5, schedule="linear", warmup=0.0, clip_norm=0.01)
    learner = descent(Learner({"policy": llama}, optim, 4))
    for step in range(4):
        before = weights(llama)
        learner.update(NLL(), collate(forest()))
        assert float(change(llama, before).norm()) == pytest.approx(0.5 * (1 - step / 4) * 0.01, rel=1e-3)
    assert learner.done == 4


@pytest.mark.parametrize("frozen", ["policy", "critic"])
def test_a_frozen_model_does_not_move(models: dict[str, PreTrainedModel], frozen: str):
    learner = Learner(models, Optim(lr=1e-3, weight_decay=0.1), 10)
    learner.update(PPO(), credited(forest()))  # so that the optimiser has momentum
    before = {name: weights(model) for name, model in models.items()}
    metrics = learner.update(PPO(), credited(forest()), frozen)
    (other,) = {"policy", "critic"} - {frozen}
    assert change(models[frozen], before[frozen]).abs().max() == 0
    assert change(models[other], before[other]).abs().max() > 1e-5
    assert f"{frozen}_gradient_norm" not in metrics
    learner.update(PPO(), credited(forest()))
    assert change(models[frozen], before[frozen]).abs().max() > 1e-5


def test_a_batch_that_trains_nothing_moves_nothing(llama: PreTrainedModel):
    trees = [dataclasses.replace(t, trained=((False,) * 4, (False,) * 2)) for t in forest()]
    before = weights(llama)
    learner = Learner({"policy": llama}, Optim(weight_decay=0.1), 10)
    metrics = learner.update(NLL(), collate(trees))
    assert change(llama, before).abs().max() == 0
    assert "loss" not in values(metrics)  # nothing was counted
    assert learner.done == 1


def test_a_round_that_nobody_could_score_moves_nothing(models: dict[str, PreTrainedModel]):
    trees = [dataclasses.replace(t, reward=(None, None)) for t in forest()]
    batch = collate(trees)
    batch = batch.replace(ref_logprobs_BT=batch.old_logprobs_BT, values_BT=torch.zeros(batch.tokens_BT.shape))
    before = {name: weights(model) for name, model in models.items()}
    Learner(models, Optim(), 10).update(PPO(), PPO().credit(batch))
    assert all(change(model, before[name]).abs().max() == 0 for name, model in models.items())


def test_a_loss_that_is_not_finite_stops_before_the_weights(models: dict[str, PreTrainedModel]):
    before = {name: weights(model) for name, model in models.items()}
    good = credited(forest())
    bad = good.need("advantages_BT").masked_fill((good.completion_BT == 4) | (good.completion_BT == 5), math.nan)
    learner = Learner(models, Optim(), 10, pass_tokens=1)
    with pytest.raises(NotFinite, match=r"the loss is not finite at step 1, in a batch of the groups g2$") as error:
        learner.update(PPO(), good.replace(advantages_BT=bad))
    assert (error.value.step, error.value.ids) == (1, ("g2",))
    told = str(error.value.with_checkpoint("run/rl/checkpoints/00000007"))
    assert "step 1" in told
    assert "g2; the last good checkpoint is run/rl/checkpoints/00000007" in told
    assert told.endswith("the advantages were not finite before this update: check those first")  # no rate is to blame
    assert all(change(model, before[name]).abs().max() == 0 for name, model in models.items())
    assert learner.done == 0

    untouched = {name: copy.deepcopy(model) for name, model in models.items()}
    learner.update(PPO(), good)  # what the passes before the bad one left behind is gone
    Learner(untouched, Optim(), 10, pass_tokens=1).update(PPO(), good)
    assert all(change(model, weights(untouched[name])).abs().max() == 0 for name, model in models.items())


@dataclass(frozen=True)
class Root:
    """A loss that is finite where its gradient is not: the square root of nothing."""

    needs: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[tuple[str, ...]] = ("logprobs_BT",)

    def credit(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]:
        total = (prediction.need("logprobs_BT") * 0).sum().sqrt()
        return Ratio(total, batch.loss_mask_BT.sum()), {}


def test_a_gradient_that_is_not_finite_stops_before_the_weights(llama: PreTrainedModel):
    before = weights(llama)
    with pytest.raises(NotFinite, match=r"the gradient of the policy is not finite at step 1, .* g0, g1, g2, g3$"):
        Learner({"policy": llama}, Optim(), 10).update(Root(), collate(forest()))
    assert change(llama, before).abs().max() == 0


@pytest.mark.parametrize("field", ["ref_logprobs_BT", "old_logprobs_BT", "reward_N"])
def test_what_an_update_was_given_is_to_blame(models: dict[str, PreTrainedModel], field: str):
    trees = [dataclasses.replace(t, reward=tuple(float(k) for k, _ in enumerate(t.completions))) for t in forest()]
    good = collate(trees)
    good = good.replace(**dict.fromkeys(("ref_logprobs_BT", "old_logprobs_BT"), torch.zeros(good.tokens_BT.shape)))
    bad = good.replace(**{field: torch.full_like(good.need(field), math.nan)})
    grpo = GRPO(kl_in="loss", drop_equal=False)
    with pytest.raises(NotFinite) as error:
        Learner(models, Optim(), 10).update(grpo, grpo.credit(bad))
    words = {"ref": "the log-probabilities of the reference", "old": "the log-probabilities of the policy that sampled"}
    assert error.value.source == words.get(field[:3], "the rewards")


def test_a_diverging_update_blames_the_rate_and_broken_weights_themselves(llama: PreTrainedModel):
    with pytest.raises(NotFinite) as error:
        Learner({"policy": llama}, Optim(), 10).update(Root(), collate(forest()))
    assert str(error.value.with_checkpoint("x")).endswith("lower the learning rate or fix those groups")
    next(llama.parameters()).data[0, 0] = math.nan
    with pytest.raises(NotFinite) as error:
        Learner({"policy": llama}, Optim(), 10).update(Root(), collate(forest()))
    said = "the weights of the policy were not finite before this update: check those first"
    assert str(error.value.with_checkpoint("x")).endswith(said)


def test_many_groups_are_not_all_named():
    assert str(NotFinite("the loss", 3, tuple(f"g{n}" for n in range(10)))).endswith("g6, g7 and 2 more")


@pytest.mark.parametrize("algorithm", [NLL(), KWise(), PPO()], ids=lambda a: type(a).__name__)
def test_stopped_and_restored_is_uninterrupted_bit_for_bit(
    models: dict[str, PreTrainedModel], algorithm: Any, tmp_path: Path
):
    optim = Optim(lr=1e-2, schedule="cosine", warmup=0.3, weight_decay=0.1)
    batches = [credited(forest(seed)) for seed in range(6)]
    roles = {"NLL": ("policy",), "KWise": ("scorer",), "PPO": ("policy", "critic")}[type(algorithm).__name__]
    start = {"scorer": models["critic"], **models}

    def fresh() -> Learner:
        return Learner({role: copy.deepcopy(start[role]) for role in roles}, optim, 6)

    whole = fresh()
    for batch in batches:
        whole.update(algorithm, batch)
    first = fresh()
    for batch in batches[:3]:
        first.update(algorithm, batch)
    first.save(tmp_path, position=17, algorithm={"kl": 0.1})
    second = fresh()
    assert second.restore(tmp_path) == {"position": 17, "algorithm": {"kl": 0.1}}
    assert second.done == 3
    for batch in batches[3:]:
        second.update(algorithm, batch)
    for role in roles:
        assert change(second.models[role], weights(whole.models[role])).abs().max() == 0
        assert change(whole.models[role], weights(start[role])).abs().max() > 1e-2


def test_predict_asks_only_the_models_that_an_algorithm_reads(models: dict[str, PreTrainedModel]):
    batch = collate(forest())
    sampling = SamplingParams(temperature=0.5)
    found = predict(models, ("logprobs_BT",), batch, sampling)
    assert found.values_BT is None
    assert found.scores_N is None
    assert found.entropy_BT is None
    assert not torch.allclose(
        found.need("logprobs_BT"), predict(models, ("logprobs_BT",), batch).need("logprobs_BT"), atol=0.1
    )
    both = predict(models, PPO.predicts, batch)
    assert both.need("values_BT").shape == both.need("entropy_BT").shape == batch.tokens_BT.shape
    assert predict({"scorer": models["critic"]}, KWise.predicts, batch).need("scores_N").shape == (8,)
    with pytest.raises(TropismError, match="scores_N, which a scorer predicts"):
        predict(models, ("scores_N",), batch)
