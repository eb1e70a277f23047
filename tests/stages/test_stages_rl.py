"""The rl stage alone, with a judge of one line."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tropism.algorithms.apa import APA
from tropism.algorithms.dpo import DPO
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.nll import NLL
from tropism.algorithms.ppo import PPO
from tropism.algorithms.ppo_lagrangian import PPOLagrangian
from tropism.algorithms.rloo import RLOO
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.judges.verifier import Verifier
from tropism.models.folder import load_lm
from tropism.models.layout import layout
from tropism.stages._mix import Mix
from tropism.stages.rl import RL
from tropism.store.folder import done, read_metrics
from tropism.store.progress import Reporter
from tropism.store.run import Run
from tropism.text.chat import prompt_tokens
from tropism.text.tokenizer import load_tokenizer
from tropism.train.optim import Optim
from tropism.train.shaping import Shaping
from tropism.types import Completion, Group, Judgment, SamplingParams, Step

ASKED = Phrasebook("prompts", count=16)
PLAIN = Shaping(missing_stop=0.0)


def letters(completion: str) -> float:
    """More letters, more reward."""
    return min(sum("a" <= sign <= "z" for sign in completion) / 8, 2.0)


def rl(policy: str, **settings: Any) -> RL:
    small = {
        "prompts": ASKED,
        "judge": Verifier(letters),
        "algorithm": PPO(),
        "shaping": PLAIN,
        "rounds": 3,
        "prompts_per_round": 8,
        "sampling": SamplingParams(n=4, max_tokens=8),
        "optim": Optim(lr=1e-2, schedule="constant", warmup=0.0),
    }
    return RL(policy=policy, **{**small, **settings})


def facts(out: Path) -> dict[str, Any]:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_the_reward_rises(run: Run, model_folder: str) -> None:
    out = run(rl(model_folder, rounds=15, truth=Verifier(lambda completion: float(len(completion)))))
    rounds = read_metrics(out.parent)
    assert [r["round"] for r in rounds] == list(range(1, 16))
    first, last = rounds[0]["reward"], sum(r["reward"] for r in rounds[-3:]) / 3
    assert last > first + 0.5
    assert rounds[0]["kl"] == pytest.approx(0.0, abs=1e-4) and rounds[-1]["kl"] > 0.05  # nats, to where it began
    wanted = {
        "stop_rate",
        "tokens",
        "not_scored",
        "explained_variance",
        "clip_fraction",
        "entropy",
        "kl_to_old",
        "truth",
    }
    assert wanted <= rounds[0].keys() and all(r["truth"] > 0 for r in rounds)
    assert facts(out)["rounds"] == 15 and facts(out)["completions"] == 15 * 8 * 4
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (model_folder, out))
    assert any(not torch.equal(before[k], after[k]) for k in before)


@dataclass(frozen=True)
class Taste:
    """Only orders: the more letters the better."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        rows = [[letters(c.text) for c in g.completions] for g in groups]
        return [Judgment("taste", tuple(-float(sum(b > a for b in row)) for a in row), "ordinal") for row in rows]


def test_a_ranking_of_its_own_samples_is_enough(run: Run, model_folder: str) -> None:
    """Online DPO: the truth rises by a judge that says nothing but an order."""
    stage = rl(model_folder, judge=Taste(), truth=Verifier(letters), algorithm=DPO(beta=0.1), rounds=15)
    rounds = read_metrics(run(stage).parent)
    assert statistics.fmean(r["truth"] for r in rounds[-3:]) > rounds[0]["truth"] + 0.5
    assert rounds[0]["kl"] == pytest.approx(0.0, abs=1e-4) and rounds[-1]["kl"] > 0.05
    assert {"pair_accuracy", "margin", "best_logprob"} <= rounds[0].keys() and "entropy" not in rounds[0]


def test_shaping_pays_what_it_says_in_a_ranking_too(run: Run, model_folder: str) -> None:
    """All answers score alike, so that only the price of not stopping makes a pair of two."""
    ordered = []
    for missing_stop in (0.0, 1.0):
        settings = {"judge": Verifier(lambda: 0.0), "shaping": Shaping(missing_stop=missing_stop)}
        (line,) = read_metrics(run(rl(model_folder, algorithm=DPO(), rounds=1, **settings), "rl").parent)
        assert 0 < line["stop_rate"] < 1
        ordered.append("pair_accuracy" in line)
    assert ordered == [False, True]


