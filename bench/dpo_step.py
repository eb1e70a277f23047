"""One update of DPO against TRL's DPOTrainer on the same pairs, in turns in one process.

    python bench/dpo_step.py [--shape 16 128 128]… [--lengths varied uniform] [--model FOLDER] [--steps 3] [--json]

It needs the extra `bench` (TRL 1.16).

A shape is pairs, tokens of a prompt, tokens of an answer. Ours is the update of the `offline` stage. Both run the
reference and then the policy in each update. TRL could keep what the reference says (`precompute_ref_log_probs`): in one
pass over the data that is the same work at another time. TRL's settings: pairs in order of their length, in one pass or in
several (`--pairs`), no gradient checkpointing; `padding_free` is switched off in TRL 1.16. `stage_update.py` says what the
lengths are and what else both have in common.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import stage_update
import trl
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tropism.stages.offline import Offline, filled
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner

NAMES = ("PAIRS", "PROMPT", "ANSWER")
SHAPES = ((16, 128, 128),)


def drawn(shape: Sequence[int], tokens: stage_update.Tokens, length: Callable[[int], int]) -> list[Tree]:
    pairs, prompt, answer = shape
    return [
        stage_update.group(g, tokens(length(prompt)), [tokens(length(answer)) for _ in range(2)]) for g in range(pairs)
    ]


def pairs(trees: Sequence[Tree]) -> list[dict[str, Any]]:
    """The pairs, the shortest first."""
    found = [
        {"prompt_ids": [*t.prompt], "chosen_ids": [*t.completions[0]], "rejected_ids": [*t.completions[1]]}
        for t in trees
    ]
    return sorted(found, key=lambda p: len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"])))


def measured(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, trees: list[Tree], args: argparse.Namespace
) -> Iterator[stage_update.Row]:
    rows = pairs(trees)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for passes in stage_update.passes(len(rows), args.pairs):
            stage = Offline(policy=folder, groups="", judge="")
            policy, reference = stage.train_lm(folder, 0), stage.freeze_lm(folder)
            learner = Learner({"policy": policy}, stage_update.OPTIM, 10**6, pass_tokens=stage.pass_tokens)
            fill = functools.partial(
                filled, algorithm=stage.algorithm, reference=reference, policy=policy, pass_tokens=stage.pass_tokens
            )
            yield stage_update.compared(
                trainer(folder, words, rows, passes, args.steps),
                passes,
                stage_update.Stage(learner, stage.algorithm, trees, fill),
                policy,
                f"{len(rows) // passes} pairs a pass",
            )


def trainer(
    folder: str, words: PreTrainedTokenizerBase, rows: list[dict[str, Any]], passes: int, steps: int
) -> trl.DPOTrainer:
    config = trl.DPOConfig(**stage_update.settings(folder, rows, passes, steps))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    text = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    made = trl.DPOTrainer(model=model, args=config, train_dataset=text, processing_class=words)
    made.train_dataset = datasets.Dataset.from_list(rows * (steps + 1))  # it takes no tokens, and makes such columns
    return made


if __name__ == "__main__":
    stage_update.run(
        __doc__, NAMES, SHAPES, measured, drawn, functools.partial(stage_update.take_pairs, default=[1, 4, 10**6])
    )
