"""The translation recipe as it is written: who sees which captions, and that all methods are looked at alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tropism.judges.chrf import ChrF
from tropism.recipe.read import load

FILE = Path(__file__).parents[1] / "recipes" / "rest_translation.toml"


def test_methods_are_looked_at_on_the_same_prompts_and_judged_by_one_reward_model() -> None:
    stages: dict[str, Any] = dict(load(FILE).stages)
    looked = [stages[id].probe for id in ("rest_bc", "rest_gold", "ppo")]
    first = looked[0]
    for probe in looked:
        assert (probe.prompts, probe.judge, probe.truth, probe.sampling) == (
            first.prompts,
            first.judge,
            ChrF(),
            first.sampling,
        )
    best = stages["best_of_n"]
    assert (best.prompts, best.judge, best.truth) == (first.prompts, first.judge, first.truth)
    trained = [stages[id] for id in ("rest_bc", "rest_gold", "ppo")]
    assert len({s.prompts for s in trained}) == len({s.policy for s in trained}) == 1
    assert {s.judge.model for s in trained} == {"reward"} == {first.judge.model}


def test_nothing_is_trained_or_chosen_on_the_test_captions() -> None:
    stages: dict[str, Any] = dict(load(FILE).stages)
    assert "test_2016_flickr" in stages["evaluation"].prompts.source
    for id, stage in stages.items():
        if id != "evaluation":
            assert "test_2016" not in repr(stage)
        for key in ("data", "prompts"):
            if id not in ("evaluation", "best_of_n") and (source := getattr(stage, key, None)):
                assert "train." in source.source and "train." in source.target
    seen, used = stages["samples"].prompts, stages["rest_bc"].prompts
    assert used.offset >= seen.offset + seen.limit  # the reward model does not know the prompts it is asked about