def test_documents_that_are_mixed_in_are_learned(run: Run, model_folder: str) -> None:
    """Their loss falls only where they are in the update; what goes through the model for them is counted."""
    documents = Phrasebook("documents", count=4)
    losses, spent = [], []
    for coefficient in (1e-6, 4.0):
        mix = Mix(documents, coefficient, tokens=64, row_tokens=32)
        out = run(rl(model_folder, algorithm=RLOO(), rounds=6, mix=mix), "rl")
        losses.append([r["mixed_loss"] for r in read_metrics(out.parent)])
        spent.append(facts(out)["tokens_spent_on_mix"])
        assert 6 * 64 * 3 <= spent[-1] < facts(out)["tokens_spent"]
    assert losses[0][0] == losses[1][0] and spent[0] == spent[1]
    assert losses[1][-1] < losses[0][-1] - 0.3


def test_while_the_policy_rests_nothing_is_mixed_in(run: Run, model_folder: str) -> None:
    mix = Mix(Phrasebook("documents", count=4), tokens=64, row_tokens=32)
    out = run(rl(model_folder, rounds=2, critic_warmup=1, mix=mix))
    assert ["mixed_loss" in r for r in read_metrics(out.parent)] == [False, True]


def first_letters(completion: str) -> Judgment:
    """Nothing for the answer as a whole; 1 at each of its first eight characters that is a letter."""
    steps = tuple(Step(i, 1.0) for i, sign in enumerate(completion[:8], 1) if "a" <= sign <= "z")
    return Judgment("", (0.0,), steps=(steps,))


@pytest.mark.parametrize("algorithm", [PPO(), GRPO(), RLOO()], ids=lambda a: type(a).__name__)
def test_rewards_for_steps_alone_are_learned(run: Run, model_folder: str, algorithm: Any) -> None:
    out = run(rl(model_folder, judge=Verifier(first_letters), truth=Verifier(letters), algorithm=algorithm, rounds=12))
    rounds = read_metrics(out.parent)
    assert all(r["reward"] == 0.0 for r in rounds)
    assert statistics.fmean(r["step_reward"] for r in rounds[-3:]) > rounds[0]["step_reward"] + 1
    assert statistics.fmean(r["truth"] for r in rounds[-3:]) > rounds[0]["truth"] + 0.2


def test_while_the_critic_warms_up_the_policy_rests(run: Run, model_folder: str) -> None:
    out = run(rl(model_folder, critic_warmup=3))
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (model_folder, out))
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(r["kl"] == pytest.approx(0.0, abs=1e-4) for r in read_metrics(out.parent))
    losses = [r["value_loss"] for r in read_metrics(out.parent)]
    assert losses[0] > 0 and len(set(losses)) == 3


def test_the_adaptive_kl_coefficient_follows_its_rule(run: Run, model_folder: str) -> None:
    algorithm = PPO(kl=0.05, kl_target=0.5, kl_horizon=100)
    out = run(rl(model_folder, algorithm=algorithm, rounds=5))
    coefficient = 0.05
    for r in read_metrics(
        out.parent
    ):  # arXiv 1909.08593, section 2.2: n completions of a horizon, error clipped to 0.2
        coefficient *= 1 + min(max(r["kl"] / 0.5 - 1, -0.2), 0.2) * 32 / 100
        assert r["kl_coefficient"] == pytest.approx(coefficient, rel=1e-9)
    assert coefficient != 0.05


def costly(completion: str) -> float:
    """More vowels, more cost."""
    return float(sum(sign in "aeiou" for sign in completion))


LIMITED = PPOLagrangian(limit=0.2, multiplier=0.5, multiplier_lr=0.3)


