"""One update in each layout: padded rows, shared rows under a dense mask, shared rows on blocks, side by side.

    padded   the model's own attention, on a row for each answer       rows     the same rows without padding, compiled
    dense    shared rows under a mask                                  blocks   shared rows on blocks, compiled
    torch    shared rows on blocks by torch's kernel

    python bench/update.py [--shape 8 128 8 32]… [--random 30] [--model 192x4x6x512] [--repeats 7] [--json]

A shape is groups, prompt, K, answer. Forward and backward (`train/loop.py:predict` and the loss) of the same tokens; the
layouts run in turns, so that a noisy machine is noisy for all, and the ratio to padded rows is the median of the turns'
ratios. Padded rows have no mask, as padding stands after them. Without a C compiler `rows` and `blocks` are torch's too.
`takes` is what a stage would take. `--random N` draws prompts and answers of 8 to 1,024 tokens (evenly in their logarithm)
and K of 2 to 16, with as many groups as make about `--tokens` tokens in padded rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tropism.algorithms.nll import NLL
from tropism.models import forward
from tropism.models import trees as blocks
from tropism.models.architecture import Architecture
from tropism.models.layout import ROW_TOKENS, cheapest, layout
from tropism.models.masks import states_under_mask
from tropism.models.trees import is_compiled, states_on_blocks
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.train.loop import predict

SHAPES = ((8, 128, 8, 32), (16, 16, 8, 32), (8, 16, 8, 128), (4, 64, 8, 256), (2, 256, 16, 256), (2, 512, 8, 128))
WAYS = ("dense", "torch", "blocks", "rows")  # besides padded rows
DENSE = 2048  # tokens of a row above which a dense mask is not tried: it takes minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("GROUPS", "PROMPT", "K", "ANSWER"))
    parser.add_argument("--random", type=int, default=0, help="so many random shapes")
    parser.add_argument("--tokens", type=int, default=8192, help="of a random shape, in padded rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="192x4x6x512", help="width x layers x heads x vocabulary")
    parser.add_argument("--uneven", action="store_true", help="answers of half the length to the whole")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--layouts", default="padded,dense,torch,blocks", help="besides padded rows and the one taken")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(args.seed)
    width, layers, heads, vocabulary = map(int, args.model.split("x"))
    config = Architecture(width=width, layers=layers, heads=heads).config(vocabulary)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    shapes = [tuple(s) for s in args.shape or ()] + [drawn(rng, args.tokens) for _ in range(args.random)] or SHAPES
    found = []
    for shape in shapes:
        found.append(compared(model, forest(shape, vocabulary, args.uneven), shape, args))
        if not args.json:
            print(line(found[-1]), flush=True)
    if args.json:
        print(json.dumps({"model": args.model, "threads": torch.get_num_threads(), "shapes": found}))
    elif len(found) > 1:
        ratios = [row["ratio"] for row in found]
        print(
            f"taken against padded rows: {min(ratios):.2f} at the worst, {statistics.median(ratios):.2f} in the middle"
        )


def drawn(rng: random.Random, tokens: int) -> tuple[int, int, int, int]:
    prompt, answer = (round(math.exp(rng.uniform(math.log(8), math.log(1024)))) for _ in range(2))
    k = rng.randint(2, 16)
    return max(1, round(tokens / (k * (prompt + answer)))), prompt, k, answer


def forest(shape: tuple[int, ...], vocabulary: int, uneven: bool) -> list[Tree]:
    rng = random.Random(0)
    groups, prompt, k, answer = shape

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(n))

    trees = []
    for g in range(groups):
        answers = tuple(tokens(rng.randint(max(answer // 2, 1), answer) if uneven else answer) for _ in range(k))
        trees.append(Tree(str(g), tokens(prompt), answers, tuple((True,) * len(a) for a in answers), (True,) * k))
    return trees


def compared(
    model: PreTrainedModel, forest: list[Tree], shape: tuple[int, ...], args: argparse.Namespace
) -> dict[str, Any]:
    shared, padded = collate(forest, ROW_TOKENS), collate(forest, shared=False)
    ways: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {
        "padded": by_torch()(lambda: update(model, padded)),
        "dense": lambda: update(model, shared, states_under_mask),
        "torch": by_torch()(lambda: update(model, shared, states_on_blocks)),
        "blocks": lambda: update(model, shared, states_on_blocks),
        "rows": lambda: update(model, padded),
    }
    auto, alone = layout(forest, model), "rows" if is_compiled(model) else "padded"
    taken = alone if not auto.shared else "blocks" if cheapest(model, auto) is states_on_blocks else "dense"
    wanted = [n for n in args.layouts.split(",") if n != "dense" or shared.tokens_BT.shape[1] <= DENSE]
    names = [n for n in ways if n in {*wanted, "padded", taken}]
    first = {name: ways[name]() for name in names}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.repeats):
        for name in names:
            began = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - began)
    row: dict[str, Any] = {"shape": list(shape), "takes": taken}
    for name in names:
        ratios = [p / t for p, t in zip(times["padded"], times[name])]
        row[name] = {
            "ms": round(1e3 * statistics.median(times[name]), 1),
            "ratio": round(statistics.median(ratios), 3),
            "low": round(min(ratios), 3),
            "high": round(max(ratios), 3),
            "logprob_difference": float((first[name][0] - first["padded"][0]).abs().max()),
            "gradient_difference": float(
                (first[name][1] - first["padded"][1]).abs().max() / first["padded"][1].abs().max()
            ),
        }
    row["ratio"] = row[taken]["ratio"]
    return row


def line(row: dict[str, Any]) -> str:
    text = f"{' x '.join(map(str, row['shape'])):>20}  takes {row['takes']:6}  padded {row['padded']['ms']:8.1f} ms"
    for name in WAYS:
        if name in row:
            one = row[name]
            text += f"  {name} {one['ms']:8.1f} ms {one['ratio']:5.2f} ({one['low']:.2f} to {one['high']:.2f})"
    return text + f"  gradient {max((row[n]['gradient_difference'] for n in WAYS if n in row), default=0.0):.0e}"


@contextlib.contextmanager
def by_torch() -> Iterator[None]:
    """Without the compiled attention; other operations stay."""
    usual, native = forward.is_compiled, blocks.native
    forward.is_compiled = lambda _: False
    blocks.native = SimpleNamespace(ready=lambda _: False)
    try:
        yield
    finally:
        forward.is_compiled, blocks.native = usual, native


def update(
    model: PreTrainedModel, batch: Batch, states: Callable[[PreTrainedModel, Batch], torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward; per-completion log-probabilities and the gradient as one vector."""
    usual = forward.cheapest
    if states is not None:
        forward.cheapest = lambda *_: states
    model.zero_grad(set_to_none=True)
    prediction = predict({"policy": model}, ("logprobs_BT",), batch)
    loss, _ = NLL().loss(batch, prediction)
    (loss.total / loss.count).backward()
    forward.cheapest = usual
    logprobs = prediction.need("logprobs_BT")
    by_completion = torch.zeros(batch.n).index_add(
        0, batch.completion_BT[batch.loss_mask_BT], logprobs.detach()[batch.loss_mask_BT]
    )
    return by_completion, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


if __name__ == "__main__":
    main()
