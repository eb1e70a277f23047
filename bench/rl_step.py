"""A step of RL, samples and reference and update, against TRL's trainer at its best settings, in turns in one process.

    python bench/rl_step.py [--peer grpo] [--shape 8 128 8 32]… [--model FOLDER] [--wide] [--steps 3] [--json]

It needs the extra `bench` (TRL 1.16).

A shape is prompts, tokens of each prompt, K, tokens of each answer. `--peer` is TRL's trainer, and our algorithm of that
name: `grpo` or `rloo`. Both sides (`rl_sides.py`) have the same model, prompts, K and a KL penalty, and make one optimiser
step on all samples of a round. The order of turns and the figures are those of `turns.py`; `parts` are the seconds of
our step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import beside_trl as beside
from rl_sides import NUMBERS, PEERS, SHAPES, ours, prepare, theirs
from turns import Turns


def main() -> None:
    parser = beside.arguments(__doc__, NUMBERS)
    parser.add_argument("--peer", choices=PEERS, default="grpo")
    args = parser.parse_args()
    rows = []
    for shape in args.shape or SHAPES:
        rows.append(measure(args, shape))
        if not args.json:
            print(f"{args.peer}, {beside.said(rows[-1])}", flush=True)
    if args.json:
        print(json.dumps(rows))


def measure(args: argparse.Namespace, shape: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(Path(folder), args.model, args.wide)
        turns = Turns(ours(Path(folder), shape, args.peer))
        turns.train(theirs(Path(folder), shape, args.steps, args.peer))
    return {"peer": args.peer, **turns.row(model, shape)}


if __name__ == "__main__":
    main()