def test_the_weight_of_a_cost_follows_its_rule(run: Run, model_folder: str) -> None:
    """Each round is trained on reward - λ cost, λ as the round before has left it; the two judges are seen apart."""
    out = run(rl(model_folder, algorithm=LIMITED, cost=Verifier(costly), truth=Verifier(costly), rounds=4))
    multiplier = 0.5
    for r in read_metrics(out.parent):
        assert r["cost"] == pytest.approx(r["truth"]) and r["cost"] > 0
        assert r["objective"] == pytest.approx(r["reward"] - multiplier * r["cost"], abs=1e-6)
        multiplier = max(0.0, multiplier + 0.3 * (r["cost"] - 0.2))
        assert r["multiplier"] == pytest.approx(multiplier, rel=1e-9)
    resting = read_metrics(
        run(rl(model_folder, algorithm=LIMITED, cost=Verifier(costly), critic_warmup=2, rounds=2), "warm").parent
    )
    assert not any("multiplier" in r for r in resting)  # λ rests with the policy


@pytest.mark.long
def test_a_cost_lowers_the_cost(run: Run, model_folder: str) -> None:
    """The same reward, with a limit that is far below what the policy spends."""
    free = read_metrics(run(rl(model_folder, truth=Verifier(costly), rounds=12), "free").parent)
    limited = PPOLagrangian(limit=0.0, multiplier=3.0)
    kept = read_metrics(run(rl(model_folder, algorithm=limited, cost=Verifier(costly), rounds=12), "kept").parent)
    assert statistics.fmean(r["cost"] for r in kept[-3:]) < 0.5 * statistics.fmean(r["truth"] for r in free[-3:])


CALLS: list[int] = []  # what is left of them


@dataclass(frozen=True)
class Stops:
    """The costs; the process ends at the call after the last."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        if not CALLS:
            raise KeyboardInterrupt
        CALLS.pop()
        return [Judgment("stops", tuple(costly(c.text) for c in g.completions)) for g in groups]


def test_a_continued_run_weighs_costs_as_an_uninterrupted_one(tmp_path: Path, model_folder: str) -> None:
    stage, found = rl(model_folder, algorithm=LIMITED, cost=Stops(), rounds=3), {}
    for folder, calls in (("whole", (3,)), ("cut", (2, 1))):
        for left in calls:
            CALLS[:] = [1] * left
            with (
                contextlib.suppress(KeyboardInterrupt),
                Run(tmp_path / folder, checkpoint_s=0, reporter=Reporter(quiet=True)) as run,
            ):
                found[folder] = run(stage, "rl")
    assert not CALLS and weights(found["cut"]) == weights(found["whole"])
    assert read_metrics(found["cut"].parent)[-1] == read_metrics(found["whole"].parent)[-1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"algorithm": LIMITED}, "rl.algorithm PPOLagrangian limits costs: name the judge of them as rl.cost"),
        ({"cost": Verifier(costly)}, "rl.algorithm PPO reads no costs: leave rl.cost out"),
    ],
)
def test_a_limit_and_a_judge_of_costs_go_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(TropismError, match=says):
        rl("nowhere", **settings)


def test_epochs_and_minibatches_are_updates(run: Run, model_folder: str) -> None:
    whole = run(rl(model_folder, rounds=1), "one")
    more = run(rl(model_folder, rounds=1, epochs=2, minibatches=2), "more")
    first, second = (read_metrics(out.parent)[0] for out in (whole, more))
    assert first["kl_to_old"] == pytest.approx(0.0, abs=1e-9)  # the only update is looked at before it is made
    assert second["kl_to_old"] > 1e-6


@dataclass(frozen=True)
class WholeGroups(RLOO):
    """Fails on an update that sees a part of a group."""

    def loss(self, batch: Any, prediction: Any) -> Any:
        assert torch.bincount(batch.group_N).tolist() == [4] * len(batch.ids)
        return super().loss(batch, prediction)


def test_minibatches_part_no_group(run: Run, model_folder: str) -> None:
    run(rl(model_folder, rounds=1, algorithm=WholeGroups(), minibatches=3, layout="padded"))


def test_both_layouts_train_alike(run: Run, model_folder: str) -> None:
    shared, padded = (run(rl(model_folder, rounds=1, layout=how), "rl").parent for how in ("shared", "padded"))
    one, other = read_metrics(shared)[0], read_metrics(padded)[0]
    for name in ("reward", "loss", "kl", "entropy", "value_loss", "policy_gradient_norm", "critic_gradient_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)


def test_a_completion_without_a_score_leaves_the_batch(run: Run, model_folder: str) -> None:
    judge = Verifier(lambda completion: None if len(completion) % 2 else letters(completion))
    out = run(rl(model_folder, judge=judge, rounds=2))
    assert all(0 < r["not_scored"] < 1 and r["loss"] == r["loss"] for r in read_metrics(out.parent))


@dataclass(frozen=True)
class Unsure:
    """Scores every other length only; what it cannot score it calls `missing`."""

    missing: str  # a recipe's number is finite

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        def score(text: str) -> float | None:
            return letters(text) if len(text) % 2 == 0 else float(self.missing) if self.missing else None

        return [Judgment("unsure", tuple(score(c.text) for c in g.completions)) for g in groups]


@pytest.mark.parametrize("algorithm", [PPO(), APA(), GRPO(), RLOO()], ids=lambda a: type(a).__name__)
def test_nan_is_no_score_and_no_score_is_not_zero(run: Run, model_folder: str, algorithm: Any) -> None:
    outs = [
        run(rl(model_folder, judge=Unsure(missing), algorithm=algorithm, rounds=2), "rl")
        for missing in ("", "nan", "0")
    ]
    assert weights(outs[0]) == weights(outs[1]) != weights(outs[2])
    seen = [[r["not_scored"] for r in read_metrics(out.parent)] for out in outs]
    assert seen[0] == seen[1] and min(seen[0]) > 0.2 and seen[2] == [0.0, 0.0]
    means = [read_metrics(out.parent)[0]["reward"] for out in outs]
    assert means[0] == means[1] > means[2]


def test_shaping_pays_what_it_says(run: Run, model_folder: str) -> None:
    """The logged reward is the judge's own; the update is that of the shaped one."""
    shaped = [Shaping(missing_stop=m) for m in (0.0, 1.0)] + [Shaping(True, missing_stop=0.0)]
    outs = [run(rl(model_folder, shaping=s, rounds=2), "rl") for s in shaped]
    assert len({weights(out) for out in outs}) == 3
    assert len({read_metrics(out.parent)[0]["reward"] for out in outs}) == 1


