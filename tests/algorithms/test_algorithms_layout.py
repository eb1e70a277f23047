"""Packing, padding, the prompt's length and what stands beside the trained tokens change nothing, for every algorithm."""

from __future__ import annotations

import pytest
from algorithms_forest import answers, close, draw, filled, forest, run

from tropism.algorithms.apa import APA
from tropism.algorithms.awr import AWR
from tropism.algorithms.dpo import DPO
from tropism.algorithms.gold import GOLD
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.kto import KTO
from tropism.algorithms.nll import NLL
from tropism.algorithms.orpo import ORPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.algorithms.simpo import SimPO
from tropism.algorithms.vmpo import VMPO

METHODS = [
    NLL(),
    PPO(),
    APA(),
    APA(anchor="round"),
    GRPO(),
    GRPO(scale="std", kl_in="loss", weight="completion", drop_equal=False),
    GRPO(weight="length", length=5, scale="std"),
    GRPO(ratio="completion", weight="completion", clip=0.05, entropy=0.5),
    GRPO(surrogate="cispo", ratio="completion"),
    PPO(dual_clip=1.2, entropy=0.5),
    RLOO(),
    RLOO(dual_clip=1.2, entropy=0.5),
    SimPO(),
    ORPO(),
    DPO(sft=0.5),
    DPO(likelihood="sigmoid"),
    DPO(likelihood="ipo"),
    KTO(threshold=0.0),
    AWR(),
    GOLD(),
    VMPO(),
]
LAYOUTS = {
    "a long row": {"row_tokens": 10**6},
    "padded": {"shared": False},
    "rubbish": {"elsewhere": 1e4},
    "a long prompt": {"prompt": 40, "row_tokens": 90},
}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_layout_changes_nothing(method):
    def result(prompt: int = 3, **layout):
        trees = forest(5, prompt)
        flat = [a for group in answers(trees) for a in group]
        new = [[x + 0.4 * e for x, e in zip(a.old, row)] for a, row in zip(flat, draw(trees, 3))]
        loss, *slopes, metrics = run(method, filled(trees, **layout), new, [a.value for a in flat])
        return loss, slopes, {name: ratio.value for name, ratio in metrics.items()}

    loss, slopes, metrics = result()
    assert any(map(any, slopes[0]))
    for layout in LAYOUTS.values():
        other, found, numbers = result(**layout)
        assert other.total.item() == pytest.approx(loss.total.item())
        assert other.count == loss.count
        assert all(map(close, found, slopes))
        assert numbers == pytest.approx(metrics)
