"""One K-wise update of a reward model against TRL's RewardTrainer on all pairs of the same groups, in turns in one process.

    python bench/reward_step.py [--shape 4 64 7 64]… [--lengths varied uniform] [--model FOLDER] [--steps 3] [--json]

It needs the extra `bench` (TRL 1.16).

A shape is groups, tokens of a prompt, K, tokens of an answer. Ours is the update of the `reward` stage: a prompt and its K
answers are read once, and the loss is the mean of -log sigmoid(s_w - s_l) over the pairs of each group (`likelihood =
"all_pairs"`, as TRL's; Plackett-Luce takes the same time). TRL reads the two texts of each of the K (K - 1) / 2 pairs. Its
settings: pairs in order of their length, in one pass or in several (`--pairs`), no gradient checkpointing.
`stage_update.py` says what the lengths are and what else both have in common.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import beside_trl as beside
import datasets
import stage_update
import torch
import trl
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from tropism.algorithms.kwise import KWise
from tropism.models.folder import load_scalar, save
from tropism.stages.reward import Reward
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner

NAMES = ("GROUPS", "PROMPT", "K", "ANSWER")
SHAPES = ((4, 64, 7, 64),)


def drawn(shape: Sequence[int], tokens: stage_update.Tokens, length: Callable[[int], int]) -> list[Tree]:
    groups, prompt, k, answer = shape
    return [
        stage_update.group(g, tokens(length(prompt)), [tokens(length(answer)) for _ in range(k)]) for g in range(groups)
    ]


def pairs(trees: Sequence[Tree]) -> list[dict[str, Any]]:
    """All pairs of each group, the shortest first."""
    found = [
        {"chosen_ids": [*t.prompt, *better], "rejected_ids": [*t.prompt, *worse]}
        for t in trees
        for better, worse in itertools.combinations(t.completions, 2)
    ]
    return sorted(found, key=lambda pair: max(map(len, pair.values())))


def measured(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, trees: list[Tree], args: argparse.Namespace
) -> Iterator[stage_update.Row]:
    rows = pairs(trees)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        scorer = load_scalar(folder)
        torch.nn.init.normal_(scorer.get_submodule("score").get_parameter("weight"), std=0.1)  # it is 0 at first
        save(scorer, words, beside.Path(folder))
        for passes in stage_update.passes(len(rows), args.pairs):
            stage = Reward(model=folder, groups="", judge="", algorithm=KWise("all_pairs", centre=0.0))
            scorer = stage.train_scalar(folder, 0)
            learner = Learner({"scorer": scorer}, stage_update.OPTIM, 10**6, pass_tokens=stage.pass_tokens)
            yield stage_update.compared(
                trainer(folder, words, rows, passes, args.steps),
                passes,
                stage_update.Stage(learner, stage.algorithm, trees),
                scorer,
                f"{len(rows) // passes} pairs a pass",
            )


def trainer(
    folder: str, words: PreTrainedTokenizerBase, rows: list[dict[str, Any]], passes: int, steps: int
) -> trl.RewardTrainer:
    config = trl.RewardConfig(**stage_update.settings(folder, rows, passes, steps))
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, attn_implementation="sdpa")
    data = datasets.Dataset.from_list(rows * (steps + 1))
    return trl.RewardTrainer(model=model, args=config, train_dataset=data, processing_class=words)


if __name__ == "__main__":
    stage_update.run(
        __doc__, NAMES, SHAPES, measured, drawn, functools.partial(stage_update.take_pairs, default=[4, 12, 10**6])
    )
