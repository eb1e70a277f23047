"""Whether to ask people about the groups on which a panel of reward models differs, instead of random ones.

    python bench/selecting.py --seeds 21 22 23 24 25 [--runs runs/seeds] [--json]

For each seed the recipe `quickstart` is run as far as its rankings (finished runs in --runs, such as those of
bench/seeds.py, are read). People's answers are simulated: 4,000 groups of 7, of which 398 are for testing. Then

1. FIRST groups, drawn at random, are labelled, and MEMBERS reward models, which differ in their data order, learn them;
2. POOL others are ordered: at random, by the panel's spread (`feedback/select.py:spreads`), or, for comparison, by how many
   different answers they have, which costs no panel;
3. a reward model is trained from the SFT model on the first groups and as many of that order as the budget allows, and
   its accuracy is the share of pairs of answers, of groups for testing, that it orders as the truth does.

An order is drawn up once, not again as labels come in. The intervals are over seeds (each has its own SFT model, samples,
people and draws). The difference to random order is paired by seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tropism
from tropism import statistics
from tropism.algorithms.kwise import KWise
from tropism.feedback.select import spreads
from tropism.models.folder import context_of, load_lm
from tropism.models.forward import set_units
from tropism.models.layout import layout
from tropism.store.folder import latest
from tropism.store.groups import read_groups
from tropism.tensors.encode import PASS_TOKENS, ranks, spans, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train.loop import Learner, predict
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.types import Group, Judgment

RECIPE = Path(tropism.__file__).parent / "recipes" / "quickstart.toml"
LAST = "rankings"
FIRST, POOL, TEST, MEMBERS = 100, 1000, 200, 3
BUDGETS = (200, 400)  # labels spent, the first ones among them
ORDERS = ("random", "disagreement", "distinct")
PASSES, GROUPS_PER_STEP, RATE = 3, 8, 5e-4
ALGORITHM = KWise(likelihood="plackett_luce", running=0.5)


def labelled(seed: int, runs: Path) -> dict[str, Path]:
    """The finished stages of the recipe at this seed, as far as the rankings."""
    folder = runs / f"quickstart-{seed}"
    if folder.exists() and LAST in (found := latest(folder)):
        return found
    with tempfile.TemporaryDirectory() as scratch:
        text = RECIPE.read_text(encoding="utf-8")
        ids = [stage["id"] for stage in tomllib.loads(text)["stage"]]
        head = "[[stage]]".join(text.split("[[stage]]")[: ids.index(LAST) + 2])
        recipe = Path(scratch) / "quickstart.toml"
        recipe.write_text(head, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "tropism.cli",
            "run",
            str(recipe),
            "--set",
            f"seed={seed}",
            "--out",
            str(folder),
        ]
        subprocess.run([*command, "-q"], check=True, env=dict(os.environ))
    return latest(folder)


class Study:
    """One seed: its groups as trees, and reward models trained on some of them."""

    def __init__(self, seed: int, stages: dict[str, Path]) -> None:
        self.sft = str(stages["sft"] / "out")
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.sft)
        self.context = context_of(load_lm(self.sft))
        groups = list(read_groups(stages[LAST] / "out"))
        train = [g for g in groups if g.meta["split"] == "train"]
        random.Random(f"select {seed}").shuffle(train)
        self.seed, self.first, self.pool = seed, train[:FIRST], train[FIRST : FIRST + POOL]
        self.test = [g for g in groups if g.meta["split"] == "test"][:TEST]

    def tree(self, group: Group) -> Tree:
        rank = ranks(group.judged("annotator"))
        reward = tuple(-float(r) if r else None for r in rank)
        return dataclasses.replace(tree(group, self.tokenizer, self.context), rank=rank, reward=reward)

    def trained(self, groups: Sequence[Group], member: int = 0) -> PreTrainedModel:
        trees = [self.tree(g) for g in groups]
        model = load_lm(self.sft)
        scores = torch.tensor([s for of in self.scores(model, groups) for s in of])
        set_units(model, float(scores.mean()), float(scores.std()))
        steps = round(PASSES * len(trees) / GROUPS_PER_STEP)
        learner = Learner({"scorer": model}, Optim(lr=RATE), steps, pass_tokens=PASS_TOKENS)
        order = Order(len(trees), 1000 * self.seed + member)
        for _ in range(steps):
            batch = layout([trees[i] for i in order.take(GROUPS_PER_STEP)], model, ALGORITHM.predicts)
            learner.update(ALGORITHM, ALGORITHM.credit(batch))
        return model

    @torch.inference_mode()
    def scores(self, model: PreTrainedModel, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """A score for each completion of each group."""
        trees = [self.tree(g) for g in groups]
        parts = [
            predict({"scorer": model}, ("scores_N",), layout(piece, model, ("scores_N",))).need("scores_N")
            for piece in spans(trees, PASS_TOKENS)
        ]
        flat = iter(torch.cat(parts).tolist())
        return [tuple(next(flat) for _ in group.completions) for group in groups]

    def accuracy(self, model: PreTrainedModel) -> float:
        right, pairs = 0.0, 0
        for group, scores in zip(self.test, self.scores(model, self.test)):
            truth, said = np.array(group.judged("truth").scores), np.array(scores)
            i, j = np.triu_indices(len(truth), 1)
            apart = truth[i] != truth[j]
            same = np.sign(said[i] - said[j]) * np.sign(truth[i] - truth[j])
            right, pairs = right + float(((same[apart] + 1) / 2).sum()), pairs + int(apart.sum())
        return right / pairs

    def orders(self) -> dict[str, list[Group]]:
        panel = [self.scores(self.trained(self.first, 1 + m), self.pool) for m in range(MEMBERS)]
        spread = spreads([[Judgment("member", s) for s in said] for said in panel])
        distinct = [len({c.text.strip() for c in g.completions}) for g in self.pool]
        return {"random": self.pool, "disagreement": by(spread, self.pool), "distinct": by(distinct, self.pool)}

    def run(self) -> dict[str, float]:
        found = {f"first {FIRST}": self.accuracy(self.trained(self.first))}
        for name, ordered in self.orders().items():
            for budget in BUDGETS:
                chosen = ordered[: budget - FIRST]
                found[f"{name} {budget}"] = self.accuracy(self.trained([*self.first, *chosen]))
                found[f"{name} {budget} pairs"] = float(np.mean([pairs_of(g) for g in chosen]))
        return found


def by(values: Sequence[float], groups: Sequence[Group]) -> list[Group]:
    """The groups, the highest value first; equals stay in their random order."""
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: -values[i])]


def pairs_of(group: Group) -> int:
    """The pairs that the person told apart."""
    rank = np.array(ranks(group.judged("annotator")))
    i, j = np.triu_indices(len(rank), 1)
    return int((rank[i] != rank[j]).sum())


def table(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {key: statistics.mean([row[key] for row in rows]) for key in rows[0]}
    for name in ORDERS[1:]:
        for budget in BUDGETS:
            gains = [row[f"{name} {budget}"] - row[f"random {budget}"] for row in rows]
            found[f"{name} over random {budget}"] = statistics.mean(gains)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        torch.manual_seed(seed)
        rows.append(Study(seed, labelled(seed, args.runs)).run())
        print(f"seed {seed}: {json.dumps({k: round(v, 4) for k, v in rows[-1].items()})}", file=sys.stderr, flush=True)
    found = table(rows)
    if args.json:
        print(json.dumps({"seeds": args.seeds, "rows": rows, "figures": found}, indent=1))
        return
    for name, value in found.items():
        print(f"{name:30} {value['value']:8.4f} [{value['low']:.4f}, {value['high']:.4f}]")


if __name__ == "__main__":
    main()
