"""Which algorithm goes with which stage, as README's table says; what does not is refused before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

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
from tropism.algorithms.rloo import RLOO
from tropism.algorithms.simpo import SimPO
from tropism.algorithms.vmpo import VMPO
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.judges.verifier import Verifier
from tropism.stages.distill import Distill
from tropism.stages.offline import Offline
from tropism.stages.rest import ReST
from tropism.stages.reward import Reward
from tropism.stages.rl import RL
from tropism.types import SamplingParams


def length(completion: str) -> float:
    return float(len(completion))


def rl(algorithm: Any, n: int = 4) -> RL:
    asked = Phrasebook("prompts", count=2)
    return RL("x/y", asked, Verifier(length), algorithm=algorithm, sampling=SamplingParams(n=n))


def rest(algorithm: Any, n: int = 4) -> ReST:
    asked, sampling = Phrasebook("prompts", count=2), SamplingParams(n=n)
    return ReST("x/y", asked, Verifier(length), algorithm=algorithm, by="quantile", sampling=sampling)


def offline(algorithm: Any) -> Offline:
    return Offline("x/y", "x/y", "judge", algorithm=algorithm)


def reward(algorithm: Any) -> Reward:
    return Reward("x/y", "x/y", "judge", algorithm=algorithm)


def distill(algorithm: Any) -> Distill:
    return Distill("x/y", "x/z", Phrasebook("prompts", count=2), algorithm=algorithm)


SCORED = "which rl does not have: use one that learns from scores"
REFUSED = [
    (rl, KTO(), f"needs answers to other prompts, {SCORED}"),
    (rl, KWise(), f"needs the predictions of a scorer, {SCORED}"),
    (
        offline,
        PPO(),
        "needs a critic, which offline does not have: use one that learns from judged groups, such as dpo",
    ),
    (offline, APA(), "needs a critic, which offline does not have"),
    (offline, KWise(), "needs the predictions of a scorer, which offline does not have"),
    (rest, PPO(), "needs a critic, which rest does not have: use one that learns from kept samples, such as nll"),
    (rest, KTO(), "needs answers to other prompts, which rest does not have"),
    (rest, GRPO(), "needs all completions of a prompt together, which rest does not have"),
    (rest, RLOO(), "needs all completions of a prompt together, which rest does not have"),
    (rest, KWise(), "needs the predictions of a scorer"),
    (rl, GKD(), f"needs a teacher, {SCORED}"),
    (offline, GKD(), "needs a teacher, which offline does not have"),
    (rest, GKD(), "needs a teacher, which rest does not have"),
    (distill, GRPO(), "needs scores, which distill does not have: use one that compares the policy with a teacher"),
    (distill, NLL(), "asks for no teacher: use one that compares the policy with a teacher, such as gkd"),
    (distill, DPO(), "needs rankings, which distill does not have"),
    (reward, NLL(), "needs the predictions of a policy, which reward does not have: use one that ranks, such as kwise"),
    (reward, SimPO(), "needs the predictions of a policy, which reward does not have"),
    (reward, DPO(), "needs a reference, which reward does not have"),
    (reward, PPO(), "needs the log-probabilities of the policy that sampled, which reward does not have"),
]
TAKEN = {
    rl: (
        *(PPO(), PPO(entropy=0.1), APA(), GRPO(), GRPO(ratio="completion"), GRPO(surrogate="cispo"), RLOO()),
        *(RLOO(dual_clip=3.0), DPO(), SimPO(), ORPO()),
    ),
    offline: (DPO(), SimPO(), ORPO(), KTO(), GRPO(), RLOO(), AWR(), VMPO(), NLL(), GOLD()),
    rest: (NLL(), GOLD(), AWR(), VMPO(), DPO(), SimPO(), ORPO()),
    distill: (GKD(), GKD(beta=0.0)),
    reward: (KWise(), KWise("all_pairs"), KWise("top_1")),
}


@pytest.mark.parametrize(("stage", "algorithm", "said"), REFUSED)
def test_what_a_stage_cannot_give_is_said_in_words(stage: Any, algorithm: Any, said: str) -> None:
    with pytest.raises(TropismError, match=f"^{stage.__name__}.algorithm {type(algorithm).__name__} {said}"):
        stage(algorithm)


@pytest.mark.parametrize("stage", TAKEN, ids=lambda s: s.__name__)
def test_what_a_stage_can_give_is_taken(stage: Any) -> None:
    assert [stage(algorithm).algorithm for algorithm in TAKEN[stage]] == [*TAKEN[stage]]


@dataclass(frozen=True)
class Own(NLL):
    """From outside the package; it says that it compares."""

    needs = ("reward_N", "others")


@pytest.mark.parametrize(
    ("stage", "algorithm"),
    [(rl, GRPO()), (rl, RLOO()), (rl, AWR()), (rl, DPO()), (rl, SimPO()), (rl, Own()), (rest, AWR()), (rest, ORPO())],
)
def test_one_completion_a_prompt_leaves_nothing_to_compare_with(stage: Any, algorithm: Any) -> None:
    said = rf"^{stage.__name__}.sampling.n = 1 leaves {type(algorithm).__name__} nothing to compare a completion with"
    with pytest.raises(TropismError, match=said):
        stage(algorithm, n=1)
    stage(algorithm, n=2)


@pytest.mark.parametrize(("stage", "algorithm"), [(rl, PPO()), (rl, APA()), (rest, NLL()), (rest, GOLD())])
def test_who_compares_nothing_takes_one(stage: Any, algorithm: Any) -> None:
    assert stage(algorithm, n=1).sampling.n == 1