@dataclass(frozen=True)
class Plain(NLL):
    """It imitates what it sampled, and needs nothing for it."""


SEEN: list[list[Group]] = []


@dataclass(frozen=True)
class Witness:
    """Scores by the place, or with `flat` all completions of the first so many prompts alike; notes what it saw. It
    says that a model read `read` tokens of each group, and breaks off when it is called for the `last` time."""

    flat: int = 0
    low: float = 0.0
    read: int = 0
    last: int = 0

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        if self.last and len(SEEN) == self.last:
            raise KeyboardInterrupt
        scores = [tuple(self._score(g, i) for i in range(len(g.completions))) for g in groups]
        judged = [Judgment("witness", s, tokens=self.read) for s in scores]
        SEEN.append([replace(g, judgments=(j,)) for g, j in zip(groups, judged)])
        return judged

    def _score(self, group: Group, i: int) -> float:
        return 1.0 if int(group.id.split("/")[3]) < self.flat else self.low + i


def calls(run: Run, stage: RL) -> tuple[Path, list[list[Group]]]:
    """The result of a stage with a Witness, and the groups that it was shown, call by call."""
    SEEN.clear()
    return run(stage, "rl"), list(SEEN)


def generated(groups: Iterable[Group]) -> int:
    return sum(len(c.tokens or ()) for g in groups for c in g.completions)


def size(groups: Iterable[Group], model_folder: str) -> int:
    """Tokens of the groups, a prompt once a group."""
    words, groups = load_tokenizer(model_folder), list(groups)
    return sum(len(prompt_tokens(words, g.prompt)) for g in groups) + generated(groups)


