"""Shared by `reward_step.py`, `dpo_step.py` and `sft_step.py`: one update of a stage against one of a trainer of TRL.

Both begin with the same weights and make the same updates (AdamW, one learning rate, gradients clipped at 1) on the same
tokens, so their losses have to stay equal; a difference of more than 1e-3 is an error. Ours is the loop of the stages
(`stages/_fit.py:train`), which lays the groups out anew for every update. The settings of TRL that are tried are named
in each benchmark; the fastest one counts. Texts are encoded before, on both sides.

Lengths are `varied` or `uniform`. Varied ones are log-normal around the mean that the shape says, with a deviation of
0.6 in the logarithm and at most 4 times the mean. Real ones differ more: 1.2 to 1.5 for the answers of published
preferences, 1.4 for Alpaca's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import beside_trl as beside
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from turns import Turns

from tropism.protocols import Algorithm
from tropism.stages import _fit
from tropism.tensors.batch import Batch
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner
from tropism.train.optim import Optim

RATE = 1e-3
SPREAD, MOST = 0.6, 4  # of varied lengths: the deviation of the logarithm, and the most over the mean
OPTIM = Optim(lr=RATE, schedule="constant", warmup=0.0, betas=(0.9, 0.999))  # the defaults of TRL
TELLING = 1e-3  # a difference of losses that is more than rounding

Row = dict[str, Any]
Tokens = Callable[[int], tuple[int, ...]]


def run(
    about: str | None,
    names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    measured: Callable[[PreTrainedModel, PreTrainedTokenizerBase, list[Tree], argparse.Namespace], Iterator[Row]],
    drawn: Callable[[Sequence[int], Tokens, Callable[[int], int]], list[Tree]],
    more: Callable[[argparse.ArgumentParser], object],
) -> None:
    """A benchmark: `drawn` makes the groups of a shape, and `measured` yields a row for each setting of TRL."""
    parser = beside.arguments(about, names)
    parser.add_argument("--lengths", nargs="+", choices=("varied", "uniform"), default=["varied", "uniform"])
    more(parser)
    args = parser.parse_args()
    found = []
    for shape in args.shape or shapes:
        for lengths in args.lengths:
            model, words = beside.loaded(args.model, args.wide)
            rng = random.Random(0)
            trees = drawn(shape, _tokens(rng, words), _lengths(rng, lengths))
            tried = [*measured(model, words, trees, args)]
            row = min(tried, key=lambda row: row["trl_s"])
            said = {"shape": list(shape), "lengths": lengths, "useful_tokens": sum(t.size for t in trees)}
            found.append(row | said | {"trl_tried": {row["trl"]: row["trl_s"] for row in tried}})
            if not args.json:
                print(f"{beside.said(found[-1])}   {lengths}; TRL {found[-1]['trl_tried']}", flush=True)
    if args.json:
        print(json.dumps(found))


def _tokens(rng: random.Random, words: PreTrainedTokenizerBase) -> Tokens:
    """A function that draws so many ordinary tokens."""
    ids = sorted({*range(len(words))} - {*words.all_special_ids})
    return lambda count: tuple(rng.choices(ids, k=count))


def _lengths(rng: random.Random, lengths: str) -> Callable[[int], int]:
    """A function that draws a length with this mean."""
    if lengths == "uniform":
        return lambda mean: mean

    def draw(mean: int) -> int:
        length = mean * math.exp(rng.gauss(-(SPREAD**2) / 2, SPREAD))
        return min(max(2, round(length)), MOST * mean)

    return draw


def group(number: int, prompt: tuple[int, ...], answers: Sequence[tuple[int, ...]]) -> Tree:
    """A tree whose answers are ranked in this order."""
    ranks = tuple(range(1, len(answers) + 1))
    trained = tuple((True,) * len(a) for a in answers)
    rewards = tuple(-float(r) for r in ranks)
    return Tree(str(number), prompt, tuple(answers), trained, (True,) * len(answers), reward=rewards, rank=ranks)


def passes(count: int, most: Sequence[int]) -> list[int]:
    """The numbers of equal passes over `count` pairs, of which each has at most so many."""
    return sorted({next(n for n in range(1, count + 1) if count % n == 0 and count // n <= pairs) for pairs in most})


def settings(folder: str, rows: Sequence[Row], passes: int, steps: int) -> dict[str, Any]:
    """Of a trainer of TRL that makes each update of all rows, in their order and in so many equal passes."""
    return {
        **beside.settings(folder, steps, RATE),
        "per_device_train_batch_size": len(rows) // passes,
        "gradient_accumulation_steps": passes,
        "train_sampling_strategy": "sequential",
        "max_length": None,
    }


def take_pairs(parser: argparse.ArgumentParser, default: list[int]) -> None:
    said = "at most so many in a pass of TRL; the fastest counts"
    parser.add_argument("--pairs", type=int, nargs="+", default=default, help=said)


class Stage:
    """One update of a stage with each call, on the same groups; returns the seconds of its parts. Keeps the losses."""

    def __init__(
        self,
        learner: Learner,
        algorithm: Algorithm,
        trees: Sequence[Tree],
        prepare: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.learner, self.algorithm, self.trees, self.prepare = learner, algorithm, trees, prepare
        self.losses: list[float] = []
        bar = SimpleNamespace(advance=lambda *_, **__: None, show=lambda **_: None)
        self.work: Any = SimpleNamespace(
            seed=0,
            progress=lambda *_: contextlib.nullcontext(bar),
            log=lambda loss, **_: self.losses.append(loss),
            due=lambda: False,
        )

    def __call__(self) -> dict[str, float]:
        data = _fit.Data(self.trees, self.learner.done + 1, groups=len(self.trees))
        parts: dict[str, float] = {}
        began = time.perf_counter()
        with (
            beside.clocked(_fit, "layout", parts, "layout"),
            beside.clocked(self.learner, "update", parts, "update"),
            beside.clocked(self, "prepare", parts, "reference") if self.prepare else contextlib.nullcontext(),
        ):
            given = {"prepare": self.prepare} if self.prepare else {}
            _fit.train(self.work, self.learner, self.algorithm, data, _fit.Place(), **given)
        return parts | {"whole": time.perf_counter() - began}


def compared(trainer: Any, passes: int, stage: Stage, model: PreTrainedModel, trl: str) -> Row:
    """The figures of our updates and the trainer's, which makes an update in so many passes. `trl` names its settings."""
    turns, theirs = Turns(stage), []
    training_step = trainer.training_step

    def noted(*given: Any, **named: Any) -> Any:
        loss = training_step(*given, **named)
        theirs.append(float(loss))
        return loss

    trainer.training_step = noted
    turns.train(trainer)
    summed = [sum(theirs[i : i + passes]) for i in range(0, len(theirs), passes)]
    difference = max(abs(a - b) for a, b in zip(summed, stage.losses, strict=True))
    if not difference <= TELLING:
        raise SystemExit(f"not the same work: the losses of TRL are {summed}, and ours {stage.losses}")
    row = turns.row(model, ())
    return row | {"trl": trl, "losses": stage.losses, "loss_difference": difference}
