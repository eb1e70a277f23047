"""One update is one update: in one pass, in many, packed in another order or padded, for every algorithm.

The optimiser here is plain gradient descent: AdamW would divide rounding errors by their own size.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.apa import APA
from tropism.algorithms.awr import AWR
from tropism.algorithms.dpo import DPO
from tropism.algorithms.gkd import GKD
from tropism.algorithms.gold import GOLD
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.kto import KTO
from tropism.algorithms.kwise import KWise
from tropism.algorithms.nll import NLL
from tropism.algorithms.orpo import ORPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.ppo_lagrangian import PPOLagrangian
from tropism.algorithms.rloo import RLOO
from tropism.algorithms.simpo import SimPO
from tropism.algorithms.vmpo import VMPO
from tropism.models.folder import load_scalar, save
from tropism.protocols import Algorithm
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.ratio import total
from tropism.tensors.tree import Tree
from tropism.train.loop import ROLE, Learner, Mixed, predict
from tropism.train.optim import Optim
from tropism.train.rollouts import annotate
from tropism.types import SamplingParams

ALGORITHMS = [
    NLL(),
    KWise(),
    KWise("all_pairs", "below"),
    KWise("all_pairs", margin=0.3),
    KWise("top_1", running=0.5),
    PPO(),
    PPO(dual_clip=1.2, entropy=0.5),
    PPOLagrangian(limit=0.5, multiplier=2.0, dual_clip=1.2),
    APA(),
    APA(anchor="round", limit=1.0),
    GRPO(),
    GRPO(kl_in="loss", weight="completion", clip_high=0.4),
    GRPO(kl_in="loss", scale="std", weight="length", length=9, drop_equal=False),
    GRPO(scale="std"),
    GRPO(ratio="completion", weight="completion", clip=0.05, dual_clip=1.2),
    GRPO(surrogate="cispo", entropy=0.5, weight="completion"),
    RLOO(),
    RLOO(dual_clip=1.2, entropy=0.5),
    SimPO(),
    ORPO(odds=0.5),
    DPO(sft=0.5),
    DPO(likelihood="sigmoid", label_smoothing=0.1),
    DPO(likelihood="ipo"),
    KTO(beta=0.5, threshold=0.0, good=1.3),
    AWR(temperature=0.5),
    GOLD(),
    VMPO(),
    GKD(beta=0.0),
    GKD(beta=1.0, temperature=0.7),
]
SAMPLING = SamplingParams(temperature=0.8)


@pytest.fixture
def models(make_model: Callable[..., PreTrainedModel], words, tmp_path: Path) -> dict[str, PreTrainedModel]:
    save(make_model(), words, tmp_path)
    scalar = load_scalar(tmp_path)
    torch.nn.init.normal_(scalar.score.weight)
    return {"policy": make_model(), "critic": scalar, "scorer": copy.deepcopy(scalar), "reference": make_model(seed=1)}


def forest() -> list[Tree]:
    """Groups of one to four completions of very different lengths; nearly on the policy; one group ranks nothing."""
    rng = random.Random(1)
    trees = []
    for g, k in enumerate((3, 1, 4, 2, 3, 2)):
        answers = tuple(tuple(rng.randint(10, 250) for _ in range(rng.choice((1, 3, 12)))) for _ in range(k))
        trees.append(
            Tree(
                id=f"g{g}",
                prompt=tuple(rng.randint(10, 250) for _ in range(rng.choice((2, 20)))),
                completions=answers,
                trained=tuple(tuple(rng.random() < 0.9 for _ in a) for a in answers),
                ended=tuple(rng.random() < 0.7 for _ in answers),
                logprobs=tuple(tuple(-5.0 - rng.random() for _ in a) for a in answers),
                reward=tuple(None if rng.random() < 0.2 else rng.gauss(0, 1) for _ in answers),
                rank=tuple(rng.randint(0, 3) for _ in answers) if g else (0,) * k,
            )
        )
    return trees


def updated(
    models: dict[str, PreTrainedModel],
    algorithm: Algorithm,
    batch: Batch,
    pass_tokens: int,
    mixed: Mixed | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights after one update from the same start, and its metrics."""
    roles = sorted({ROLE[part] for part in algorithm.predicts})
    learning = {role: copy.deepcopy(models[role]) for role in roles}
    learner = Learner(learning, Optim(lr=1.0, schedule="constant", warmup=0.0), 1, {}, pass_tokens, SAMPLING)
    learner.teacher = models["reference"]
    groups = learner.optimizer.param_groups
    learner.optimizer = torch.optim.SGD([{"params": g["params"], "of": g["of"]} for g in groups], lr=1.0)  # type: ignore[assignment]
    nobody_sampled = models["policy"] if isinstance(algorithm, KTO) else None
    batch = annotate(
        batch, algorithm.needs, models["reference"], models["critic"], SAMPLING, pass_tokens, nobody_sampled
    )
    metrics = learner.update(algorithm, algorithm.credit(batch), mixed=mixed)
    weights = {f"{role}.{n}": p.detach() for role, model in learning.items() for n, p in model.named_parameters()}
    return weights, {name: ratio.value for name, ratio in metrics.items()}


