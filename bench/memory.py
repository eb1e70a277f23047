"""Peak memory of a step of RL, samples and reference and update, against TRL's trainer at its best settings.

    python bench/memory.py [--peer grpo] [--shape 8 128 8 32]… [--model FOLDER] [--wide] [--steps 2] [--json]

It needs the extra `bench` (TRL 1.16). Shapes and sides are those of `bench/rl_step.py`. Each side runs in a process of its
own, which makes `--steps` steps; the second has the optimiser's state too. `base` is a process that imports the libraries
of that side and loads the model once. `ratio` is of the peaks of whole processes, `ratio_without_base` of what the steps
add to that. `bench/memory_roles.py` measures adapters.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import beside_trl as beside
from rl_sides import NUMBERS, PEERS, SHAPES, load, ours, prepare, theirs

SIDES = ("ours", "trl")


def main() -> None:
    parser = beside.arguments(__doc__, NUMBERS)
    parser.set_defaults(steps=2)
    parser.add_argument("--peer", choices=PEERS, default="grpo")
    parser.add_argument("--side", choices=(*SIDES, "prepare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(run(args))
        return
    rows = []
    for shape in args.shape or SHAPES:
        rows.append(measure(args, shape))
        if not args.json:
            print(said(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))


def measure(args: argparse.Namespace, shape: Sequence[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = process(args, folder, shape, "prepare")
        peak = {side: process(args, folder, shape, side, args.steps) for side in SIDES}
        base = {side: process(args, folder, shape, side) for side in SIDES}
    return {
        "peer": args.peer,
        "model": model,
        "shape": list(shape),
        **{f"{side}_bytes": peak[side] for side in SIDES},
        **{f"{side}_base_bytes": base[side] for side in SIDES},
        "ratio": round(peak["ours"] / peak["trl"], 3),
        "ratio_without_base": round((peak["ours"] - base["ours"]) / (peak["trl"] - base["trl"]), 3),
    }


def process(args: argparse.Namespace, folder: str, shape: Sequence[int], side: str, steps: int = 0) -> int:
    """The number that a fresh process prints."""
    command = [sys.executable, __file__, "--side", side, "--folder", folder, "--peer", args.peer, "--steps", str(steps)]
    command += ["--shape", *map(str, shape), *(["--model", str(args.model)] if args.model else [])]
    command += ["--wide"] if args.wide else []
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()[-1])


def run(args: argparse.Namespace) -> int:
    """The peak resident bytes of this process after `steps` steps; of `prepare` the parameters of the model."""
    (shape,) = args.shape
    if args.side == "prepare":
        return prepare(args.folder, args.model, args.wide).num_parameters()
    if not args.steps:
        load(args.folder, args.side)
    elif args.side == "trl":
        from turns import Turns

        Turns(dict).train(theirs(args.folder, shape, args.steps - 1, args.peer))
    else:
        step = ours(args.folder, shape, args.peer)
        for _ in range(args.steps):
            step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def said(row: dict[str, Any]) -> str:
    numbers = "   ".join(
        f"{who} {row[f'{side}_bytes'] / 2**20:,.0f} MiB (base {row[f'{side}_base_bytes'] / 2**20:,.0f})"
        for side, who in zip(SIDES, ("tropism", "TRL"))
    )
    shape = " × ".join(map(str, row["shape"]))
    ratios = f"ratio {row['ratio']}, without base {row['ratio_without_base']}"
    return f"{row['peer']}, {shape}, {row['model']:,} parameters: {numbers}   {ratios}"


if __name__ == "__main__":
    main()