@pytest.mark.parametrize(
    ("algorithm", "filling", "updating", "layout"),
    [
        (RLOO(), 1, 3, "shared"),  # the reference; the policy forward, and backward at twice the price
        (RLOO(), 1, 3, "padded"),  # each prompt once, however the batch was laid out
        (PPO(), 2, 6, "auto"),  # the reference and the critic; policy and critic, forward and backward
        (Plain(), 0, 3, "auto"),
    ],
    ids=str,
)
def test_tokens_of_every_pass_are_counted(
    run: Run, model_folder: str, algorithm: Any, filling: int, updating: int, layout: Any
) -> None:
    """Sampled, read by the judge, filled, and in each of two epochs trained on. The truth only looks."""
    judges = {"judge": Witness(read=7), "truth": Witness(read=1000)}
    out, seen = calls(run, rl(model_folder, algorithm=algorithm, epochs=2, minibatches=2, layout=layout, **judges))
    assert layout in ("auto", *(r["layout"] for r in read_metrics(out.parent)))
    every = [g for groups in seen[::2] for g in groups]
    assert [len(groups) for groups in seen] == [8] * 6
    tokens = size(every, model_folder)
    assert facts(out) == {
        "rounds": 3,
        "completions": 96,
        "tokens_generated": generated(every),
        "tokens_trained": 2 * tokens,
        "tokens_spent": tokens * (1 + filling + 2 * updating) + 7 * len(every),
    }


def test_a_budget_ends_the_stage_after_the_round_that_spends_it(run: Run, model_folder: str) -> None:
    settings = {"judge": Witness(), "algorithm": RLOO(), "rounds": 6}
    _, seen = calls(run, rl(model_folder, **settings))
    total = list(accumulate(5 * size(groups, model_folder) for groups in seen))
    for budget, rounds in ((1, 1), (total[1], 2), (total[1] + 1, 3), (total[5] + 1, 6), (0, 6)):
        out, _ = calls(run, rl(model_folder, budget=budget, **settings))
        assert facts(out)["rounds"] == rounds == len(read_metrics(out.parent))
        assert facts(out)["tokens_spent"] == total[rounds - 1]


def test_equal_groups_are_refilled(run: Run, model_folder: str) -> None:
    """Of sixteen prompts six teach nothing. Each call asks for as many as the round still lacks."""
    out, seen = calls(run, rl(model_folder, judge=Witness(flat=6), algorithm=GRPO(), rounds=4, refills=2))
    lacking, rounds, kept = 8, [0], []
    for groups in seen:
        assert len(groups) == lacking
        rounds[-1] += 1
        teach = [g for g in groups if len(set(g.judgments[0].scores)) > 1]
        kept += teach
        lacking -= len(teach)
        if lacking == 0 or rounds[-1] == 3:
            lacking = 8
            rounds.append(0)
    assert len(rounds) == 5 and rounds.pop() == 0 and max(rounds) > 1
    every = [g for groups in seen for g in groups]
    assert facts(out) == {
        "rounds": 4,
        "completions": 4 * len(every),
        "tokens_generated": generated(every),
        "tokens_trained": size(kept, model_folder),
        "tokens_spent": 2 * size(every, model_folder) + 3 * size(kept, model_folder),
    }


def test_the_curves_are_of_all_that_was_sampled(run: Run, model_folder: str) -> None:
    """Six of sixteen prompts teach nothing and score 1; the others score 0 to 3. Their reward is the second figure."""
    stage = rl(model_folder, judge=Witness(flat=6), truth=Verifier(length), algorithm=GRPO(), rounds=4, refills=2)
    out, seen = calls(run, stage)
    lines = read_metrics(out.parent)
    rounds: list[list[Group]] = [[]]
    for groups in seen:
        if sum(teach(g) for g in rounds[-1]) == 8 or (len(rounds[-1]) and len(groups) == 8):
            rounds.append([])
        rounds[-1] += groups
    assert len(rounds) == len(lines) == 4 and max(map(len, rounds)) > 8
    for line, groups in zip(lines, rounds):
        scores = [s or 0.0 for g in groups for s in g.judgments[0].scores]
        answers = [c for g in groups for c in g.completions]
        assert line["reward"] == pytest.approx(statistics.fmean(scores))
        assert line["truth"] == pytest.approx(statistics.fmean(length(c.text) for c in answers))
        assert line["stop_rate"] == pytest.approx(statistics.fmean(c.finish_reason == "stop" for c in answers))
        assert line["teaching"] == pytest.approx(statistics.fmean(map(teach, groups))) and line["teaching"] < 1
        assert line["teaching_reward"] == 1.5 > line["reward"]
    reference, words = load_lm(model_folder), load_tokenizer(model_folder)
    ratios = [sum(c.logprobs or ()) - logprob(reference, words, g, c) for g in rounds[3] for c in g.completions]
    assert lines[3]["kl"] == pytest.approx(statistics.fmean(ratios), abs=1e-4)
    taught = [r for r, g in zip(ratios, (g for g in rounds[3] for _ in g.completions)) if teach(g)]
    assert abs(statistics.fmean(ratios) - statistics.fmean(taught)) > 1e-3


