"""One update of SFT against TRL's SFTTrainer with packing on the same demonstrations, in turns in one process.

    python bench/sft_step.py [--shape 32 64 128]… [--lengths varied uniform] [--model FOLDER] [--steps 3] [--json]

It needs the extra `bench` (TRL 1.16).

A shape is demonstrations, tokens of a prompt, tokens of an answer; only answers are trained. Ours is the update of the
`sft` stage. TRL packs them ("bfd", its default) into rows and runs one row in a pass: several would become one longer row,
whose mask costs its square. Its settings: rows as long as the longest demonstration, and longer ones (`--rows`); no
gradient checkpointing. `stage_update.py` says what the lengths are and what else both have in common.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import stage_update
import trl
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tropism.algorithms.nll import NLL
from tropism.stages.sft import SFT
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner

NAMES = ("DEMONSTRATIONS", "PROMPT", "ANSWER")
SHAPES = ((32, 64, 128),)


def drawn(shape: Sequence[int], tokens: stage_update.Tokens, length: Callable[[int], int]) -> list[Tree]:
    number, prompt, answer = shape
    return [stage_update.group(g, tokens(length(prompt)), [tokens(length(answer))]) for g in range(number)]


def packed(trees: Sequence[Tree], row: int) -> list[dict[str, Any]]:
    """The demonstrations in rows of at most so many tokens."""
    found = [
        {"input_ids": [*t.prompt, *t.completions[0]], "labels": [-100] * len(t.prompt) + [*t.completions[0]]}
        for t in trees
    ]
    return trl.pack_dataset(datasets.Dataset.from_list(found), row, "bfd").to_list()


def measured(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, trees: list[Tree], args: argparse.Namespace
) -> Iterator[stage_update.Row]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for length in sorted({max(row, *(t.size for t in trees)) for row in args.rows}):
            rows = packed(trees, length)
            stage = SFT(model=folder, data=None)  # type: ignore[arg-type]  # the demonstrations are given
            policy = stage.train_lm(folder, 0)
            learner = Learner({"policy": policy}, stage_update.OPTIM, 10**6, pass_tokens=stage.pass_tokens)
            yield stage_update.compared(
                trainer(folder, words, rows, args.steps),
                len(rows),
                stage_update.Stage(learner, NLL(), trees),
                policy,
                f"{len(rows)} rows of {length}",
            )


def trainer(folder: str, words: PreTrainedTokenizerBase, rows: list[dict[str, Any]], steps: int) -> trl.SFTTrainer:
    config = trl.SFTConfig(
        **stage_update.settings(folder, rows, len(rows), steps),
        padding_free=True,  # as packing sets it; the rows are packed before, so that a step has all of them
    )
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    data = datasets.Dataset.from_list(rows * (steps + 1))
    return trl.SFTTrainer(model=model, args=config, train_dataset=data, processing_class=words)


def more(parser: argparse.ArgumentParser) -> None:
    said = "tokens of a packed row of TRL, 0: as the longest demonstration; the fastest counts"
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 1024], help=said)


if __name__ == "__main__":
    stage_update.run(__doc__, NAMES, SHAPES, measured, drawn, more)
