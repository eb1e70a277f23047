"""Without a KL penalty there is no reference: it is not asked for, and it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from algorithms_forest import filled, forest

from tropism.algorithms.grpo import GRPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.tensors.batch import Prediction
from tropism.train.rollouts import needed


@pytest.mark.parametrize("algorithm", [GRPO(kl=0), GRPO(kl=0, kl_in="loss"), RLOO(kl=0), PPO(kl=0)], ids=repr)
def test_without_a_penalty_the_reference_is_not_read(algorithm: Any) -> None:
    assert "ref_logprobs_BT" not in needed(algorithm) and {*algorithm.needs} - {*needed(algorithm)}
    batch = filled(forest())
    old = batch.need("old_logprobs_BT")
    prediction = Prediction(old + 0.1, entropy_BT=old * 0, values_BT=batch.values_BT)
    found = []
    for ref in (None, batch.ref_logprobs_BT, old - 7):
        credited = algorithm.credit(batch.replace(ref_logprobs_BT=ref))
        loss, metrics = algorithm.loss(credited, prediction)
        found.append((loss.value, credited.need("advantages_BT").tolist()))
        assert ("kl_to_reference" in metrics) == (ref is not None and isinstance(algorithm, GRPO))
    assert found[0] == found[1] == found[2]


def test_a_penalty_and_its_controller_ask_for_one() -> None:
    for algorithm in (GRPO(), GRPO(kl_in="loss"), RLOO(), PPO(), PPO(kl=0.0, kl_target=3.0)):
        assert needed(algorithm) == algorithm.needs and "ref_logprobs_BT" in algorithm.needs