def length(completion: str) -> float:
    return float(len(completion))


def teach(group: Group) -> bool:
    return len(set(group.judgments[0].scores)) > 1


def logprob(model: Any, words: Any, group: Group, completion: Completion) -> float:
    """Of a completion, by a forward pass of one row."""
    prompt, tokens = prompt_tokens(words, group.prompt), list(completion.tokens or ())
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0].double()
    return float(logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None]).sum())


def test_the_running_scale_is_that_of_all_scores(tmp_path: Path, model_folder: str) -> None:
    """Of what teaches nothing as well; in a checkpoint after two rounds and more."""
    SEEN.clear()
    stage = rl(model_folder, judge=Witness(flat=6, last=7), algorithm=GRPO(), shaping=Shaping(True), rounds=9)
    with Run(tmp_path, checkpoint_s=0) as run, pytest.raises(KeyboardInterrupt):
        run(stage)
    newest = max(tmp_path.glob("rl-*/checkpoints/*"))
    more = torch.load(newest / "learner.pt", weights_only=True)["more"]
    scores = [s or 0.0 for groups in SEEN for g in groups for s in g.judgments[0].scores]
    scores = scores[: more["completions"]]
    assert more["round"] >= 2 and any(not teach(g) for groups in SEEN[:-1] for g in groups)
    assert more["seen"]["count"] == len(scores) == more["completions"]
    assert more["seen"]["mean"] == pytest.approx(statistics.fmean(scores))
    assert more["seen"]["squares"] == pytest.approx(len(scores) * statistics.pvariance(scores))


def test_nothing_that_the_truth_can_tell_is_no_key(run: Run, model_folder: str) -> None:
    out = run(rl(model_folder, truth=Verifier(lambda completion: None)))
    assert all("truth" not in line for line in read_metrics(out.parent))


@dataclass
class Bar:
    """A bar that notes how many tokens it was told of."""

    rated: list[float | None] = field(default_factory=list)

    def advance(self, n: float, rated: float | None = None) -> None:
        self.rated.append(rated)

    def show(self, **numbers: float) -> None:
        pass


def test_the_bar_is_told_the_tokens_of_a_round(tmp_path: Path, model_folder: str) -> None:
    SEEN.clear()
    bar, reporter = Bar(), Reporter(quiet=True)
    reporter.progress = lambda *_: contextlib.nullcontext(bar)  # type: ignore[method-assign,assignment]
    with Run(tmp_path, reporter=reporter) as run:
        run(rl(model_folder, judge=Witness(), algorithm=RLOO()))
    assert bar.rated == [0, *map(generated, SEEN)] and min(bar.rated[1:]) > 0  # type: ignore[type-var]


@pytest.mark.parametrize(("flat", "times"), [(0, 1), (2, 3)])
def test_a_round_is_laid_out_once_unless_it_has_groups_that_teach_nothing(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch, flat: int, times: int
) -> None:
    """With such groups a batch of all is judged, and those that teach and the others each get one of their own."""
    laid: list[int] = []
    monkeypatch.setattr(
        "tropism.stages.rl.layout", lambda trees, *a, **k: laid.append(len(trees)) or layout(trees, *a, **k)
    )
    few = {"prompts": Phrasebook("prompts", count=4), "prompts_per_round": 4, "rounds": 1, "refills": 0}
    calls(run, rl(model_folder, judge=Witness(flat=flat), algorithm=GRPO(), **few))
    assert len(laid) == times and laid[0] == 4


