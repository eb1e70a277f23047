"""Loss and gradient of tropism beside TRL's, on the same tiny model and the same batch, by TRL's own trainers.

    python bench/parity.py [--json]        needs the extra `bench` (TRL 1.16)

Every row builds a real TRL trainer and calls its `compute_loss` on what its own code prepared: tokens and masks of chats
(SFT), padded rows (all), the KL of mismatched pairs (KTO), old and reference log-probabilities, rewards and advantages
(GRPO, RLOO; only their sampling is replaced, by completions given). None of TRL's formulas is written out here.

A row is *equal* where loss, gradient (largest difference of an entry over the largest entry, all parameters) and
advantages differ by at most 1e-5, relatively. It is *explained* where they differ by more, but not once the one term of our
loss that `why` names is exchanged for TRL's: the exchange is computed, not claimed, and `docs/papers.md` gives the line of
the paper. Anything else is *different*, and the exit status is 1. All is float64, also what both sides would do in float32
whatever the model's dtype (norms, rotary angles, the log-softmax): without that, roundings of 1e-7 to 3e-6 are left.

Left out: PPO and APA (TRL 1.16 has neither). Their tests have the papers' equations written out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

import datasets
import torch
import trl
import trl.experimental.cpo
import trl.experimental.gkd
import trl.experimental.orpo
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from tropism.algorithms.dpo import DPO
from tropism.algorithms.gkd import GKD
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.kto import KTO
from tropism.algorithms.kwise import KWise
from tropism.algorithms.nll import NLL
from tropism.algorithms.orpo import ORPO
from tropism.algorithms.rloo import RLOO
from tropism.algorithms.simpo import SimPO
from tropism.models.architecture import Architecture, create
from tropism.models.folder import context_of
from tropism.protocols import Algorithm, Distilling
from tropism.stages.offline import filled, mismatched
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.encode import demonstration, tree
from tropism.tensors.index import length_N, sum_by_completion
from tropism.tensors.maths import clipped
from tropism.tensors.ratio import Ratio
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import identity, train_tokenizer
from tropism.train.loop import predict, reads
from tropism.train.rollouts import annotate
from tropism.types import Completion, Group, Message, SamplingParams

TRAINERS = {
    n: (getattr(trl, f"{n}Trainer"), getattr(trl, f"{n}Config"))
    for n in ["SFT", "Reward", "DPO", "KTO", "GRPO", "RLOO"]
} | {
    "CPO": (trl.experimental.cpo.CPOTrainer, trl.experimental.cpo.CPOConfig),
    "GKD": (trl.experimental.gkd.GKDTrainer, trl.experimental.gkd.GKDConfig),
    "ORPO": (trl.experimental.orpo.ORPOTrainer, trl.experimental.orpo.ORPOConfig),
}
TOLERANCE = 1e-5
LIMIT = 14  # tokens of a completion; those that reach it are cut
LENGTHS = ((5, 9, 14, 3), (14, 4, 7, 8), (6, 14, 3, 11), (14, 10, 5, 9))
QUESTIONS = ("3 days", "how many days are 12 jours and 5 hari?", "99 дней", "one, two, 7 days, and then?")
GRADED = ((1.0, 0.5, -0.25, 0.0), (0.25, 2.0, 0.75, -1.5), (3.0, 1.0, 1.25, 0.5), (-0.5, 0.0, -2.0, 1.5))
UNSCORED = ((1.0, None, -0.25, 0.0), (0.25, 2.0, 0.75, -1.5), (None, None, 1.25, None), (-0.5, 0.0, -2.0, 1.5))
LEVEL = ((1.0, 0.5, -0.25, 0.0), (0.75, 0.75, 0.75, 0.75), (3.0, 1.0, 1.25, 0.5), (-0.5, 0.0, -2.0, 1.5))
Rewards = Sequence[Sequence[float | None]]
LossOf = Callable[[Any, Batch, Prediction], Ratio]


@dataclass(frozen=True)
class Case:
    """One row: our algorithm, the options of TRL's trainer that mean the same, and what is exchanged if not quite."""

    trainer: str
    label: str
    algorithm: Algorithm
    options: Mapping[str, Any] = field(default_factory=dict)
    rewards: Rewards = GRADED
    exchange: LossOf | None = None
    why: str = ""
    mirrored: bool = False  # policy and reference change places, and KTO's KL its sign