def layouts() -> dict[str, tuple[Batch, int]]:
    """Name → batch and pass_tokens; the first is one pass over one row."""
    trees = forest()
    turned = [trees[i] for i in (4, 2, 0, 5, 1, 3)]
    return {
        "one pass": (collate(trees, 10**6), 0),
        "a row a pass": (collate(trees), 1),
        "two rows a pass": (collate(trees, 60), 130),
        "another order": (collate(turned, 80), 0),
        "padded": (collate(trees, shared=False), 0),
        "padded, a row a pass": (collate(turned, shared=False), 1),
        "padded, two rows a pass": (collate(turned, shared=False), 70),
        "groups in parts": (collate(turned, 60, most=16), 1),
    }


def documents() -> list[Tree]:
    """Five pieces of documents of very different lengths."""
    rng = random.Random(2)
    rows = [tuple(rng.randint(10, 250) for _ in range(n)) for n in (2, 30, 7, 19, 1)]
    return [Tree(f"d{i}", (7,), (row,), ((True,) * len(row),), (True,)) for i, row in enumerate(rows)]


def mixes() -> dict[str, tuple[Algorithm, Batch, int, Mixed]]:
    """Updates that mix in documents: in one pass, in rows of their own, and with too little of either for two ranks."""
    whole, one = collate(forest()), collate(documents()[1:2])
    few, many = Mixed(NLL(), one, 0.5), Mixed(NLL(), collate(documents(), 40), 2.5)
    return {
        "PPO": (PPO(), whole, 0, many),
        "a row a pass": (RLOO(), collate(forest(), shared=False), 1, many),
        "one document": (RLOO(), whole, 0, few),
        "one group": (GRPO(), collate(forest()[2:3]), 0, many),
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_an_update_does_not_depend_on_how_it_was_computed(models: dict[str, PreTrainedModel], algorithm: Algorithm):
    results = {name: updated(models, algorithm, *layout) for name, layout in layouts().items()}
    expected, metrics = results.pop("one pass")
    start = {f"{role}.{n}": p.detach() for role, model in models.items() for n, p in model.named_parameters()}
    assert max(float((expected[n] - start[n]).abs().max()) for n in expected) > 1e-2
    for name, (weights, numbers) in results.items():
        worst = max(float((weights[n] - expected[n]).abs().max()) for n in expected)
        assert worst < 1e-6, f"{name}: {worst}"
        assert numbers == pytest.approx(metrics, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("algorithm", [KWise(running=0.5), KWise("all_pairs", "below")], ids=repr)
def test_nor_does_that_of_a_reward_model_without_a_head(models: dict[str, PreTrainedModel], algorithm: Algorithm):
    models["scorer"] = copy.deepcopy(models["policy"])
    models["scorer"].config.score_zero, models["scorer"].config.score_unit = -5.0, 0.3
    test_an_update_does_not_depend_on_how_it_was_computed(models, algorithm)


def test_a_long_example_weighs_as_much_as_its_tokens(models: dict[str, PreTrainedModel]):
    """The loss of two trees is the token-weighted mean of their losses, not the mean of two means."""
    trees = [t for t in forest() if len(t.completions) == 1 or t.id == "g2"]
    alone = [updated(models, NLL(), collate([t]), 0)[1]["loss"] for t in trees]
    tokens = [sum(sum(kept) for kept in t.trained) for t in trees]
    assert tokens[0] != tokens[1]
    expected = sum(x * n for x, n in zip(alone, tokens)) / sum(tokens)
    assert updated(models, NLL(), collate(trees), 1)[1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_of_pieces_add_up_to_those_of_the_whole(models: dict[str, PreTrainedModel]):
    trees = forest()
    learner = Learner({"scorer": models["scorer"]}, Optim(), 1)

    def metrics(part: list[Tree]) -> dict:
        batch = collate(part)
        loss, more = KWise().loss(batch, predict(learner.models, KWise.predicts, batch))
        return {"loss": loss.detach(), **more}

    whole, pieces = metrics(trees), total(metrics([t]) for t in trees)
    assert {n: r.value for n, r in pieces.items()} == pytest.approx({n: r.value for n, r in whole.items()}, rel=1e-5)