@pytest.mark.parametrize("refills", [0, 1, 2])
def test_refills_are_bounded(run: Run, model_folder: str, refills: int) -> None:
    """Where nothing teaches, nothing is learned, and the stage goes on."""
    few = {"prompts": Phrasebook("prompts", count=4), "prompts_per_round": 4}
    out, seen = calls(run, rl(model_folder, judge=Witness(flat=4), algorithm=GRPO(kl=0.0), refills=refills, **few))
    assert [len(groups) for groups in seen] == [4] * 3 * (1 + refills)
    every = [c.tokens for groups in seen for g in groups for c in g.completions]
    assert len(set(every)) > 0.95 * len(every)  # a prompt that is asked again gets samples of its own
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (model_folder, out))
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_what_teaches_is_asked_of_the_shaped_reward(run: Run, model_folder: str) -> None:
    """Scores that differ may be clipped to the same reward; equal ones differ once answers that never stop pay."""
    few = {"prompts": Phrasebook("prompts", count=4), "prompts_per_round": 4, "rounds": 1, "refills": 1}
    clipped = Shaping(clip=1e-6, missing_stop=0.0)
    _, seen = calls(run, rl(model_folder, judge=Witness(low=1.0), algorithm=GRPO(), shaping=clipped, **few))
    assert [len(groups) for groups in seen] == [4, 4]
    several = SamplingParams(n=32, max_tokens=8)
    _, seen = calls(
        run, rl(model_folder, judge=Witness(flat=4), algorithm=GRPO(), shaping=Shaping(), sampling=several, **few)
    )
    ends = [{c.finish_reason for c in g.completions} for groups in seen for g in groups]
    assert len(seen[0]) == 4 and any(len(e) > 1 for e in ends)
    differ = [len(e) > 1 for e in ends[:4]]
    assert [len(groups) for groups in seen[1:]] == ([differ.count(False)] if not all(differ) else [])


@pytest.mark.parametrize("algorithm", [GRPO(drop_equal=False), RLOO(), PPO()], ids=lambda a: type(a).__name__)
def test_who_learns_from_all_groups_is_not_refilled(run: Run, model_folder: str, algorithm: Any) -> None:
    out, seen = calls(run, rl(model_folder, judge=Witness(flat=6), algorithm=algorithm))
    assert [len(groups) for groups in seen] == [8, 8, 8]
    assert facts(out)["tokens_trained"] == size((g for groups in seen for g in groups), model_folder)


def test_a_judge_that_scores_nothing_is_refused(run: Run, model_folder: str) -> None:
    with pytest.raises(TropismError, match="the judge scored no completion of round 1: name a judge that can"):
        run(rl(model_folder, judge=Verifier(lambda completion: None)))


def test_an_infinite_reward_names_judge_group_and_completion(run: Run, model_folder: str) -> None:
    calls = []

    def late(completion: str) -> float:
        calls.append(completion)
        return float("inf") if len(calls) == 2 * 32 + 2 else letters(completion)  # the second of the third round

    said = r"^the judge verifier gave inf to completion 2 of the group phrasebook/prompts/0/\d+: fix it"
    with pytest.raises(TropismError, match=said):
        run(rl(model_folder, judge=Verifier(late)), "ppo")


def test_greedy_sampling_is_refused() -> None:
    with pytest.raises(TropismError, match="temperature = 0 is greedy, so all samples are equal"):
        rl("x/y", sampling=SamplingParams(temperature=0.0))


def test_a_prompt_that_leaves_no_room_is_named(run: Run, model_folder: str) -> None:
    with pytest.raises(
        TropismError, match=r"the prompt of group prompts:2 has \d+ tokens, and with sampling.max_tokens"
    ):
        run(rl(model_folder, prompts=Prompts(prompts=("a", "x" * 400))))


@dataclass(frozen=True)
class Careless:
    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return [Judgment("careless", (1.0,) * len(g.completions)) for g in groups[1:]]


@pytest.mark.parametrize("role", ["judge", "truth"])
def test_a_judge_that_forgets_groups_is_refused(run: Run, model_folder: str, role: str) -> None:
    with pytest.raises(TropismError, match="the judge Careless did not give each of 8 groups a judgment"):
        run(rl(model_folder, **{role: Careless()}))


@pytest.mark.parametrize("measured", [False, True])
def test_without_a_penalty_no_reference_is_kept_unless_the_truth_is_plotted_over_the_kl(
    run: Run, model_folder: str, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    usual = RL.freeze_lm
    monkeypatch.setattr(RL, "freeze_lm", lambda self, path: kept.append(path) or usual(self, path))
    truth = Verifier(letters) if measured else None
    rounds = read_metrics(run(rl(model_folder, algorithm=GRPO(kl=0.0), truth=truth, rounds=2)).parent)
    assert len(kept) == measured and all(("kl" in r) == measured for r in rounds)