@dataclass(frozen=True)
class World:
    """A tokenizer, groups whose completions are tokens, three policies and a reward model."""

    words: PreTrainedTokenizerBase
    groups: tuple[Group, ...]
    policy: PreTrainedModel
    old: PreTrainedModel
    reference: PreTrainedModel
    scorer: PreTrainedModel
    folder: str  # where the reference is saved


@dataclass(frozen=True)
class Outcome:
    loss: float
    gradient: Tensor  # of all parameters, flat
    advantages_N: Tensor | None = None


@dataclass(frozen=True)
class Sides:
    """What a method's function makes of a case: the model and batch for our loss, and what TRL found."""

    model: PreTrainedModel
    batch: Batch
    theirs: Outcome
    sampling: SamplingParams | None = None
    teacher: PreTrainedModel | None = None


@dataclass(frozen=True)
class Row:
    """Both losses, and the relative differences; `exchanged` is the largest that is left after the exchange."""

    method: str
    ours: float
    theirs: float
    loss: float
    gradient: float
    advantages: float | None
    exchanged: float | None
    why: str
    verdict: str


# The exchanges: our loss with one term as TRL has it.


def plain_k3(algorithm: GRPO, batch: Batch, prediction: Prediction) -> Ratio:
    loss, _ = dataclasses.replace(algorithm, kl=0.0).loss(batch, prediction)
    away_BT = batch.need("ref_logprobs_BT") - prediction.need("logprobs_BT")
    return Ratio(loss.total + algorithm.kl * ((away_BT.exp() - 1 - away_BT) * batch.loss_mask_BT).sum(), loss.count)


def every_token(algorithm: GRPO, batch: Batch, prediction: Prediction) -> Ratio:
    return Ratio(algorithm.loss(batch, prediction)[0].total, (batch.completion_BT >= 0).sum())


def every_completion(algorithm: RLOO, batch: Batch, prediction: Prediction) -> Ratio:
    return Ratio(algorithm.loss(batch, prediction)[0].total, torch.tensor(batch.n))


def bounded_ratio(algorithm: GRPO, batch: Batch, prediction: Prediction) -> Ratio:
    """The larger of |A| min(rho, bound) and |A| clip(rho), where ours is the smaller of |A| bound and the clipped loss."""
    loss, _ = dataclasses.replace(algorithm, dual_clip=None).loss(batch, prediction)
    change_BT, advantage_BT = (
        prediction.need("logprobs_BT") - batch.need("old_logprobs_BT"),
        batch.need("advantages_BT"),
    )
    plain_BT, _ = clipped(change_BT, advantage_BT, algorithm.clip, algorithm.clip_high)
    ratio_BT = change_BT.exp()
    held_BT = ratio_BT.clamp(1 - algorithm.clip, 1 + algorithm.clip_high)
    theirs_BT = torch.maximum(-advantage_BT * ratio_BT.clamp(max=algorithm.dual_clip), -advantage_BT * held_BT)
    return Ratio(loss.total + ((theirs_BT - plain_BT) * batch.loss_mask_BT).sum(), loss.count)


def pooled_entropy(algorithm: GRPO, batch: Batch, prediction: Prediction) -> Ratio:
    loss, _ = dataclasses.replace(algorithm, entropy=0.0).loss(batch, prediction)
    entropy = (prediction.need("entropy_bonus_BT") * batch.loss_mask_BT).sum() / batch.loss_mask_BT.sum()
    return Ratio(loss.total - algorithm.entropy * entropy * loss.count, loss.count)


def pooled_sft(algorithm: DPO, batch: Batch, prediction: Prediction) -> Ratio:
    loss, _ = dataclasses.replace(algorithm, sft=0.0).loss(batch, prediction)
    return Ratio(loss.total - algorithm.sft * _pooled_best(batch, prediction) * loss.count, loss.count)


