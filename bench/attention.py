"""Attention of an update alone: torch's kernel on blocks and the compiled operation, in turns.

    python bench/attention.py [--shape 8 128 8 32]… [--size 32]… [--width 192] [--threads 1] [--repeats 15] [--json]

A shape is groups, prompt, K, answer; K = 1 with a prompt of 0 tokens is plain rows. Heads of `--size` channels, as many as
fit `--width`. Milliseconds of a forward and a backward pass: the least of the turns, in time of the processor, which other
programs change least; so threads count together. `ratio` is torch's over ours for both passes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor
from update import SHAPES, forest

from tropism.models import trees
from tropism.tensors.attention import attention
from tropism.tensors.blocks import blocks
from tropism.tensors.collate import collate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("GROUPS", "PROMPT", "K", "ANSWER"))
    parser.add_argument("--size", type=int, action="append", help="channels of a head")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = []
    for shape in args.shape or SHAPES:
        for size in args.size or (32,):
            row = compared(tuple(shape), max(1, args.width // size), size, args.repeats)
            found.append({"shape": list(shape), "heads": max(1, args.width // size), "size": size, **row})
            if not args.json:
                print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    if args.json:
        print(json.dumps({"threads": args.threads, "shapes": found}))


def compared(shape: tuple[int, ...], heads: int, size: int, repeats: int) -> dict[str, float]:
    plan = blocks(collate(forest(shape, 512, False)))
    q, k, v = (torch.randn(1, heads, len(plan.kept_M), size).transpose(1, 2).contiguous() for _ in range(3))
    given = [x.requires_grad_() for x in (q, k, v)]
    slope, scale = torch.randn_like(q), size**-0.5

    def by_torch() -> Tensor:
        return trees._Attention.apply(*(x.transpose(1, 2) for x in given), plan, 0, scale)  # type: ignore[no-any-return]

    def compiled() -> Tensor:
        q_MHS, k_MHS, v_MHS = (x.squeeze(0) for x in given)
        return attention(q_MHS, k_MHS, v_MHS, plan.units, scale)[None]

    def run(way: Callable[[], Tensor]) -> tuple[float, float, list[Tensor]]:
        began = time.process_time()
        out = way()
        between = time.process_time()
        back = torch.autograd.grad(out, given, slope)
        return between - began, time.process_time() - between, [out, *back]

    times: dict[str, list[tuple[float, float]]] = {"torch": [], "ours": []}
    for _ in range(repeats):
        made = {}
        for name, way in (("torch", by_torch), ("ours", compiled)):
            *spent, made[name] = run(way)
            times[name].append((spent[0], spent[1]))
        for one, other in zip(made["torch"], made["ours"]):
            torch.testing.assert_close(one, other, atol=2e-5 * float(one.detach().abs().max()), rtol=1e-4)
    least = {name: [1e3 * min(x) for x in zip(*t)] for name, t in times.items()}
    row = {f"{name}_{part}": round(ms, 2) for name, t in least.items() for part, ms in zip(("forward", "backward"), t)}
    return {**row, "ratio": round(sum(least["torch"]) / sum(least["ours"]), 2)}


if __name__ == "__main__":
    main()