def pooled_nll(algorithm: ORPO, batch: Batch, prediction: Prediction) -> Ratio:
    loss, ours = algorithm.loss(batch, prediction)[0], ORPO(odds=0.0).loss(batch, prediction)[0]
    return Ratio(loss.total - ours.total - _pooled_best(batch, prediction) * loss.count, loss.count)


def _pooled_best(batch: Batch, prediction: Prediction) -> Tensor:
    """The mean log-probability of all tokens of the best completions together."""
    best_N = batch.need("rank_N") == 1
    return (sum_by_completion(prediction.need("logprobs_BT"), batch) * best_N).sum() / (length_N(batch) * best_N).sum()


FIRST, BNPO, DAPO = {"loss_type": "grpo"}, {"loss_type": "bnpo"}, {"loss_type": "dapo"}
FIXED = {"loss_type": "dr_grpo", "max_completion_length": LIMIT + 2}
grpo = functools.partial(GRPO, scale="std", kl_in="loss")  # TRL's defaults
KL, KL_FIXED = grpo(kl=0.05), grpo(kl=0.05, weight="length", length=LIMIT + 2)
DAPO_KL, UNCORRECTED = {**DAPO, "beta": 0.05}, {**DAPO, "beta": 0.05, "use_bias_correction_kl": False}
GSPO = {"importance_sampling_level": "sequence"}
gspo = functools.partial(grpo, kl=0, ratio="completion", clip=0.02, clip_high=0.04)
NARROW = {"epsilon": 0.02, "epsilon_high": 0.04}
SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.8}
WITH_SFT = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}
BEFORE = "TRL bounds the ratio and then clips"
WEIGHTS = {"desirable_weight": 1.25, "undesirable_weight": 0.75}
CASES = (
    Case("SFT", "chats, assistant turns", NLL(), {"assistant_only_loss": True}),
    Case("SFT", "completions, some cut", NLL(), {"completion_only_loss": True}),
    Case("Reward", "all pairs", KWise("all_pairs", centre=0.0)),
    Case("Reward", "Plackett-Luce, K = 2", KWise("plackett_luce", centre=0.0)),
    Case("Reward", "top 1, K = 2", KWise("top_1", centre=0.0)),
    Case("Reward", "margin", KWise("all_pairs", margin=0.5, centre=0.0)),
    Case("Reward", "centred", KWise("all_pairs", centre=0.04), {"center_rewards_coefficient": 0.01}),
    Case("DPO", "sigmoid", DPO(0.1, "sigmoid"), {"loss_type": "sigmoid"}),
    Case("DPO", "Plackett-Luce, K = 2", DPO(0.1, "plackett_luce"), {"loss_type": "sigmoid"}),
    Case("DPO", "smoothed, one pair", DPO(0.1, "sigmoid", 0.2), {"loss_type": "aot", "label_smoothing": 0.2}),
    Case("DPO", "ipo", DPO(0.1, "ipo"), {"loss_type": "ipo"}),
    Case("DPO", "sigmoid + sft", DPO(0.1, "sigmoid", sft=0.3), WITH_SFT, GRADED, pooled_sft, "TRL pools the tokens"),
    Case("KTO", "KL above 0", KTO(0.1, good=1.25, bad=0.75), WEIGHTS, mirrored=True),
    Case("KTO", "KL below 0", KTO(0.1, good=1.25, bad=0.75), WEIGHTS),
    Case("GRPO", 'grpo: weight "completion"', grpo(kl=0, weight="completion"), FIRST),
    Case("GRPO", 'bnpo: weight "token"', grpo(kl=0), BNPO),
    Case("GRPO", 'dapo: weight "token"', grpo(kl=0), DAPO),
    Case("GRPO", 'dr_grpo: weight "length"', grpo(kl=0, weight="length", length=LIMIT + 2), FIXED),
    Case("GRPO", 'scale "none"', grpo(kl=0, scale="none"), {**DAPO, "scale_rewards": "none"}),
    Case("GRPO", "clip_high 0.28", grpo(kl=0, clip_high=0.28), {**DAPO, "epsilon_high": 0.28}),
    Case("GRPO", "grpo, KL", grpo(kl=0.05, weight="completion"), {**FIRST, "beta": 0.05}),
    Case("GRPO", "dapo, KL", KL, DAPO_KL),
    Case("GRPO", "dr_grpo, KL", KL_FIXED, {**FIXED, "beta": 0.05}),
    Case("GRPO", "dapo, KL, temperature 0.7", KL, {**DAPO_KL, "temperature": 0.7}),
    Case("GRPO", "dapo, KL uncorrected", KL, UNCORRECTED, GRADED, plain_k3, "TRL's k3 without the ratio"),
    Case("GRPO", "equal rewards kept", grpo(kl=0, drop_equal=False), DAPO, LEVEL),
    Case("GRPO", "equal rewards dropped", grpo(kl=0), DAPO, LEVEL, every_token, "TRL counts their tokens"),
    Case("GRPO", "missing rewards", grpo(kl=0), DAPO, UNSCORED, every_token, "TRL counts their tokens"),
    Case("GRPO", "gspo", gspo(weight="completion"), {**FIRST, **GSPO, **NARROW}),
    Case("GRPO", 'gspo, weight "token"', gspo(), {**DAPO, **GSPO, **NARROW}),
    Case("GRPO", "cispo", grpo(kl=0, surrogate="cispo"), {"loss_type": "cispo", "epsilon_high": 1.2}),
    Case(
        "GRPO", "cispo, KL", grpo(kl=0.05, surrogate="cispo"), {"loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.05}
    ),
    Case("GRPO", "dual clip", grpo(kl=0, dual_clip=1.25), {**DAPO, "delta": 1.25}),
    Case("GRPO", "dual clip 1.1", grpo(kl=0, dual_clip=1.1), {**DAPO, "delta": 1.1}, GRADED, bounded_ratio, BEFORE),
    Case("GRPO", "entropy", grpo(kl=0, entropy=0.05), {**DAPO, "entropy_coef": 0.05}),
    Case(
        "GRPO",
        'entropy, weight "completion"',
        grpo(kl=0, entropy=0.05, weight="completion"),
        {**FIRST, "entropy_coef": 0.05},
        GRADED,
        pooled_entropy,
        "TRL pools the tokens",
    ),
    Case("CPO", "simpo", SimPO(2.0, 0.8), SIMPO),
    Case("ORPO", "one pair", ORPO(0.3), {"beta": 0.3}),
    Case("ORPO", "", ORPO(0.3), {"beta": 0.3}, GRADED, pooled_nll, "TRL pools the tokens"),
    Case("RLOO", "", RLOO(kl=0), {"beta": 0.0}),
    Case("RLOO", "KL", RLOO(kl=0.05), {"beta": 0.05}),
    Case("RLOO", "missing rewards", RLOO(kl=0.05), {"beta": 0.05}, UNSCORED, every_completion, "TRL counts them"),
    *(Case("GKD", f"beta {beta}", GKD(beta), {"beta": beta, "temperature": 1.0}) for beta in (0.0, 0.5, 1.0)),
    Case("GKD", "beta 0.1, temperature", GKD(0.1, 0.7), {"beta": 0.1, "temperature": 0.7}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny
    with quiet(), double(), tempfile.TemporaryDirectory() as folder:
        world = make_world(folder)
        rows = [compare(world, case) for case in CASES]
    if args.json:
        print(json.dumps([dataclasses.asdict(r) for r in rows]))
    else:
        show(rows)
    sys.exit(any(r.verdict == "different" for r in rows))


def compare(world: World, case: Case) -> Row:
    if case.mirrored:
        world = dataclasses.replace(world, policy=world.reference, reference=world.policy)
    sides = METHODS[case.trainer](world, case)
    ours = own(sides, case.algorithm, lambda algorithm, batch, prediction: algorithm.loss(batch, prediction)[0])
    found, exchanged = differences(ours, sides.theirs), None
    verdict = "equal" if small(found) else "different"
    if case.exchange and verdict == "different":
        left = differences(own(sides, case.algorithm, case.exchange), sides.theirs)
        exchanged = max(x or 0.0 for x in left)
        verdict = "explained" if small(left) else "different"
    method = f"{case.trainer} {case.label}".strip()
    return Row(method, ours.loss, sides.theirs.loss, *found, exchanged, case.why, verdict)


def own(sides: Sides, algorithm: Algorithm, loss_of: LossOf) -> Outcome:
    """Our loss and gradient, as the loop takes them: a total, and one division."""
    models = {"policy": sides.model, "scorer": sides.model}
    if sides.teacher is not None:
        models["teacher"] = sides.teacher
    sides.model.zero_grad(set_to_none=True)
    compare = algorithm.divergence if isinstance(algorithm, Distilling) else None
    prediction = predict(models, reads(algorithm), sides.batch, sides.sampling, compare)
    loss = loss_of(algorithm, sides.batch, prediction)
    (loss.total / loss.count).backward()
    advantages_N = None
    if sides.batch.advantages_BT is not None:
        advantages_N = sum_by_completion(sides.batch.advantages_BT, sides.batch) / length_N(sides.batch).clamp(min=1)
    return Outcome(loss.value, gradient(sides.model), advantages_N)


def gradient(model: PreTrainedModel) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def differences(ours: Outcome, theirs: Outcome) -> tuple[float, float, float | None]:
    """Of loss, gradient and advantages, relative to theirs."""

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max())

    advantages = None
    if ours.advantages_N is not None and theirs.advantages_N is not None:
        advantages = apart(ours.advantages_N, theirs.advantages_N)
    return abs(ours.loss - theirs.loss) / abs(theirs.loss), apart(ours.gradient, theirs.gradient), advantages


def small(found: Sequence[float | None]) -> bool:
    return all(x <= TOLERANCE for x in found if x is not None)  # NaN is not


# One function a method: our batch, and TRL's trainer on the same tokens.


def sft(world: World, case: Case) -> Sides:
    if "assistant_only_loss" in case.options:
        middle = (Message("assistant", "yes, 12"), Message("user", "and 3 hari?"))
        groups = [Group(g.id, (*g.prompt, *middle), (Completion(f"{g.id} дней"),)) for g in world.groups]
        trees = [demonstration(g, world.words, context_of(world.policy)) for g in groups]
        rows = [{"messages": chat((*g.prompt, Message("assistant", g.completions[0].text)))} for g in groups]
    else:
        trees = singles(world)
        pairs = [(list(t.prompt), list(t.completions[0])) for t in trees]
        rows = [{"input_ids": p + c, "completion_mask": [0] * len(p) + [1] * len(c)} for p, c in pairs]
    trainer = build(world, case, rows, world.policy)
    return Sides(copy.deepcopy(world.policy), collate(trees), measured(trainer, list(trainer.train_dataset)))


def reward(world: World, case: Case) -> Sides:
    trees = pairs(world)
    rows: list[dict[str, Any]] = [
        {"chosen_ids": [*t.prompt, *t.completions[0]], "rejected_ids": [*t.prompt, *t.completions[1]]} for t in trees
    ]
    if margin := getattr(case.algorithm, "margin", 0.0):
        ahead = [margin * (s[0] - s[1]) for s in JUDGED]
        rows = [{**row, "margin": m} for row, m in zip(rows, ahead)]
    trainer = build(world, case, rows, world.scorer)
    return Sides(copy.deepcopy(world.scorer), collate(trees), measured(trainer, rows))


def dpo(world: World, case: Case) -> Sides:
    trees = pairs(world)[: 1 if "label_smoothing" in case.options else None]  # aot sorts a batch: one pair is sorted
    rows = [
        {"prompt_ids": list(t.prompt), "chosen_ids": list(t.completions[0]), "rejected_ids": list(t.completions[1])}
        for t in trees
    ]
    texts = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    trainer = build(world, case, texts, world.policy, {"beta": 0.1}, ref_model=copy.deepcopy(world.reference))
    model = copy.deepcopy(world.policy)
    batch = filled(collate(trees), case.algorithm, world.reference, model, 0)
    return Sides(model, batch, measured(trainer, rows))


def unreferenced(world: World, case: Case) -> Sides:
    """SimPO and ORPO. ORPO's prompts have one token, as TRL trains the others; of one pair it can pool no tokens."""
    trees = pairs(world)
    if case.trainer == "ORPO":
        trees = [dataclasses.replace(t, prompt=t.prompt[:1]) for t in trees[: None if case.exchange else 1]]
    rows = [
        {"prompt_input_ids": list(t.prompt), "prompt_attention_mask": [1] * len(t.prompt)}
        | side("chosen", t.prompt, t.completions[0])
        | side("rejected", t.prompt, t.completions[1])
        for t in trees
    ]
    trainer = build(world, case, [{"prompt": "a", "chosen": "b", "rejected": "c"}], world.policy)
    return Sides(copy.deepcopy(world.policy), collate(trees), measured(trainer, rows))


def side(name: str, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[int]]:
    return {
        f"{name}_input_ids": [*prompt, *answer],
        f"{name}_attention_mask": [1] * (len(prompt) + len(answer)),
        f"{name}_labels": [-100] * len(prompt) + [*answer],
    }


def kto(world: World, case: Case) -> Sides:
    trees = mismatched(singles(world), context_of(world.policy))
    rows = [
        {
            "prompt_ids": list(t.prompt),
            "completion_ids": list(t.completions[0]),
            "KL_completion_ids": list(t.completions[1]),
            "label": bool(t.reward and t.reward[0] and t.reward[0] > 0.5),
        }
        for t in trees
    ]
    texts = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c", "label": False}]
    trainer = build(world, case, texts, world.policy, {"beta": 0.1}, ref_model=copy.deepcopy(world.reference))
    model = copy.deepcopy(world.policy)
    batch = filled(collate(trees), case.algorithm, world.reference, model, 0)
    return Sides(model, case.algorithm.credit(batch), measured(trainer, rows))


def online(world: World, case: Case) -> Sides:
    """TRL scores and takes the old log-probabilities with the weights of `old`, and the loss with those of the policy."""
    scores = [x for row in case.rewards for x in row]
    rows = [{"prompt": chat(g.prompt)} for g in world.groups for _ in g.completions]
    sampled = [list(c.tokens or ()) for g in world.groups for c in g.completions]
    options = {"num_generations": len(LENGTHS[0]), "num_iterations": 2, "max_completion_length": LIMIT}
    trainer = build(world, case, rows, world.old, options, reward_funcs=[lambda completions, **_: scores])
    trainer._generate_single_turn = lambda *_: sampled if case.trainer == "RLOO" else (sampled, None)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(rows)
    trainer.model.load_state_dict(world.policy.state_dict())
    theirs = dataclasses.replace(measured(trainer, inputs), advantages_N=inputs["advantages"])

    trees = [dataclasses.replace(t, reward=tuple(r)) for t, r in zip(whole(world), case.rewards)]
    sampling = SamplingParams(temperature=case.options.get("temperature", 1.0))
    needs = case.algorithm.needs
    batch = annotate(collate(trees), needs, world.reference, None, sampling, 0, policy=world.old)
    return Sides(copy.deepcopy(world.policy), case.algorithm.credit(batch), theirs, sampling)


def gkd(world: World, case: Case) -> Sides:
    """The teacher is the reference. TRL's trainer takes its loss at a temperature of 1; its function takes another."""
    trees = singles(world)
    pairs = [(list(t.prompt), list(t.completions[0])) for t in trees]
    rows = [{"prompt": "", "input_ids": p + c, "completion_mask": [0] * len(p) + [1] * len(c)} for p, c in pairs]
    trainer = build(world, case, rows, world.policy, teacher_model=copy.deepcopy(world.reference))
    trainer.generalized_jsd_loss = functools.partial(
        trainer.generalized_jsd_loss, temperature=case.options["temperature"]
    )
    return Sides(copy.deepcopy(world.policy), collate(trees), measured(trainer, rows), teacher=world.reference)


METHODS = {"SFT": sft, "Reward": reward, "DPO": dpo, "KTO": kto, "GRPO": online, "RLOO": online} | {
    "CPO": unreferenced,
    "GKD": gkd,
    "ORPO": unreferenced,
}


def build(
    world: World,
    case: Case,
    rows: list[dict[str, Any]],
    model: PreTrainedModel,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Any:
    """TRL's trainer of the case, on a CPU, with its data and a copy of the model."""
    kind, config = TRAINERS[case.trainer]
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "disable_tqdm": True}
    size = {"per_device_train_batch_size": sum(map(len, LENGTHS))}
    args = config(output_dir=world.folder, **{**plain, **size, **(options or {}), **case.options})
    model = copy.deepcopy(model)
    model.config._name_or_path = world.folder  # where TRL loads the reference from, if it is not given
    data = datasets.Dataset.from_list(rows)
    trainer = kind(model=model, args=args, train_dataset=data, processing_class=world.words, **more)
    trainer.current_gradient_accumulation_steps = 1  # what `Trainer.train` sets, which is not run
    return trainer


def measured(trainer: Any, rows: Any) -> Outcome:
    """TRL's loss and gradient of the rows as its collator lays them out (GRPO's and RLOO's leaves them as they are)."""
    trainer.model.train()
    trainer.model.zero_grad(set_to_none=True)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return Outcome(float(loss), gradient(trainer.model))


# What both sides are given.


def make_world(folder: str) -> World:
    words = train_tokenizer([f"{n} days, {n} jours, {n} hari, {n} дней\n" for n in range(100)], 300)
    policy = moved(create(Architecture("llama", 32, 2, 2, context=128), words, 0), 0.2, 1)
    reference = moved(policy, 0.02, 3)
    reference.save_pretrained(folder)
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float64).eval()
    random = torch.Generator().manual_seed(4)
    groups = []
    for i, (question, lengths) in enumerate(zip(QUESTIONS, LENGTHS)):
        answers = []
        for length in lengths:
            tokens = torch.randint(8, len(words), (length,), generator=random).tolist()
            ended = length < LIMIT
            tokens[-1] = words.eos_token_id if ended else tokens[-1]
            reason = "stop" if ended else "length"
            answers.append(Completion("", tuple(tokens), finish_reason=reason, tokenizer=identity(words)))
        groups.append(Group(str(i), (Message("user", question),), tuple(answers)))
    return World(words, tuple(groups), policy, moved(policy, 0.02, 2), reference, moved(scorer, 0.2, 5), folder)


def moved(model: PreTrainedModel, scale: float, seed: int) -> PreTrainedModel:
    """A copy with noise on every weight, or all tokens would be as likely and all positions alike."""
    model, random = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * scale)
    return model


def chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [dataclasses.asdict(m) for m in messages]


def whole(world: World) -> list[Tree]:
    """The groups, all their completions."""
    return [tree(g, world.words, context_of(world.policy)) for g in world.groups]


def singles(world: World) -> list[Tree]:
    """Two completions of each group, each a tree of its own with its score."""
    return [
        dataclasses.replace(part(t, k, k + 1), reward=(r[k],)) for k in (0, 2) for t, r in zip(whole(world), GRADED)
    ]


JUDGED = ((2.0, -1.0), (2.0, 0.5), (2.0, -0.5), (2.0, -1.5))


def pairs(world: World) -> list[Tree]:
    """The first two completions of each group, the first of them the better one."""
    return [dataclasses.replace(part(t, 0, 2), rank=(1, 2), reward=s) for t, s in zip(whole(world), JUDGED)]


def part(t: Tree, start: int, end: int) -> Tree:
    kept = slice(start, end)
    return dataclasses.replace(t, completions=t.completions[kept], trained=t.trained[kept], ended=t.ended[kept])


@contextlib.contextmanager
def double() -> Iterator[None]:
    """float64 for all real tensors, those included that somebody asks for in float32."""
    narrow, cast = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = narrow, cast
        torch.set_default_dtype(narrow)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No word from the libraries."""
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def show(rows: Sequence[Row]) -> None:
    table = Table("method", "loss", "TRL's", "Δ loss", "Δ gradient", "Δ advantages", "verdict", "Δ after the exchange")
    for r in rows:
        losses = (f"{r.ours:.6f}", f"{r.theirs:.6f}")
        apart = ("" if x is None else f"{x:.0e}" for x in (r.loss, r.gradient, r.advantages))
        after = "" if r.exchanged is None else f"{r.exchanged:.0e}  {r.why}"
        table.add_row(r.method, *losses, *apart, r.verdict, after)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
